"""Documents and blobs from one place to another: several at a time, what is there already left out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from modelbake.oci.blob import Blob, Slice, of_bytes
from modelbake.oci.download import download
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place
from modelbake.oci.repository import Repository
from modelbake.oci.sink import FileSink
from modelbake.oci.store import Store
from modelbake.output import Progress, out

# Blobs under way at a time.
AT_ONCE = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Moved:
    """What a transfer did: bytes and blobs that were sent, and all that it was about."""

    sent: int
    sent_blobs: int
    total: int
    total_blobs: int


def move(source: Place, descriptors: Iterable[Descriptor], target: Place) -> Moved:
    """These blobs and documents, the documents last and in their order; within the target's `adding`.

    What names others is to come after them, as `reachable` gives them, so that the target holds nothing whose parts it lacks.
    """
    jobs = [(one, partial(_move, source, one, target)) for one in descriptors]
    return _transfer(jobs, target, source)


def send(blobs: Iterable[Blob], target: Place) -> Moved:
    """Blobs and documents of this machine to `target`, the documents last and in their order; within its `adding`."""
    return _transfer([(blob.descriptor, partial(target.add, blob)) for blob in blobs], target)


def _transfer(jobs: Sequence[tuple[Descriptor, Callable[[Progress], bool]]], target: Place, *sources: Place) -> Moved:
    """Each job moves what it names and tells whether bytes were sent; those of blobs several at a time, then the documents'."""
    blobs = [job for job in jobs if not job[0].is_document]
    documents = [job for job in jobs if job[0].is_document]
    size = sum(one.size for one, _ in jobs)
    with bar(size, f"to {target}") as progress:
        flags = at_once(blobs, lambda job: job[1](progress), target, *sources)
        flags += [work(progress) for _, work in documents]
    sent = [one for (one, _), flag in zip([*blobs, *documents], flags, strict=True) if flag]
    return Moved(sum(one.size for one in sent), len(sent), size, len(jobs))


def at_once(items: Sequence[T], work: Callable[[T], bool], *places: Place) -> list[bool]:
    """`work` of each, several at a time; the first error ends the others at `places` and is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if not future.cancelled() and future.exception()), None)
            if failed is not None:
                failed.result()
        except BaseException:
            for place in places:
                if isinstance(place, Repository):
                    place.stop.set()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]


@contextmanager
def bar(total: int, label: str) -> Iterator[Progress]:
    """A progress bar that several threads may move."""
    shown = out.progress(total, label)
    try:
        yield _Locked(shown)
    finally:
        shown.close()


class _Locked:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def update(self, n: int, /) -> None:
        with self._lock:
            self._progress.update(n)

    def close(self) -> None:
        self._progress.close()


def _move(source: Place, descriptor: Descriptor, target: Place, progress: Progress) -> bool:
    """Whether anything of the blob or document had to be sent."""
    if not descriptor.is_document and isinstance(source, Repository):
        if isinstance(target, Store):
            return _download(source, descriptor, target, progress)
        if isinstance(target, Repository):
            near = (source.reference.repository,) if source.reference.host == target.reference.host else ()
            return target.add(_Remote(descriptor, (), source), progress, near)
    blob = of_bytes(source.read(descriptor), descriptor) if descriptor.is_document else source.blob(descriptor)
    assert blob is not None
    return target.add(blob, progress)


def _download(source: Repository, descriptor: Descriptor, store: Store, progress: Progress) -> bool:
    if not store.has(descriptor):
        with store.partially(descriptor) as gathering:
            # Whoever held it before may have brought all of it.
            if not store.has(descriptor):
                with FileSink(gathering, descriptor) as sink:
                    download(source, descriptor, sink, progress)
                    sink.finish()
                store.keep(descriptor)
                return True
    progress.update(descriptor.size)
    return False


@dataclass(frozen=True)
class _Remote(Blob):
    """A blob of another registry, whose bytes pass through; the one that gets them hashes them."""

    source: Repository

    def slices(self, offset: int = 0) -> Iterator[bytes | Slice]:
        return self.source.chunks(self.descriptor, offset)
