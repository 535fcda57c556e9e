"""Looking for marked secrets in whatever an image is made of: blobs, compressed files inside layers, configuration."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tests.images.oci import Archive, plain

CHUNK = 1 << 20
# Files that hold others; a secret inside would not show in their bytes.
PACKED = (".gz", ".tgz", ".whl", ".zip", ".npz", ".egg")


def forms(mark: str) -> list[bytes]:
    """What to look for: the mark itself, and what it becomes inside base64 text at each of the three offsets."""
    found = [mark.encode()]
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + mark.encode() + bytes(2))
        # The characters at both ends depend on the neighbours.
        found.append(encoded[(offset * 4 + 2) // 3 + (offset > 0) : len(encoded) - 6])
    return found


def find(streams: Iterable[tuple[str, IO[bytes]]], marks: Iterable[str]) -> list[str]:
    """`place: mark` for every stream of (place, bytes) that holds one of the marks."""
    wanted = {mark: forms(mark) for mark in marks}
    longest = max(len(form) for some in wanted.values() for form in some)
    found = set()
    for place, stream in streams:
        rest = b""
        while piece := stream.read(CHUNK):
            data = rest + piece
            found |= {f"{place}: {mark}" for mark, some in wanted.items() if any(form in data for form in some)}
            rest = data[-longest:]
    return sorted(found)


def streams(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """All bytes of an image's archive: each blob plain, so with names, configuration and history, and what layers hold packed."""
    with Archive(archive) as image:
        yield from image.blobs()
        for digest in image.layers:
            yield from _packed(digest, io.BytesIO(image.blob(digest)))


def _packed(digest: str, blob: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=plain(blob)) as tar:
        for member in tar:
            if not member.isfile() or not member.name.endswith(PACKED):
                continue
            file = tar.extractfile(member)
            assert file is not None
            for name, data in _unpacked(file):
                yield f"{digest} {member.name}{name}", io.BytesIO(data)


def _unpacked(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as zipped:
            for name in zipped.namelist():
                yield f"!{name}", zipped.read(name)
        return
    file.seek(0)
    try:
        yield "", gzip.decompress(file.read())
    except (gzip.BadGzipFile, EOFError, zlib.error):
        # Named so, but something else: its bytes were looked at as they are.
        return
