"""All files of one bundle, from whichever of its sources has the right bytes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock

from modelbake.bundle import (
    Bundle,
    FilePin,
    HubSource,
    LocalSource,
    SampleSource,
    SourceSpec,
    UrlSource,
    WheelSource,
    safe_relative_path,
)
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.files import disk_errors, file_refs, link_or_copy, sha256_of
from modelbake.manifest import FileRef, SourceRecord, Weights
from modelbake.output import NO_PROGRESS, Progress, out
from modelbake.settings import Settings, WeightsPolicy
from modelbake.sources.base import RemoteFile, Source
from modelbake.sources.http import hang_up
from modelbake.sources.hub import Hub
from modelbake.sources.local import Local
from modelbake.sources.patience import Patience
from modelbake.sources.safety import refuse_pickle, refuse_unsafe_tensors
from modelbake.sources.sample import Sample
from modelbake.sources.transfer import Blob, BlobStore, identity
from modelbake.sources.url import Url
from modelbake.sources.wheel import Wheel

PARALLEL_FILES = 4
# A source's listing is one short answer; after these tries the next source is asked.
LISTING_TRIES = 3
RECORD_NAME = "source.json"
FILES_FOLDER = "files"
DRAWING_FOLDER = ".drawing"

Generate = Callable[[Path, int], None]


class Fetched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fetch brought: which weights these are, and the record for the manifest."""

    bundle: str
    definition: str
    weights: Weights
    source: SourceRecord


