"""Where a blob's bytes go: into a file of the store, or as a layer into the file that it holds. Each hashes what it keeps."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelbake.files import CHUNK, WriteBehind
from modelbake.layers import IMAGE_ROOT
from modelbake.manifest import FileRef
from modelbake.oci import layer
from modelbake.oci.model import Descriptor


class FileSink:
    """The blob of that descriptor into the file `path`, which keeps what came of it when it is cut."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self._file = path.open("a+b", buffering=0)
        self._behind = WriteBehind(self._file.fileno())
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._expected = descriptor.hex
        self._begin, self._end = 0, descriptor.size

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take_up(self) -> int:
        """Hash what came earlier, and tell how many of the blob's bytes that makes; the next byte follows them."""
        there = os.fstat(self._file.fileno()).st_size
        if not 0 < there <= self._end - self._begin:
            self.restart()
            return 0
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            self._sha256.update(chunk)
        self._size = there
        return self._begin + there

    def write(self, chunk: bytes) -> None:
        """The next bytes."""
        self._keep(memoryview(chunk))

    def restart(self) -> None:
        """Throw away what came: the next byte is the first."""
        self._file.truncate(0)
        self._size = 0
        self._sha256 = hashlib.sha256()

    def wrong(self) -> str | None:
        """Why what came is not what should have, in words, or None."""
        found = self._sha256.hexdigest()
        if found == self._expected and self._size == self._end - self._begin:
            return None
        return f"its {self._size:,} bytes are of sha256:{found}"

    def finish(self) -> None:
        """Everything on the disk, as a file that everybody may read."""
        os.fsync(self._file.fileno())
        os.fchmod(self._file.fileno(), 0o644)

    def _keep(self, view: memoryview) -> None:
        self._sha256.update(view)
        while view:
            written = self._file.write(view)
            self._size += written
            self._behind.grown(self._size)
            view = view[written:]


class LayerSink(FileSink):
    """The layer of a file into that file, `path`.

    The file's own digest is checked, as the bundle's manifest lists it, and what is around it in the layer byte by byte: that pins
    every byte of the layer, whatever digest the image gives for it.
    """

    def __init__(self, path: Path, ref: FileRef, descriptor: Descriptor) -> None:
        super().__init__(path, descriptor)
        self._expected = ref.sha256
        self._head = layer.head(f"{IMAGE_ROOT}/{ref.path}", ref.size)
        self._tail = layer.tail(ref.size)
        self._begin, self._end = len(self._head), len(self._head) + ref.size
        self._path = ref.path
        self._at = 0
        self._strange = False

    def __enter__(self) -> LayerSink:
        return self

    def take_up(self) -> int:
        """As for any sink; the layer's head is taken to have come with the file's first byte."""
        self._at = super().take_up()
        return self._at

    def write(self, chunk: bytes) -> None:
        """The layer's next bytes."""
        view = memoryview(chunk)
        while view:
            if self._at < self._begin:
                taken = view[: self._begin - self._at]
                self._strange |= taken != self._head[self._at : self._at + len(taken)]
            elif self._at < self._end:
                taken = view[: self._end - self._at]
                self._keep(taken)
            else:
                taken = view
                start = self._at - self._end
                self._strange |= taken != self._tail[start : start + len(taken)]
            self._at += len(taken)
            view = view[len(taken) :]

    def restart(self) -> None:
        """Throw away what came: the next byte is the first."""
        super().restart()
        self._at = 0
        self._strange = False

    def wrong(self) -> str | None:
        """Why what came is not the layer of that file, in words, or None."""
        if self._strange:
            return f"it is not the layer of {self._path}: its archive holds another file, or several"
        found = super().wrong()
        return found and f"the file {self._path} in it has other bytes than the bundle's manifest lists"
