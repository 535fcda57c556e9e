"""Small and read-only file systems, where this machine lets us mount them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@cache
def can_mount() -> bool:
    """Whether this process may mount: root outside of a container may, most others may not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 1 << 16) as disk:
                disk.resize(1 << 17)
                return True
        except OSError:
            return False


class Disk:
    """A tmpfs at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def resize(self, size: int) -> None:
        self._remount(f"size={size}")

    def set_read_only(self, read_only: bool) -> None:
        self._remount("ro" if read_only else "rw")

    def _remount(self, options: str) -> None:
        if not _mount("-o", f"remount,{options}", str(self._folder)):
            raise OSError(f"{self._folder} could not be mounted again with {options}")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """A tmpfs of `size` bytes at `folder`; OSError where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mounted = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    except FileNotFoundError:
        mounted = False
    if not mounted:
        raise OSError(f"no tmpfs could be mounted at {folder}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
