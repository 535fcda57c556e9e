"""What every source of a bundle says of its files, and the SHA-256 of a file where a source does not say it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from modelbake.bundle import Bundle, HubSource, SampleSource, SourceSpec
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.files import CHUNK
from modelbake.manifest import FileRef
from modelbake.patience import Patience, TransientError
from modelbake.sources.base import RemoteFile, Source
from modelbake.sources.fetch import LISTING_TRIES, Fetcher
from modelbake.sources.transfer import FRUITLESS_TRIES


@dataclass(frozen=True)
class Answer:
    """One source's inventory, or why there is none; `commit` is that of a hub's revision."""

    spec: SourceSpec
    source: Source
    listing: dict[str, RemoteFile] = field(default_factory=dict)
    failure: SourceUnreachableError | IntegrityError | None = None

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def commit(self) -> str | None:
        return getattr(self.source, "commit", None) if isinstance(self.spec, HubSource) else None


class Surveyor(Fetcher):
    """A fetcher that only asks; what it has to read for a digest, it keeps in the same store."""

    def ask(self, bundle: Bundle) -> list[Answer]:
        """Every real source's answer, in the definition's order."""
        return [self._ask(bundle, spec) for spec in bundle.sources if not isinstance(spec, SampleSource)]

    def measure(self, answer: Answer, path: str) -> FileRef:
        """SHA-256 and size of a file that the source lists.

        Taken from the listing where that has them. A small file of a hub is read and checked against git's object id; one of a
        source that gives no digest is read as it is. Raises IntegrityError or SourceUnreachableError as a download does.
        """
        listed = answer.listing[path]
        if listed.sha256 and listed.size is not None:
            return FileRef(path, listed.sha256, listed.size)
        if listed.sha256 or listed.git_oid:
            blob = self._store.download(answer.source, path, listed, self._progress, self._stop)
            return FileRef(path, blob.sha256, blob.size)
        return Patience(FRUITLESS_TRIES, self._stop).run(lambda: _read(answer.source, path, listed))

    def agrees(self, answer: Answer, ref: FileRef) -> bool | None:
        """Whether the source lists the file with these bytes, as far as can be told from its listing and from what is in the
        store already; None where that is not enough."""
        listed = answer.listing[ref.path]
        if listed.size is not None and listed.size != ref.size:
            return False
        if listed.sha256:
            return listed.sha256 == ref.sha256
        blob = self._store.find(ref.sha256) if listed.git_oid else None
        return None if blob is None else _git_oid(blob.path, ref.size) == listed.git_oid

    def _ask(self, bundle: Bundle, spec: SourceSpec) -> Answer:
        source = self._source(spec, tuple(pin.path for pin in bundle.files))
        try:
            return Answer(spec, source, Patience(LISTING_TRIES, self._stop).run(source.inventory))
        except (SourceUnreachableError, IntegrityError) as error:
            return Answer(spec, source, failure=error)


def _read(source: Source, path: str, listed: RemoteFile) -> FileRef:
    digest, length = hashlib.sha256(), 0
    with source.open(path) as stream:
        for chunk in stream.chunks:
            digest.update(chunk)
            length += len(chunk)
    if listed.size is not None and length != listed.size:
        raise TransientError(f"{source.label}: {path} ended after {length} of {listed.size} bytes")
    return FileRef(path, digest.hexdigest(), length)


def _git_oid(path: Path, size: int) -> str:
    """The id of a git blob (git's book, chapter 10.2)."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
