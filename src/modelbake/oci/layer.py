"""The layer format: one file of a bundle as an uncompressed tar whose bytes depend on its path and content alone.

It is what BuildKit makes of `COPY --link` from a tree of that one file (modelbake.layers): Go's archive/tar with the parent folders
(mode 755) and the file (mode 644), owner and time stamps 0, as ustar, with a PAX header (POSIX.1-2001) where ustar's fields are too
small. So baked, packed and grafted images hold the very same blobs.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelbake.bundle import safe_relative_path
from modelbake.errors import IntegrityError

BLOCK = 512
# Two empty blocks end a tar.
_END = bytes(2 * BLOCK)
_LARGEST_OCTAL_SIZE = 8**11 - 1
_NAME = 100
# More than `head` of any path that a file system takes.
MOST_HEAD = 1 << 16


@dataclass(frozen=True)
class Entry:
    """The file in a layer: its path below the root, where its bytes begin in the tar, and how many they are."""

    path: str
    offset: int
    size: int


def head(path: str, size: int) -> bytes:
    """What stands before the bytes of the file `path` (below the root, no leading slash) of `size` bytes."""
    folders = [str(folder) for folder in reversed(PurePosixPath(path).parents)][1:]
    return b"".join(_member(f"{folder}/", 0, b"5") for folder in folders) + _member(path, size, b"0")


def tail(size: int) -> bytes:
    """What stands behind the bytes of a file of `size` bytes: zeros to the end of its block, and the end of the tar."""
    return bytes(-size % BLOCK) + _END


def label(path: str, sha256: str) -> str:
    """What modelbake.digests remembers the digest of the layer by, of the file that the manifest lists with that digest."""
    return f"layer {path} {sha256}"


def length(path: str, size: int) -> int:
    """How many bytes the layer of the file has."""
    return len(head(path, size)) + size + len(tail(size))


def read_head(data: bytes, where: str) -> Entry:
    """The file of a layer in this format, from the layer's first bytes (all of `head`, or more).

    IntegrityError where the layer is none of this format: another kind of member, another owner or mode, a second file.
    RefusedError where the path leaves the root. Nothing but `head` of the found path and size is taken, so two layers of equal
    path and content have equal bytes.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
            member = next((member for member in tar if not member.isdir()), None)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise IntegrityError(f"{where} is no layer of one file ({error}).") from error
    if member is None or not member.isreg():
        raise IntegrityError(
            f"{where} is no layer of one file: it holds {'none' if member is None else 'something else'}."
        )
    path = member.name
    safe_relative_path(path, where)
    if not data.startswith(head(path, member.size)):
        raise IntegrityError(f"{where} is no layer of modelbake's format; bake or pack the bundle with modelbake.")
    return Entry(path, member.offset_data, member.size)


def _member(name: str, size: int, kind: bytes) -> bytes:
    """A member's header as Go's archive/tar writes it (writer.go, strconv.go, format.go), PAX header included."""
    records = {}
    if len(name) > _NAME or not name.isascii():
        records["path"] = name
    if size > _LARGEST_OCTAL_SIZE:
        records["size"] = str(size)
    mode = 0o755 if kind == b"5" else 0o644
    if not records:
        return _block(name.encode(), mode, size, kind)
    extended = b"".join(_record(key, records[key]) for key in sorted(records))
    folder, base = posixpath.split(name)
    shadow = posixpath.join(folder, "PaxHeaders.0", base)
    return (
        _block(_ascii(shadow)[:_NAME].rstrip(b"/"), 0, len(extended), b"x", shadow=True)
        + extended
        + bytes(-len(extended) % BLOCK)
        + _block(_ascii(name), mode, size, kind)
    )


def _block(name: bytes, mode: int, size: int, kind: bytes, shadow: bool = False) -> bytes:
    field = name[:_NAME]
    if len(name) > _NAME and field.endswith(b"/"):
        field = field.rstrip(b"/")
    block = bytearray(BLOCK)
    block[0 : len(field)] = field
    block[100:108] = b"%07o\0" % mode
    block[108:116] = block[116:124] = b"%07o\0" % 0
    block[124:136] = b"%011o\0" % (size if size <= _LARGEST_OCTAL_SIZE else 0)
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    if not shadow:
        block[329:337] = block[337:345] = b"%07o\0" % 0
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "ignore")


def _record(key: str, value: str) -> bytes:
    """`LENGTH key=value` and a line feed, where the length counts itself."""
    rest = f" {key}={value}\n".encode()
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return str(length).encode() + rest
