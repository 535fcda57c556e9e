"""One repository of a registry as a Place: documents and blobs over the OCI distribution-spec 1.1."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar
from urllib.parse import urlencode

from msgspec import Struct
from urllib3.exceptions import HTTPError

from modelbake.errors import IntegrityError, RefusedError, SourceUnreachableError, UnknownNameError
from modelbake.files import CHUNK
from modelbake.oci.blob import Blob, Slice
from modelbake.oci.known import Known
from modelbake.oci.model import (
    DIGEST,
    DOCUMENTS,
    INDEXES,
    MOST_MANIFEST_BYTES,
    Descriptor,
    ImageIndex,
    decode,
    digest_of,
)
from modelbake.oci.reference import Reference
from modelbake.oci.transport import NotFoundError, Response, Transport, bare
from modelbake.oci.upload import Sessions, upload
from modelbake.output import NO_PROGRESS, Progress
from modelbake.patience import CancelledDownloadError, Patience, TransientError

# A try that brought something starts the count again.
_FRUITLESS_TRIES = 5

T = TypeVar("T")


class NoPartsError(TransientError):
    """The registry was asked for a part of a blob and gave another one."""


class _Typed(Struct, rename="camel"):
    media_type: str = ""


class _Tags(Struct):
    tags: list[str] | None = None


class Repository:
    """The repository that `reference` names; safe for several threads. `stop` ends what is under way.

    `sessions` remembers uploads that were cut, so that a later process goes on with them; `known` which repositories had a blob.
    """

    def __init__(
        self,
        reference: Reference,
        transport: Transport,
        sessions: Sessions,
        known: Known,
        stop: threading.Event | None = None,
    ) -> None:
        self.reference = reference
        self.transport = transport
        self.stop = stop or threading.Event()
        self.sessions = sessions
        self._known = known
        self._path = f"/v2/{reference.repository}"
        # Documents that were read or written: small, asked for several times, and their bytes cannot change.
        self._documents: dict[str, bytes] = {}
        self._reading = f"repository:{reference.repository}:pull"
        self._writing = f"repository:{reference.repository}:pull,push"

    def __str__(self) -> str:
        return f"{self.reference.host}/{self.reference.repository}"

    def adding(self) -> AbstractContextManager[None]:
        """Nothing to do: a registry keeps what is being added."""
        return nullcontext()

    def resolve(self, name: str) -> Descriptor:
        """The document that a tag or digest leads to; UnknownNameError where there is none, IntegrityError where its bytes are
        not those of the digest."""
        data, content_type = self._document(name)
        digest = digest_of(data)
        if re.match(DIGEST, name) and digest != name:
            raise IntegrityError(
                f"{self} gives for {name} a document of {digest}; its bytes are damaged there: push it again."
            )
        self._documents[digest] = data
        # The document's own word where it has one, since no digest covers the header.
        media_type = decode(data, _Typed, f"{self}: {name}").media_type or content_type
        return Descriptor(media_type, digest, len(data))

    def read(self, descriptor: Descriptor) -> bytes:
        """A document or config; IntegrityError where its bytes are not those of the descriptor, or too many."""
        if descriptor.digest in self._documents:
            return self._documents[descriptor.digest]
        if descriptor.size > MOST_MANIFEST_BYTES:
            raise IntegrityError(
                f"{self}: {descriptor.digest} has {descriptor.size:,} bytes, more than a manifest may have; it is not read."
            )
        if descriptor.is_document:
            data, _ = self._document(descriptor.digest)
        else:
            data = self._patiently(lambda: self._small(self._blob_url(descriptor), {}))[0]
        if (digest_of(data), len(data)) != (descriptor.digest, descriptor.size):
            raise IntegrityError(
                f"{self}: {descriptor.digest} of {descriptor.size:,} bytes was promised, but {len(data):,} bytes of "
                f"{digest_of(data)} came; push it again."
            )
        self._documents[descriptor.digest] = data
        return data

    def part(self, descriptor: Descriptor, offset: int, count: int) -> bytes:
        """A blob's bytes from `offset` on, at most `count`; nothing of them was checked."""
        count = min(count, descriptor.size - offset)
        if count <= 0:
            return b""
        url = self._blob_url(descriptor)

        def ask() -> bytes:
            headers = {"range": f"bytes={offset}-{offset + count - 1}"}
            with self._get(url, headers, (200, 206)) as response:
                skip = _skipped(response, offset, descriptor.size, url)
                while skip:
                    skip -= len(_read(response, min(skip, CHUNK), url)) or skip
                return _read(response, count, url)

        return self._patiently(ask)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the registry says that it has the blob or document, of that size."""
        url = self._document_url(descriptor.digest) if descriptor.is_document else self._blob_url(descriptor)

        def ask() -> bool:
            headers = {"accept": ", ".join(DOCUMENTS)} if descriptor.is_document else {}
            response = self.transport.request("HEAD", url, self._reading, headers=headers, accept=(200, 404))
            response.close()
            length = response.headers.get("content-length")
            return response.status == 200 and length in (None, str(descriptor.size))

        return self._patiently(ask)

    def blob(self, descriptor: Descriptor) -> Blob | None:
        """None: its bytes are not on this machine."""
        return None

    def chunks(self, descriptor: Descriptor, offset: int, piece: int = CHUNK) -> Iterator[bytes]:
        """A blob's bytes from `offset` on, as they come and never more than it has; a broken connection loses up to `piece`.

        TransientError where the connection breaks or the registry does not give that part; nothing was checked.
        """
        headers = {"range": f"bytes={offset}-"} if offset else {}
        url = self._blob_url(descriptor)
        with self._get(url, headers, (200, 206)) as response:
            skip = _skipped(response, offset, descriptor.size, url)
            left = descriptor.size - offset
            while left:
                if self.stop.is_set():
                    raise CancelledDownloadError("The transfer was stopped.")
                chunk = _read(response, piece, url)
                if not chunk:
                    raise TransientError(f"{bare(url)}: the connection ended {left:,} bytes early")
                if skip:
                    chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                chunk = chunk[:left]
                left -= len(chunk)
                yield chunk

    def add(self, blob: Blob, progress: Progress = NO_PROGRESS, near: Iterable[str] = ()) -> bool:
        """Put a blob or document there, unless it is; whether its bytes were sent.

        A blob is mounted where one of `near`, or another repository of the registry that is known to have had it, has it.
        Bytes of a blob that was cut on its way are sent on from there where the registry still knows of them.
        """
        descriptor = blob.descriptor
        there = self.has(descriptor)
        if not there and not descriptor.is_document:
            others = dict.fromkeys((*near, *self._known.repositories(self.reference.host, descriptor.digest)))
            others.pop(self.reference.repository, None)
            there = any(self._mount(descriptor, other) for other in others)
        if there:
            progress.update(descriptor.size)
        elif descriptor.is_document:
            self._put_document(descriptor.digest, descriptor, b"".join(blob.chunks()))
        else:
            upload(self, blob, progress)
        if not descriptor.is_document:
            self._known.note(self.reference.host, self.reference.repository, descriptor.digest)
        return not there

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let the tag lead to a document that is there."""
        self._put_document(name, descriptor, self.read(descriptor))

    def names(self) -> list[str]:
        """All tags, sorted; none where the registry does not know the repository."""
        found: list[str] = []
        url = self.transport.url(f"{self._path}/tags/list?n=1000")
        seen = set()
        while url and url not in seen:
            seen.add(url)
            try:
                data, link = self._patiently(lambda url=url: self._small(url, {}, "link"))  # type: ignore[misc]
            except NotFoundError:
                return found
            found += decode(data, _Tags, f"{self}: its list of tags").tags or []
            following = re.fullmatch(r'\s*<([^>]+)>\s*;\s*rel="?next"?\s*', link)
            url = self.transport.url(following[1]) if following else ""
        return sorted(found)

    def referrers(self, digest: str) -> ImageIndex | None:
        """What refers to a document, by the registry's referrers API; None where it has none."""
        url = self.transport.url(f"{self._path}/referrers/{digest}")
        try:
            data, content_type = self._patiently(lambda: self._small(url, {}))
        except NotFoundError:
            return None
        return decode(data, ImageIndex, f"{self}: referrers of {digest}") if content_type in INDEXES else None

    def patience(self) -> Patience:
        """What tries a request of this repository again."""
        return Patience(_FRUITLESS_TRIES, self.stop)

    def send(
        self,
        method: str,
        url: str,
        accept: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], Iterable[bytes | Slice]] | None = None,
        length: int | None = None,
        scope: str | None = None,
    ) -> Response:
        """One request that changes something; its answer's body is done with."""
        response = self.transport.request(
            method, url, scope or self._writing, headers=headers, body=body, accept=accept, length=length
        )
        response.drain_conn()
        return response

    def upload_url(self, query: Mapping[str, str] | None = None) -> str:
        """Where uploads begin."""
        return self.transport.url(f"{self._path}/blobs/uploads/{'?' + urlencode(query) if query else ''}")

    def _mount(self, descriptor: Descriptor, source: str) -> bool:
        url = self.upload_url({"mount": descriptor.digest, "from": source})
        scope = f"{self._writing} repository:{source}:pull"
        try:
            response = self._patiently(lambda: self.send("POST", url, (201, 202), body=b"", scope=scope))
        except SourceUnreachableError:
            # No right to read there is no reason not to send the bytes.
            return False
        location = response.headers.get("location", "")
        if response.status == 202 and location:
            # An upload was begun instead, which nobody goes on with.
            with suppress(SourceUnreachableError, RefusedError):
                self.send("DELETE", self.transport.url(location), (204, 202, 404))
        return response.status == 201

    def _put_document(self, name: str, descriptor: Descriptor, data: bytes) -> None:
        url = self._document_url(name)
        headers = {"content-type": descriptor.media_type}
        self._patiently(lambda: self.send("PUT", url, (201,), headers=headers, body=data))
        self._documents[descriptor.digest] = data

    def _document(self, name: str) -> tuple[bytes, str]:
        try:
            return self._patiently(lambda: self._small(self._document_url(name), {"accept": ", ".join(DOCUMENTS)}))
        except NotFoundError as error:
            raise UnknownNameError(
                f"{self} has no {name} ({error}); `modelbake tags {self}` lists its tags."
            ) from error

    def _small(self, url: str, headers: Mapping[str, str], header: str = "content-type") -> tuple[bytes, str]:
        with self._get(url, headers, (200,)) as response:
            data = bytearray()
            while chunk := _read(response, CHUNK, url):
                data += chunk
                if len(data) > MOST_MANIFEST_BYTES:
                    raise IntegrityError(
                        f"{bare(url)}: more than {MOST_MANIFEST_BYTES:,} bytes came; it is not read on."
                    )
            value = response.headers.get(header, "")
            return bytes(data), value.partition(";")[0].strip() if header == "content-type" else value

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str], accept: tuple[int, ...]) -> Iterator[Response]:
        response = self.transport.request("GET", url, self._reading, headers=headers, accept=accept)
        try:
            yield response
        finally:
            # Back to the others where it was read to its end, else there is no saying what would come on it.
            response.release_conn() if response.closed else response.close()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        return self.patience().run(attempt)

    def _document_url(self, name: str) -> str:
        return self.transport.url(f"{self._path}/manifests/{name}")

    def _blob_url(self, descriptor: Descriptor) -> str:
        return self.transport.url(f"{self._path}/blobs/{descriptor.digest}")


def _read(response: Response, count: int, url: str) -> bytes:
    try:
        return bytes(response.read(count))
    except (HTTPError, OSError) as error:
        raise TransientError(f"{bare(url)}: the connection broke ({type(error).__name__}: {error})") from error


def _skipped(response: Response, offset: int, size: int, url: str) -> int:
    """How many bytes of the answer come before `offset`: all of them where the server gives no parts."""
    if response.status == 200:
        return offset
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("content-range", "")
    )
    if found is None or int(found[1]) != offset or found[3] not in ("*", str(size)):
        raise NoPartsError(f"{bare(url)}: asked for the bytes from {offset} on, got others")
    return 0