class Fetcher:
    """Fetches bundles with one store, one progress bar (bytes; none by default) and one way to stop."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings = settings
        self._store = BlobStore(settings.cache_dir / "blobs")
        self._progress = progress or NO_PROGRESS
        self._stop = threading.Event()

    def available(self, bundle: Bundle) -> tuple[bool, list[str]]:
        """Whether its real files can be had now, without taking them; and what each source said that cannot give them."""
        missing = {pin.path: pin for pin in bundle.files if not (pin.sha256 and self._store.has(pin.sha256))}
        reasons: list[str] = []
        for source, listing in self._listings(bundle, missing, reasons, wrong=reasons):
            for path in _wanted(missing, source, listing, wrong=reasons):
                del missing[path]
        return not missing, reasons

    def fetch(self, bundle: Bundle, policy: WeightsPolicy, generate: Generate, to: Path) -> Fetched:
        """Put the bundle's files into `to/files` and their record into `to/source.json`.

        `policy` auto takes the real files where a source has them, else the sample; pretrained and sample allow one of them.
        `generate(folder, seed)` writes sample weights. Raises IntegrityError where a source's bytes are wrong and no other has
        the right ones, SourceUnreachableError naming every source tried where the files cannot be had.
        """
        sample = bundle.sample_source
        if policy == "sample" and sample is not None:
            return self._sample(bundle, sample, generate, to)
        try:
            blobs, source = self._real(bundle)
        except SourceUnreachableError as error:
            if policy == "pretrained" or sample is None:
                raise
            out.warn(
                f"{bundle.name}: SAMPLE WEIGHTS (random, seed {sample.seed}), since no source has the real ones:\n{error}"
            )
            return self._sample(bundle, sample, generate, to)
        kind: Weights = "trained" if bundle.kind == "boundary_regressor" else "pretrained"
        return self._write(bundle, kind, source, blobs, to)

    def _real(self, bundle: Bundle) -> tuple[dict[str, Blob], SourceRecord]:
        blobs = {pin.path: blob for pin in bundle.files if pin.sha256 and (blob := self._store.find(pin.sha256))}
        missing = {pin.path: pin for pin in bundle.files if pin.path not in blobs}
        reasons: list[str] = []
        wrong: list[str] = []
        commit: str | None = None
        warned = 0
        for source, listing in self._listings(bundle, missing, reasons, wrong):
            wanted = _wanted(missing, source, listing, wrong)
            absent = [path for path in missing if path not in listing]
            if absent:
                reasons.append(f"{source.label}: has no {', '.join(absent)}")
            for path, result in self._download_all(source, wanted).items():
                if isinstance(result, Blob):
                    out.detail(f"{bundle.name}: {path} from {source.label}")
                    blobs[path] = result
                    del missing[path]
                else:
                    (wrong if isinstance(result, IntegrityError) else reasons).append(_said(source, result))
            commit = commit or getattr(source, "commit", None)
            for reason in wrong[warned:]:
                out.warn(f"{bundle.name}: {reason}")
            warned = len(wrong)
        if missing:
            self._fail(bundle, missing, wrong, reasons)
        return blobs, _record(bundle, commit, blobs)

    def _fail(self, bundle: Bundle, missing: dict[str, FilePin], wrong: list[str], reasons: list[str]) -> None:
        tried = "\n".join(f"  - {reason}" for reason in wrong + reasons)
        names = ", ".join(missing)
        if wrong:
            raise IntegrityError(f"{bundle.name}: no source has the right bytes of {names}. Tried:\n{tried}")
        raise SourceUnreachableError(
            f"{bundle.name}: no source has {names}. Tried:\n{tried}\n"
            "Check the network, HF_ENDPOINT and pip's configuration; "
            "where no hub can be reached, WEIGHTS=sample builds with random weights."
        )

    def _listings(
        self, bundle: Bundle, missing: dict[str, FilePin], reasons: list[str], wrong: list[str]
    ) -> Iterator[tuple[Source, dict[str, RemoteFile]]]:
        """Each real source of the bundle with its inventory, as long as something is missing."""
        for spec in bundle.sources:
            if not missing or isinstance(spec, SampleSource):
                continue
            source = self._source(spec, tuple(pin.path for pin in bundle.files))
            try:
                listing = Patience(LISTING_TRIES, self._stop).run(source.inventory)
            except SourceUnreachableError as error:
                reasons.append(_said(source, error))
            except IntegrityError as error:
                wrong.append(_said(source, error))
            else:
                yield source, listing

    def _source(self, spec: SourceSpec, paths: tuple[str, ...]) -> Source:
        match spec:
            case HubSource():
                return Hub(spec, self._settings, paths)
            case WheelSource():
                return Wheel(spec, self._store, self._progress, self._stop)
            case UrlSource():
                return Url(spec, paths)
            case LocalSource():
                return Local(spec, self._settings.root)
        raise AssertionError(spec)

    def _download_all(self, source: Source, wanted: dict[str, RemoteFile]) -> dict[str, Blob | Exception]:
        """Every file's blob, or the error that it ended with; an error that is not the source's ends all at once."""
        results: dict[str, Blob | Exception] = {}
        with self._pool() as pool:
            futures = {
                pool.submit(self._store.download, source, path, expected, self._progress, self._stop): path
                for path, expected in wanted.items()
            }
            pending = set(futures)
            while pending:
                done, pending = wait(pending, return_when=FIRST_EXCEPTION)
                for future in done:
                    error = future.exception()
                    if error is None:
                        results[futures[future]] = future.result()
                    elif isinstance(error, SourceUnreachableError | IntegrityError):
                        results[futures[future]] = error
                    else:
                        raise error
        return results

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="fetch")
        try:
            yield pool
        except BaseException:
            self._stop.set()
            hang_up()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, bundle: Bundle, spec: SampleSource, generate: Generate, to: Path) -> Fetched:
        with self._writing(bundle):
            # Beside the files that are there: another build may be reading them, and drawn again they are the same.
            drawing = to / DRAWING_FOLDER
            shutil.rmtree(drawing, ignore_errors=True)
            drawing.mkdir(parents=True)
            try:
                source = Sample(spec, drawing, generate)
                listing = sorted(source.inventory().items())
                refs = tuple(FileRef(path, file.sha256 or "", file.size or 0) for path, file in listing)
                fetched = Fetched(bundle.name, bundle.digest, "sample", SourceRecord("sample", refs, seed=spec.seed))
                if not _holds(to, fetched):
                    _emptied(to).rmdir()
                    os.replace(drawing, to / FILES_FOLDER)
                    _write_record(to, fetched)
            finally:
                shutil.rmtree(drawing, ignore_errors=True)
        return fetched

    def _write(
        self, bundle: Bundle, weights: Weights, source: SourceRecord, blobs: dict[str, Blob], to: Path
    ) -> Fetched:
        for path, blob in blobs.items():
            refuse_pickle(blob.path, path, f"{path} of {bundle.name}")
        fetched = Fetched(bundle.name, bundle.digest, weights, source)
        with self._writing(bundle):
            if not _holds(to, fetched):
                folder = _emptied(to)
                for path, blob in blobs.items():
                    link_or_copy(blob.path, folder / safe_relative_path(path, bundle.name))
                _write_record(to, fetched)
        return fetched

    @contextmanager
    def _writing(self, bundle: Bundle) -> Iterator[None]:
        """Alone in the bundle's folder: two builds at once would clear it under each other."""
        locks = self._settings.cache_dir / "locks"
        with disk_errors(self._settings.cache_dir):
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / f"{bundle.name}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _emptied(to: Path) -> Path:
    """`to/files`, empty. Whatever else is in `to` is not ours to delete: people name folders of their own."""
    (to / RECORD_NAME).unlink(missing_ok=True)
    folder = to / FILES_FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _write_record(to: Path, fetched: Fetched) -> None:
    partial = to / f".{RECORD_NAME}"
    try:
        partial.write_bytes(msgspec.json.encode(fetched))
        os.replace(partial, to / RECORD_NAME)
    finally:
        partial.unlink(missing_ok=True)


