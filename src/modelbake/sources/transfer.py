"""One file from one source into the blob store: resumed, hashed while it arrives, tried again, checked, renamed into place."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from modelbake.digests import Digests
from modelbake.errors import IntegrityError
from modelbake.files import CHUNK, disk_errors
from modelbake.output import Progress
from modelbake.patience import CancelledDownloadError, Patience, TransientError
from modelbake.sources.base import NoSuchRangeError, RemoteFile, Source

# A try that brought at least one byte starts the count again: a slow, breaking line still gets there.
FRUITLESS_TRIES = 5


@dataclass(frozen=True)
class Blob:
    """A file in the blob store: where it lies, its SHA-256 and size in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class BlobStore:
    """Files by content below `folder`: `sha256/<digest>`; what is on its way lies in `partial/`, where a next run goes on."""

    folder: Path
    digests: Digests

    def has(self, sha256: str) -> bool:
        """Whether a blob of that digest is here, by its name alone."""
        return (self.folder / "sha256" / sha256).is_file()

    def find(self, sha256: str) -> Blob | None:
        """The blob of that digest if it is here and its bytes still are those."""
        path = self.folder / "sha256" / sha256
        if not path.is_file() or self.digests.sha256(path) != sha256:
            return None
        return Blob(path, sha256, path.stat().st_size)

    def download(
        self, source: Source, path: str, expected: RemoteFile, progress: Progress, stop: threading.Event
    ) -> Blob:
        """Bring `path` of `source` here and return its blob.

        `expected` must hold a digest. Raises IntegrityError where the bytes are not those, SourceUnreachableError where they
        cannot be had, MachineError where the disk does not take them, CancelledDownloadError after `stop`.
        """
        partial = self.folder / "partial" / identity(expected, path, source)
        with disk_errors(self.folder):
            partial.parent.mkdir(parents=True, exist_ok=True)
            with _held(Path(f"{partial}.lock"), stop):
                present = self.find(expected.sha256) if expected.sha256 else None
                return present or self._download_locked(_Transfer(source, path, expected, partial, progress, stop))

    def _download_locked(self, transfer: _Transfer) -> Blob:
        try:
            sha256 = transfer.run()
        except IntegrityError:
            transfer.partial.unlink(missing_ok=True)
            if not transfer.resumed:
                raise
            # What was there before may be the part that is wrong, so once more from the first byte.
            sha256 = transfer.run()
        target = self.folder / "sha256" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        size = transfer.partial.stat().st_size
        os.replace(transfer.partial, target)
        return Blob(target, sha256, size)


def identity(expected: RemoteFile, path: str, source: Source) -> str:
    """The name that the bytes of `expected` have before their SHA-256 is known; IntegrityError where no digest is given."""
    if expected.sha256 is not None:
        return expected.sha256
    if expected.git_oid is not None:
        return f"git-{expected.git_oid}"
    raise IntegrityError(
        f"{path}: neither the definition nor {source.label} gives a digest, so its bytes cannot be checked. "
        "Add its sha256 to the bundle.toml."
    )


@contextmanager
def _held(path: Path, stop: threading.Event) -> Iterator[None]:
    """The lock file `path`, waited for until `stop`: another process may hold it for as long as its download takes."""
    lock = FileLock(path)
    while not lock.is_locked:
        if stop.is_set():
            raise CancelledDownloadError("The download was stopped.")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


class _Transfer:
    """The tries at one file; `partial` holds what has arrived and outlives the process.

    `resumed` says whether the last try went on from bytes that were already there.
    """

    def __init__(
        self, source: Source, path: str, expected: RemoteFile, partial: Path, progress: Progress, stop: threading.Event
    ) -> None:
        self.source, self.path, self.expected, self.partial = source, path, expected, partial
        self.progress, self.stop = progress, stop
        self.resumed = False
        self._furthest = 0

    def run(self) -> str:
        """Bring the whole file into `partial` and return its SHA-256."""
        self._furthest = self._have()
        return Patience(FRUITLESS_TRIES, self.stop).run(self._try, self._gained)

    def _gained(self) -> bool:
        """Whether more is here than ever before; a server without ranges may begin again and again and never get further."""
        have = self._have()
        further = have > self._furthest
        self._furthest = max(have, self._furthest)
        return further

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _try(self) -> str:
        size, have = self.expected.size, self._have()
        self.resumed = have > 0
        digest = _Digest(self.expected)
        if have:
            digest.add_file(self.partial)
        complete = digest.found() == digest.wanted if size is None else have >= size
        if complete:
            # An empty file is complete before anything was received.
            self.partial.touch()
        else:
            digest = self._receive(digest)
        if size is not None and digest.length > size:
            self._reject(f"is longer than the {size} bytes it should have")
        if size is not None and digest.length < size:
            raise TransientError(f"{self.source.label}: {self.path} ended after {digest.length} of {size} bytes")
        if digest.found() != digest.wanted:
            self._reject(f"has the digest {digest.found()}, but {digest.wanted} is expected")
        return digest.sha256.hexdigest()

    def _receive(self, digest: _Digest) -> _Digest:
        """Append what `partial`, whose bytes `digest` has seen, still lacks; the digest of it all."""
        try:
            with self.source.open(self.path, digest.length) as stream, self.partial.open("ab") as file:
                if stream.start != digest.length:
                    file.truncate(0)
                    digest = _Digest(self.expected)
                    self.resumed = False
                for chunk in stream.chunks:
                    if self.stop.is_set():
                        raise CancelledDownloadError("The download was stopped.")
                    file.write(chunk)
                    digest.add(chunk)
                    self.progress.update(len(chunk))
                    if self.expected.size is not None and digest.length > self.expected.size:
                        break
                file.flush()
                os.fsync(file.fileno())
        except NoSuchRangeError:
            if not digest.length:
                raise
            self._reject(f"has no more than {digest.length} bytes, which are not all or not the right ones")
        return digest

    def _reject(self, reason: str) -> NoReturn:
        self.partial.unlink(missing_ok=True)
        raise IntegrityError(
            f"{self.path} from {self.source.label} {reason}. Nothing of it was kept; "
            "if the source is right, correct the bundle.toml, otherwise do not use it."
        )


class _Digest:
    """The running digests of one file: SHA-256 always, and git's object id where that is all that is known."""

    def __init__(self, expected: RemoteFile) -> None:
        self.sha256 = hashlib.sha256()
        self.wanted = expected.sha256 or expected.git_oid
        self.length = 0
        self._git = None
        if expected.sha256 is None:
            self._git = hashlib.sha1(b"blob %d\0" % (expected.size or 0), usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        if self._git is not None:
            self._git.update(chunk)
        self.length += len(chunk)

    def add_file(self, path: Path) -> None:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                self.add(chunk)

    def found(self) -> str:
        return (self._git or self.sha256).hexdigest()
