"""Deploying weights of one's own: the places where a build looks for them, and how it tells them from what it wrote itself."""

from __future__ import annotations

import struct
from pathlib import Path

from modelbake.errors import IntegrityError, SourceUnreachableError

# A state dict of the regressor has 0.7 MB. Whatever is far larger is something else, and is not read.
LARGEST_WEIGHTS = 16 << 20

# A build's own output stands at one of the places. It bears this mark as the comment of its archive (APPNOTE.TXT, 4.3.16),
# which torch.load passes over. So it is known without the manifest or the cache that it came with: after a build that was
# killed before its manifest was written, and in an image's build, which has neither.
BUILD_MARK = b"modelbake: written by a build"
_END_OF_ARCHIVE = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"


def places(model: str) -> tuple[str, ...]:
    """Where weights of the model are looked for, first to last, relative to the models folder."""
    stem = model.replace("/", "_")
    names = (f"{stem}_pretrained.pth", f"{stem}.pth")
    return (*names, *(f"regressor/{name}" for name in names))


def output_place(model: str) -> str:
    """Where a build puts the weights that it exported."""
    return places(model)[2]


def find(models_dir: Path, model: str) -> str | None:
    """The first place that holds weights which somebody put there; None: nobody did.

    A build's own output at its own place does not count, a copy of it at another place does.
    """
    for place in places(model):
        path = models_dir / place
        # A link that leads nowhere was meant to lead somewhere; reading it says so.
        if (path.exists() or path.is_symlink()) and not (place == output_place(model) and is_marked(path)):
            return place
    return None


def read(path: Path) -> bytes:
    """The bytes of deployed weights, which are not looked into here; IntegrityError: far too many, SourceUnreachableError."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_WEIGHTS + 1)
    except OSError as error:
        raise SourceUnreachableError(
            f"{path}: these weights cannot be read ({error.strerror}). Put a file there that can, or take it away."
        ) from error
    if len(data) > LARGEST_WEIGHTS:
        raise IntegrityError(
            f"{path} has more than {LARGEST_WEIGHTS >> 20} MiB and cannot be the weights of a boundary regressor. "
            "Put the right file there, or take it away."
        )
    return data


def mark(archive: bytes) -> bytes:
    """An archive of torch.save that has no comment, with the mark."""
    *end, comment_length = _END_OF_ARCHIVE.unpack(archive[-_END_OF_ARCHIVE.size :])
    assert (end[0], comment_length) == (_END_SIGNATURE, 0), "torch.save wrote another kind of archive"
    return archive[:-2] + struct.pack("<H", len(BUILD_MARK)) + BUILD_MARK


def is_marked(path: Path) -> bool:
    """Whether the file is an archive with the mark, that is, what a build wrote."""
    tail = struct.pack("<H", len(BUILD_MARK)) + BUILD_MARK
    whole = _END_OF_ARCHIVE.size - 2 + len(tail)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - whole))
            end = file.read()
    except OSError:
        return False
    return end.startswith(_END_SIGNATURE) and end.endswith(tail) and len(end) == whole
