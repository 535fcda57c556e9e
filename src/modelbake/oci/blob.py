"""Blobs that need not be one file on the disk: pieces of memory and files, read or sent in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from modelbake.errors import IntegrityError, MachineError
from modelbake.files import CHUNK
from modelbake.oci import layer
from modelbake.oci.model import Descriptor


@dataclass(frozen=True)
class FilePart:
    """A whole file, which had `size` bytes when its digest was taken."""

    path: Path
    size: int

    def shorter(self) -> IntegrityError:
        """The error of a file that has fewer bytes than that by now."""
        return IntegrityError(
            f"{self.path} became shorter while it was read; run this again when nothing writes to it."
        )

    def open(self) -> FileIO:
        """The file, to be read; IntegrityError where it is gone, MachineError where it cannot be read."""
        try:
            return self.path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise IntegrityError(f"{self.path} is gone; build, pull or pack again what had it.") from error
        except OSError as error:
            raise MachineError(
                f"{self.path} cannot be read ({error.strerror}); give yourself the right to read it."
            ) from error


Piece = bytes | FilePart


@dataclass(frozen=True)
class Slice:
    """`size` bytes of a file from `offset` on, for a connection that sends them without reading them here."""

    part: FilePart
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; IntegrityError where the file is gone or became shorter, MachineError where it cannot be read."""
        with self.part.open() as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise self.part.shorter()
        return data


@dataclass(frozen=True)
class Blob:
    """A blob's descriptor and where its bytes are: the pieces, one behind the other."""

    descriptor: Descriptor
    pieces: tuple[Piece, ...]

    def parts(self, offset: int = 0) -> Iterator[tuple[Piece, int]]:
        """The pieces behind the blob's first `offset` bytes, each with how many of its own bytes to leave out."""
        for piece in self.pieces:
            size = piece.size if isinstance(piece, FilePart) else len(piece)
            if offset < size:
                yield piece, offset
            offset = max(0, offset - size)

    def slices(self, offset: int = 0) -> Iterator[bytes | Slice]:
        """The bytes from `offset` on, in pieces of some size, those of files not read yet."""
        for piece, skip in self.parts(offset):
            if isinstance(piece, bytes):
                yield piece[skip:]
                continue
            for start in range(skip, piece.size, CHUNK):
                yield Slice(piece, start, min(CHUNK, piece.size - start))

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on, in pieces of some size; errors as of `Slice.read`."""
        for piece in self.slices(offset):
            yield piece if isinstance(piece, bytes) else piece.read()


def of_bytes(data: bytes, descriptor: Descriptor) -> Blob:
    """The blob of `data`."""
    return Blob(descriptor, (data,))


def of_file(file: Path, descriptor: Descriptor) -> Blob:
    """The blob that the file is."""
    return Blob(descriptor, (FilePart(file, descriptor.size),))


def layer_pieces(path: str, file: Path, size: int) -> tuple[Piece, ...]:
    """The layer that holds the file of `size` bytes under `path` below an image's root."""
    return (layer.head(path, size), FilePart(file, size), layer.tail(size))
