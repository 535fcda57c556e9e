"""One file from one source into the blob store: resumed, hashed while it arrives, tried again, checked, renamed into place."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tenacity
from filelock import FileLock

from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.files import CHUNK, disk_errors
from modelbake.output import Progress
from modelbake.sources.base import CancelledDownloadError, RemoteFile, Source, TransientError

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

    def find(self, sha256: str) -> Blob | None:
        """The blob of that digest if it is here."""
        path = self.folder / "sha256" / sha256
        return Blob(path, sha256, path.stat().st_size) if path.is_file() else None

    def download(
        self, source: Source, path: str, expected: RemoteFile, progress: Progress, stop: threading.Event
    ) -> Blob:
        """Bring `path` of `source` here and return its blob.

        `expected` must hold a digest. Raises IntegrityError where the bytes are not those, SourceUnreachableError where they
        cannot be had, MachineError where the disk does not take them, CancelledDownloadError after `stop`.
        """
        if expected.sha256 is None and expected.git_oid is None:
            raise IntegrityError(
                f"{path}: neither the definition nor {source.label} gives a digest, so its bytes cannot be checked. "
                "Add its sha256 to the bundle.toml."
            )
        identity = expected.sha256 or f"git-{expected.git_oid}"
        partial = self.folder / "partial" / identity
        with disk_errors(self.folder):
            partial.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{partial}.lock"):
                present = self.find(expected.sha256) if expected.sha256 else None
                return present or self._download_locked(_Transfer(source, path, expected, partial, progress, stop))

    def _download_locked(self, transfer: _Transfer) -> Blob:
        resumed = transfer.partial.exists()
        try:
            sha256 = transfer.run()
        except IntegrityError:
            if not resumed:
                raise
            # What an earlier run left may be the part that is wrong, so once more from the first byte.
            sha256 = transfer.run()
        target = self.folder / "sha256" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        size = transfer.partial.stat().st_size
        os.replace(transfer.partial, target)
        return Blob(target, sha256, size)


class _Transfer:
    """The tries at one file; `partial` holds what has arrived and outlives the process."""

    def __init__(
        self, source: Source, path: str, expected: RemoteFile, partial: Path, progress: Progress, stop: threading.Event
    ) -> None:
        self.source, self.path, self.expected, self.partial = source, path, expected, partial
        self.progress, self.stop = progress, stop
        self._fruitless = 0

    def run(self) -> str:
        """Bring the whole file into `partial` and return its SHA-256."""
        self._fruitless = 0
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=lambda _: self._fruitless >= FRUITLESS_TRIES,
            wait=self._wait,
            sleep=tenacity.sleep_using_event(self.stop),
            reraise=True,
        )
        try:
            return tries(self._try)
        except TransientError as error:
            raise SourceUnreachableError(
                f"{error} (gave up after {FRUITLESS_TRIES} tries that brought nothing)"
            ) from error

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TransientError) and error.retry_after is not None:
            return error.retry_after
        return min(20.0, 0.5 * 2.0**self._fruitless) * random.uniform(0.75, 1.25)

    def _try(self) -> str:
        if self.stop.is_set():
            raise CancelledDownloadError(f"{self.path}: stopped.")
        before = self._have()
        try:
            return self._receive(before)
        except TransientError:
            self._fruitless = 0 if self._have() > before else self._fruitless + 1
            raise

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _receive(self, have: int) -> str:
        size = self.expected.size
        if size is None or have < size:
            digest = self._download(have)
        else:
            digest = _Digest(self.expected)
            digest.add_file(self.partial)
        if size is not None and digest.length > size:
            self._reject(f"is longer than the {size} bytes it should have")
        if size is not None and digest.length < size:
            raise TransientError(f"{self.source.label}: {self.path} ended after {digest.length} of {size} bytes")
        if digest.found() != digest.wanted:
            self._reject(f"has the digest {digest.found()}, but {digest.wanted} is expected")
        return digest.sha256.hexdigest()

    def _download(self, have: int) -> _Digest:
        digest = _Digest(self.expected)
        with self.source.open(self.path, have) as stream, self.partial.open("ab") as file:
            if stream.start == have:
                digest.add_file(self.partial)
            else:
                file.truncate(0)
            for chunk in stream.chunks:
                if self.stop.is_set():
                    raise CancelledDownloadError(f"{self.path}: stopped.")
                file.write(chunk)
                digest.add(chunk)
                self.progress.update(len(chunk))
                if self.expected.size is not None and digest.length > self.expected.size:
                    break
            file.flush()
            os.fsync(file.fileno())
        return digest

    def _reject(self, reason: str) -> NoReturn:
        self.partial.unlink()
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
