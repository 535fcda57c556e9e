"""Refusing what could run code when it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from modelbake.errors import RefusedError

# The opcode PROTO, with which every pickle of protocol 2 and later begins (pickletools), and the protocols that exist.
_PROTO = 0x80
_PROTOCOLS = range(2, 6)
# The first member's header (APPNOTE.TXT, 4.3.7), by which torch.load knows an archive.
_ZIP = b"PK\3\4"
_LONGEST_HEADER = 100_000_000
# Names under which pickles are passed on. Protocols 0 and 1 begin with no mark, so there the name has to do.
_NAMES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")


def refuse_pickle(path: Path, name: str, what: str) -> None:
    """RefusedError where the file is a bare pickle or an archive of torch.save, which holds one, or where `name`, which it has at
    its source, is one that such files bear."""
    with path.open("rb") as file:
        head = file.read(4)
    bare = len(head) >= 2 and head[0] == _PROTO and head[1] in _PROTOCOLS
    if name.lower().endswith(_NAMES) or bare or (head == _ZIP and _holds_pickle(path)):
        raise RefusedError(
            f"{what} is a pickle or an archive that may hold one, which can run code when it is read. "
            "Take the same weights as safetensors."
        )


def refuse_unsafe_tensors(path: Path) -> None:
    """RefusedError where the file is called .safetensors and is none: pickles of protocols 0 and 1 bear no mark of their own.

    The format: the header's length as 8 bytes, little-endian, at most 100 MB, then that much JSON, which begins with `{`
    (safetensors' README, "Format").
    """
    if path.suffix.lower() != ".safetensors":
        return
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:] != b"{" or length > _LONGEST_HEADER or 8 + length > path.stat().st_size:
        raise RefusedError(
            f"{path} is called safetensors, but is no such file; whatever it is, it is not read. Take the weights from another source."
        )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        # torch.load reads archives that zipfile does not; one whose list of members is damaged cannot be judged.
        return True
