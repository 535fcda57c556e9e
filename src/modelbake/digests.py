"""SHA-256 of files, remembered as long as the file system says that a file is the one that was hashed."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from modelbake.files import sha256_of
from modelbake.manifest import FileRef

# Nanoseconds. A file that was changed this lately might be changed again without its time stamps telling: they have the grain of
# the kernel's clock tick, or of a whole second or two on some file systems.
SETTLED = 3_000_000_000
# The longest tick of the kernel's clock, by which it stamps files where stamps are as fine as nanoseconds, twice over.
TICK = 20_000_000


class Digests:
    """The digests of files by device, inode, size and time stamps, kept in `folder`/digests.sqlite for all processes.

    The time of the inode's last change counts too, which no program can set: bytes that were written over, even with their old
    time stamp restored, are hashed again. Bits that rot on the disk are not noticed here; `modelbake verify` hashes everything.
    A store that cannot be used is as good as none.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "digests.sqlite"

    def sha256(self, path: Path) -> str:
        """SHA-256 of the file, in hexadecimal; OSError where it cannot be read."""
        return self.remembered(path, "", lambda: sha256_of(path))

    def remembered(self, path: Path, label: str, taken: Callable[[], str]) -> str:
        """What `taken` gives, a digest taken over the file's bytes and more that `label` tells; OSError where it cannot be read."""
        before = _identity(path)
        known = self._recall(before + label)
        if known is not None:
            return known
        sha256 = taken()
        stat = path.stat()
        if _identity(path) == before and time.time_ns() - max(stat.st_ctime_ns, stat.st_mtime_ns) > SETTLED:
            self._remember(before + label, sha256)
        return sha256

    def note(self, written: Mapping[Path, tuple[str, str, int]]) -> None:
        """Remember what `remembered` would take, of files that were written and hashed just now: label, digest, and the time of
        the file's last change (`st_mtime_ns`) when it was hashed.

        Nothing is remembered of one that was changed or taken away since, or whose file system has time stamps too coarse to tell.
        """
        stats = {path: stat for path in written if (stat := _stat(path)) is not None}
        latest = max((stat.st_ctime_ns for stat in stats.values()), default=0)
        # A change within the same tick of the kernel's clock as the renaming would not show.
        time.sleep(min(max(0.0, (latest + TICK - time.time_ns()) / 1e9), TICK / 1e9))
        for path, stat in stats.items():
            label, sha256, mtime_ns = written[path]
            fine = stat.st_ctime_ns % 1_000_000 != 0
            if fine and stat.st_mtime_ns == mtime_ns and _stat(path) == stat:
                self._remember(_identity_of(stat) + label, sha256)

    def refs(self, root: Path) -> tuple[FileRef, ...]:
        """References to all files below `root`, sorted by path."""
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return tuple(FileRef(path, self.sha256(root / path), (root / path).stat().st_size) for path in paths)

    def known(self, path: Path) -> str | None:
        """SHA-256 of the file where it is remembered."""
        return self._recall(_identity(path))

    def _recall(self, identity: str) -> str | None:
        with suppress(sqlite3.Error), closing(self._open()) as store:
            row = store.execute("SELECT sha256 FROM digests WHERE identity = ?", (identity,)).fetchone()
            return str(row[0]) if row else None
        return None

    def _remember(self, identity: str, sha256: str) -> None:
        with suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as store, store:
                store.execute("CREATE TABLE IF NOT EXISTS digests (identity TEXT PRIMARY KEY, sha256 TEXT NOT NULL)")
                store.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (identity, sha256))

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=1.0)


def _identity(path: Path) -> str:
    return _identity_of(path.stat())


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _identity_of(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
