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
from modelbake.errors import IntegrityError, RefusedError

BLOCK = 512
# Two empty blocks end a tar.
_END = bytes(2 * BLOCK)
_LARGEST_OCTAL_SIZE = 8**11 - 1
# What ustar's fields for a name and for what goes before it hold, in bytes.
_NAME, _PREFIX = 100, 155
# A file of such a name takes another away (OCI image-spec, layer.md).
_WHITEOUT = ".wh."
# No file has a longer `head`: whoever has this many of a layer's first bytes has all of it.
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


def check_path(path: str, where: str) -> None:
    """RefusedError, which names `where` the path is from, where no layer may hold it."""
    safe_relative_path(path, where)
    if any(part.startswith(_WHITEOUT) for part in path.split("/")):
        raise RefusedError(
            f"{where} names the path {path!r}, which in a layer would delete files of an image; give the file another name."
        )
    if len(head(path, _LARGEST_OCTAL_SIZE + 1)) > MOST_HEAD:
        raise RefusedError(
            f"{where} names the path {path[:200]!r}, in folders deeper than a layer may have; shorten it."
        )


def read_head(data: bytes, where: str, total: int | None = None) -> Entry:
    """The file of a layer in this format, from the layer's first bytes (all of `head`, or more).

    `total` is the size of the whole layer in bytes, as its descriptor gives it: with it a layer that holds more than the one file
    is found too. IntegrityError where the layer is none of this format: another kind of member, another owner or mode, another
    length. RefusedError where the path leaves the root or would delete files. Nothing but `head` of the found path and size is
    taken, so two layers of equal path and content have equal bytes, if behind the content stands `tail`: whoever reads to the end
    must compare that, since a reader of tar would take what else stands there for members.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
            member = next((member for member in tar if not member.isdir()), None)
    except (tarfile.TarError, EOFError, ValueError, LookupError, OverflowError) as error:
        raise IntegrityError(f"{where} is no layer of one file ({error}).") from error
    if member is None or not member.isreg():
        raise IntegrityError(
            f"{where} is no layer of one file: it holds {'none' if member is None else 'something else'}."
        )
    path, size = member.name, member.size
    # Bytes that are no UTF-8 come as lone surrogates, which head() cannot encode.
    readable = not any("\ud800" <= character <= "\udfff" for character in path)
    if readable:
        check_path(path, where)
    if not readable or size < 0 or not data.startswith(head(path, size)) or total not in (None, length(path, size)):
        raise IntegrityError(f"{where} is no layer of modelbake's format; bake or pack the bundle with modelbake.")
    return Entry(path, member.offset_data, size)


def _member(name: str, size: int, kind: bytes) -> bytes:
    """A member's header as Go's archive/tar writes it (common.go, writer.go, strconv.go), with a PAX header where it needs one."""
    mode = 0o755 if kind == b"5" else 0o644
    encoded = name.encode()
    fits = len(encoded) <= _NAME and name.isascii()
    prefix, base = (b"", encoded) if fits else _split(encoded)
    if (fits or prefix) and size <= _LARGEST_OCTAL_SIZE:
        return _block(base, mode, size, kind, prefix)
    records = b"" if fits else _record("path", name)
    if size > _LARGEST_OCTAL_SIZE:
        records += _record("size", str(size))
    folder, last = posixpath.split(name)
    shadow = _ascii(posixpath.join(folder, "PaxHeaders.0", last))[:_NAME].rstrip(b"/")
    return (
        _block(shadow, 0, len(records), b"x")
        + records
        + bytes(-len(records) % BLOCK)
        + _block(_ascii(name), mode, size, kind)
    )


def _split(name: bytes) -> tuple[bytes, bytes]:
    """The name for ustar's two fields: the longest prefix of whole folders that fits, and the rest; no prefix where none will do."""
    end = _PREFIX + 1 if len(name) > _PREFIX + 1 else len(name.rstrip(b"/"))
    prefix, _, base = name[:end].rpartition(b"/")
    base += name[end:]
    if not name.isascii() or not prefix or not 0 < len(base) <= _NAME:
        return b"", name
    return prefix, base


def _block(name: bytes, mode: int, size: int, kind: bytes, prefix: bytes = b"") -> bytes:
    # Of a name that is cut, no slash stands at the end, lest a file pass for a folder.
    field = name if len(name) <= _NAME else name[:_NAME].rstrip(b"/")
    block = bytearray(BLOCK)
    block[0 : len(field)] = field
    block[100:108] = b"%07o\0" % mode
    block[108:116] = block[116:124] = b"%07o\0" % 0
    block[124:136] = b"%011o\0" % (size if size <= _LARGEST_OCTAL_SIZE else 0)
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    # A PAX header's own block has no device numbers.
    if kind != b"x":
        block[329:337] = block[337:345] = b"%07o\0" % 0
    block[345 : 345 + len(prefix)] = prefix
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
