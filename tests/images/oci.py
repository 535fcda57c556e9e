"""OCI archives, as `type=oci` outputs and `docker save` write them: index, manifest, config, blobs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast


class Archive:
    """One image in an OCI layout inside a tar file (image-spec, image-layout.md)."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115 - closed by __exit__
        self._members = {member.name: member for member in self._tar.getmembers()}
        index = json.loads(self._read("index.json"))
        assert len(index["manifests"]) == 1, "a plain image has one manifest"
        self.digest = str(index["manifests"][0]["digest"])
        self.manifest: dict[str, Any] = json.loads(self.blob(self.digest))
        self.config: dict[str, Any] = json.loads(self.blob(self.manifest["config"]["digest"]))
        self.layers = [str(layer["digest"]) for layer in self.manifest["layers"]]

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def blob(self, digest: str) -> bytes:
        """A blob's bytes, checked against their digest."""
        data = self._read(f"blobs/{digest.replace(':', '/')}")
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        return data

    def blobs(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Every file of the archive with its name, decompressed where it is gzip."""
        for name, member in self._members.items():
            if member.isfile():
                yield name, plain(self._open(name))

    @cached_property
    def entries(self) -> dict[str, list[tarfile.TarInfo]]:
        """What is in each layer, by the layer's digest."""
        return {digest: self._entries(digest) for digest in self.layers}

    @property
    def names(self) -> list[str]:
        """The paths of all layers' entries."""
        return [entry.name for entries in self.entries.values() for entry in entries]

    def file(self, digest: str, path: str) -> bytes:
        """One plain file of a layer."""
        with tarfile.open(fileobj=io.BytesIO(self.blob(digest))) as tar:
            file = tar.extractfile(path)
            assert file is not None
            return file.read()

    def _entries(self, digest: str) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=plain(self._open(f"blobs/{digest.replace(':', '/')}"))) as tar:
            return tar.getmembers()

    def _open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[name])
        assert file is not None
        return file

    def _read(self, name: str) -> bytes:
        return self._open(name).read()


def plain(file: IO[bytes]) -> IO[bytes]:
    """A stream of what a file holds: decompressed where it starts as gzip does; AssertionError for zstd."""
    magic = file.read(4)
    file.seek(0)
    assert magic != b"\x28\xb5\x2f\xfd", "a zstd layer cannot be read here; export with gzip or uncompressed"
    return cast(IO[bytes], gzip.open(file)) if magic[:2] == b"\x1f\x8b" else file


def ustar_frame(path: str, size: int) -> tuple[bytes, bytes]:
    """What stands before and after a file's bytes in its model layer, by the format that docs and notes fix.

    A plain ustar (POSIX.1-1988): a header for each parent folder (mode 755) and one for the file (644), all owned by 0:0 with no
    names and mtime 0; behind the data zeros to a multiple of 512, then 1024 more.
    """
    *folders, _ = path.split("/")
    headers = [_header("/".join(folders[: depth + 1]) + "/", 0o755, 0, b"5") for depth in range(len(folders))]
    before = b"".join(headers) + _header(path, 0o644, size, b"0")
    return before, bytes(-size % 512 + 1024)


def _header(name: str, mode: int, size: int, kind: bytes) -> bytes:
    encoded = name.encode()
    assert len(encoded) <= 100, f"{name} does not fit a ustar name field"
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, 0, 0, size, 0)
    rest = kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (0, 0) + bytes(167)
    blank = encoded.ljust(100, b"\0") + numbers + b" " * 8 + rest
    return blank.replace(b" " * 8, b"%06o\0 " % sum(blank), 1)