def _holds(to: Path, fetched: Fetched) -> bool:
    """Whether an earlier fetch brought just this into `to` and nobody changed it; a build may be reading it now."""
    try:
        return read_fetched(to) == fetched and file_refs(to / FILES_FOLDER) == fetched.source.files
    except IntegrityError:
        return False


def read_fetched(folder: Path) -> Fetched:
    """The record of a folder that `fetch` wrote; IntegrityError where it is none."""
    path = folder / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fetched)
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError(f"{path}: this is no folder that `modelbake fetch --to` wrote ({error}).") from error


def check_files(folder: Path, fetched: Fetched) -> None:
    """That the files of a fetched folder are those of its record, and fit to be read.

    IntegrityError where one was changed or lost, RefusedError where one bears the name of a safetensors file and is none.
    """
    for ref in fetched.source.files:
        path = folder / FILES_FOLDER / safe_relative_path(ref.path, str(folder / RECORD_NAME))
        if not path.is_file() or sha256_of(path) != ref.sha256:
            raise IntegrityError(f"{path} changed after it was fetched; fetch it again.")
        refuse_unsafe_tensors(path)


def _wanted(
    missing: dict[str, FilePin], source: Source, listing: dict[str, RemoteFile], wrong: list[str]
) -> dict[str, RemoteFile]:
    """What to ask the source for: of the missing files those it lists, less those it already says to have other bytes of."""
    wanted = {}
    for path, pin in missing.items():
        listed = listing.get(path)
        if listed is None:
            continue
        if pin.sha256 and listed.sha256 and pin.sha256 != listed.sha256:
            wrong.append(f"{source.label}: lists {path} with the digest {listed.sha256}, but {pin.sha256} is pinned.")
        elif pin.size is not None and listed.size is not None and pin.size != listed.size:
            wrong.append(f"{source.label}: lists {path} with {listed.size} bytes, but {pin.size} are pinned.")
        else:
            size = pin.size if pin.size is not None else listed.size
            expected = RemoteFile(size, pin.sha256 or listed.sha256, listed.git_oid)
            try:
                identity(expected, path, source)
            except IntegrityError as error:
                wrong.append(str(error))
            else:
                wanted[path] = expected
    return wanted


def _said(source: Source, error: Exception) -> str:
    """The error with the source's name, where it does not bear it already."""
    return str(error) if source.label in str(error) else f"{source.label}: {error}"


def _record(bundle: Bundle, commit: str | None, blobs: dict[str, Blob]) -> SourceRecord:
    first = bundle.sources[0]
    files = tuple(FileRef(path, blob.sha256, blob.size) for path, blob in sorted(blobs.items()))
    if isinstance(first, HubSource):
        return SourceRecord("hub", files, first.repository, first.revision if bundle.pinned else commit)
    return SourceRecord(str(type(first).__struct_config__.tag), files)
