"""Faults at the n-th change of the file system: Python announces each one (PEP 578), and here it ends the process or fails.

What torch and other native code writes is not announced; see test_real_exporters.py for that.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["none", "kill", "tear", "full", "read-only", "pause"]

# Events, and which of their arguments is the path that changes, and which the descriptor of the folder it is relative to.
_CHANGES = {
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.truncate": (0, None),
    "os.chmod": (0, 2),
}
# What takes room; removing and renaming within a folder succeed on a full disk too, making an entry may not.
_GROWING = ("open", "os.rename", "os.link", "os.symlink", "os.mkdir")


@dataclass
class Fault:
    """kill: die before the change number `at`. tear: the same, with the file that was being written cut in half, as a death in
    the middle of writing leaves it. full, read-only: that change and all later ones fail. pause: wait before the first change
    of a path that holds `match`, until the file `until` is there. `below`: the folder whose changes count; `reads`: opening a
    file to read it counts too; `trace`: a descriptor that everything counted is written to."""

    kind: Kind = "none"
    at: int = 0
    below: str = "/"
    match: str = ""
    until: str = ""
    reads: bool = False
    trace: int = -1
    _count: int = 0
    _last_written: str | None = None
    _paused: bool = False
    _made: set[str] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.RLock)
    _busy: bool = False

    def install(self) -> None:
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and event not in _CHANGES:
            return
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                path = _changed(event, arguments, self.reads)
                # Two threads may both try to make a folder, or one of them alone; counted once, the count is the same.
                again = event == "os.mkdir" and path in self._made
                if path is not None and not again and (path == self.below or path.startswith(f"{self.below}/")):
                    self._made |= {path} if event == "os.mkdir" else set()
                    self._count += 1
                    os.write(self.trace, f"{event} {path}\n".encode())
                    self._strike(event, path)
                    self._last_written = path if event == "open" else None
            finally:
                self._busy = False

    def _strike(self, event: str, path: str) -> None:
        if self.kind == "pause" and self.match in path and not self._paused:
            self._paused = True
            driver = os.getppid()
            while not os.path.exists(self.until):
                time.sleep(0.01)
                if os.getppid() != driver:
                    # The tests ended without a word; nobody would wait for this one.
                    os._exit(1)
        if self._count < self.at:
            return
        if self.kind in ("kill", "tear"):
            if self.kind == "tear" and self._last_written is not None and os.path.isfile(self._last_written):
                os.truncate(self._last_written, os.path.getsize(self._last_written) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if self.kind == "full" and event in _GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def _changed(event: str, arguments: tuple[Any, ...], reads: bool) -> str | None:
    """The absolute path that the event changes (or reads), None for one that does not count."""
    if event == "open":
        path, _, flags = arguments
        writing = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return os.path.abspath(os.fsdecode(path)) if (writing or reads) and not isinstance(path, int) else None
    place, folder_place = _CHANGES[event]
    path = arguments[place]
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    folder = arguments[folder_place] if folder_place is not None else -1
    root = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    found = os.path.abspath(os.path.join(root, os.fsdecode(path)))
    # Path.mkdir(parents=True) tries from the leaf up, and what is there already stays.
    idle = event == "os.mkdir" and (os.path.isdir(found) or not os.path.isdir(os.path.dirname(found)))
    return None if idle else found
