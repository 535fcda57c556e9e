"""A blob into a registry: in parts, so that one that was cut goes on where the registry still knows of it, in a later process too.

Source: OCI distribution-spec 1.1, "Pushing a blob in chunks". docker-registry 2.8 forgets an upload whose connection broke in the
middle of a part, and takes a part that begins elsewhere without a word; so every part begins where the registry says that the last
one ended, and an upload of which it will say nothing begins anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelbake.errors import IntegrityError, MachineError, RefusedError, SourceUnreachableError
from modelbake.files import write_atomically
from modelbake.oci.blob import Blob, Slice
from modelbake.oci.transport import NotFoundError
from modelbake.output import Progress
from modelbake.patience import CancelledDownloadError, TransientError

if TYPE_CHECKING:
    from modelbake.oci.repository import Repository

# Bytes of a part: what is sent again at most where a registry loses the part that broke, and no more requests than needed.
PART = 64 << 20


class Sessions:
    """The addresses of uploads that were begun and not ended, in `folder`, by registry, repository and digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def alone(self, repository: Repository, digest: str) -> Iterator[bool]:
        """Whether nobody else uploads the blob with a noted address: of two who do, each would send what the other did.

        The kernel frees it when its holder dies.
        """
        with ExitStack() as stack:
            mine = False
            with suppress(OSError):
                # An address may be all that a registry asks for.
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = self._path(repository, digest).with_suffix(".lock")
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it took it away; another may have made a new one by now.
                mine = os.path.samestat(os.fstat(descriptor), path.stat())
                if mine:
                    stack.callback(path.unlink, missing_ok=True)
            yield mine

    def get(self, repository: Repository, digest: str) -> str | None:
        """The address, if one was noted."""
        with suppress(OSError, UnicodeDecodeError):
            return self._path(repository, digest).read_text(encoding="utf-8")
        return None

    def note(self, repository: Repository, digest: str, url: str) -> None:
        """Remember it; a folder that cannot be written is no reason not to send."""
        with suppress(OSError, MachineError):
            write_atomically(self._path(repository, digest), url.encode())

    def forget(self, repository: Repository, digest: str) -> None:
        """The upload ended."""
        with suppress(OSError):
            self._path(repository, digest).unlink()

    def _path(self, repository: Repository, digest: str) -> Path:
        return self._folder / hashlib.sha256(f"{repository}@{digest}".encode()).hexdigest()


def upload(repository: Repository, blob: Blob, progress: Progress) -> None:
    """Send the blob; IntegrityError where the registry finds that its bytes are not those of its digest."""
    digest, size = blob.descriptor.digest, blob.descriptor.size
    with repository.sessions.alone(repository, digest) as alone:
        while True:
            sent = _Sent(repository, blob, progress, alone)
            try:
                repository.patience().run(sent.go_on, sent.gained)
            except SourceUnreachableError as error:
                if "DIGEST_INVALID" not in str(error):
                    raise
                sent.forget()
                if sent.taken_up:
                    # What an earlier process sent of it may be what is wrong.
                    sent.show(0)
                    continue
                raise IntegrityError(
                    f"{repository} did not get the {size:,} bytes of {digest}; the file changed while it was sent, or something on the "
                    "way changes bytes. Push again."
                ) from error
            sent.forget()
            return


class _Sent:
    """An upload and how far it got, over several tries. Its address is remembered for later processes where it is `alone`."""

    def __init__(self, repository: Repository, blob: Blob, progress: Progress, alone: bool) -> None:
        self._repository = repository
        self._blob = blob
        self._digest = blob.descriptor.digest
        self._size = blob.descriptor.size
        self._progress = progress
        self._shown = 0
        self._best = 0
        self._alone = alone
        self._url = repository.sessions.get(repository, self._digest) if alone else None
        self.taken_up = self._url is not None
        self._was = 0

    def forget(self) -> None:
        """It came to an end."""
        if self._alone:
            self._repository.sessions.forget(self._repository, self._digest)

    def gained(self) -> bool:
        """Whether the try that failed got further than any before."""
        better = self._best > self._was
        self._was = self._best
        return better

    def go_on(self) -> None:
        """From where the registry is, to the end."""
        try:
            self._send(*(self._resumed() or self._begun()))
        except NotFoundError as error:
            # An upload that the registry forgot begins anew.
            self._url = None
            raise TransientError(str(error)) from error

    def _send(self, url: str, at: int) -> None:
        while at < self._size:
            end = min(self._size, at + PART)
            headers = {"content-type": "application/octet-stream", "content-range": f"{at}-{end - 1}"}
            part = partial(self._part, at, end)
            response = self._repository.send("PATCH", url, (202,), headers, body=part, length=end - at)
            url, at = self._next(response.headers.get("location", ""), url), end
            self._best = max(self._best, at)
        self._repository.send("PUT", f"{url}{'&' if '?' in url else '?'}digest={self._digest}", (201, 204), body=b"")

    def _resumed(self) -> tuple[str, int] | None:
        """The upload that was begun and how many bytes the registry has of it; None where it does not say."""
        if self._url is None:
            return None
        try:
            response = self._repository.send("GET", self._url, (204,))
        except (NotFoundError, RefusedError):
            # Forgotten, or from a time when this registry was spoken to unencrypted.
            return None
        except SourceUnreachableError as error:
            if type(error) is SourceUnreachableError:
                # Refused in another way: that upload is not to be had.
                return None
            raise
        found = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", response.headers.get("range", ""))
        # Nothing is `0-0` in some registries and one byte in others; a byte is soon sent again.
        at = int(found[1]) + 1 if found and found[1] != "0" else 0
        if at > self._size:
            return None
        self.show(at)
        return self._next(response.headers.get("location", ""), self._url), at

    def _begun(self) -> tuple[str, int]:
        self.show(0)
        response = self._repository.send("POST", self._repository.upload_url(), (202,), body=b"")
        return self._next(response.headers.get("location", ""), ""), 0

    def _next(self, location: str, before: str) -> str:
        url = self._repository.transport.url(location) if location else before
        if not url:
            raise SourceUnreachableError(
                f"{self._repository} began an upload and did not say where; ask whoever runs it."
            )
        self._url = url
        if self._alone:
            self._repository.sessions.note(self._repository, self._digest, url)
        return url

    def _part(self, start: int, end: int) -> Iterator[bytes | Slice]:
        left = end - start
        self.show(start)
        for piece in self._blob.slices(start):
            if self._repository.stop.is_set():
                raise CancelledDownloadError("The transfer was stopped.")
            if isinstance(piece, bytes):
                piece = piece[:left]
                size = len(piece)
            else:
                piece = replace(piece, size=min(left, piece.size))
                size = piece.size
            yield piece
            left -= size
            self.show(end - left)
            if not left:
                return

    def show(self, at: int) -> None:
        """Move the progress bar to so many bytes of the blob."""
        self._progress.update(at - self._shown)
        self._shown = at
