"""Which repositories of a registry were seen to have a blob, so that another one can have it mounted instead of sent."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

# A repository may have been deleted meanwhile; more than these are not asked.
_MOST = 3


class Known:
    """A memory in `folder`/registries.sqlite for all processes; one that cannot be used is as good as none.

    It is a hint only: a registry mounts nothing that it does not have, or that the caller may not read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "registries.sqlite"

    def note(self, host: str, repository: str, digest: str) -> None:
        """The repository has the blob."""
        with suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as store, store:
                store.execute(
                    "CREATE TABLE IF NOT EXISTS blobs (host TEXT, digest TEXT, repository TEXT, PRIMARY KEY (host, digest, repository))"
                )
                store.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (host, digest, repository))

    def repositories(self, host: str, digest: str) -> list[str]:
        """Some repositories of that registry which had it."""
        with suppress(sqlite3.Error), closing(self._open()) as store:
            rows = store.execute(
                "SELECT repository FROM blobs WHERE host = ? AND digest = ? ORDER BY rowid DESC LIMIT ?",
                (host, digest, _MOST),
            )
            return [str(row[0]) for row in rows]
        return []

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=1.0)
