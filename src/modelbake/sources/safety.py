"""Refusing what could run code when it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from modelbake.errors import RefusedError

# The opcode PROTO, with which every pickle of protocol 2 and later begins (pickletools), and the protocols that exist.
_PROTO = 0x80
_PROTOCOLS = range(2, 6)


def refuse_pickle(path: Path, what: str) -> None:
    """RefusedError where the file is a bare pickle or an archive of torch.save, which holds one."""
    with path.open("rb") as file:
        head = file.read(2)
    bare = len(head) == 2 and head[0] == _PROTO and head[1] in _PROTOCOLS
    if bare or (head == b"PK" and _holds_pickle(path)):
        raise RefusedError(
            f"{what} is a pickle, which can run code when it is read. Take the same weights as safetensors."
        )


def _holds_pickle(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())
