"""Putting a bundle into the models folder: its files, then its entry, so that the manifest never lists what is not there.

Whoever reads the folder, at whatever moment and after whatever death of this process, finds of each bundle either an entry whose
files are those that it lists, or no entry.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.errors import IntegrityError
from modelbake.files import disk_errors, sha256_of
from modelbake.manifest import BundleEntry, FileRef, Manifest

# Inside the models folder, so that what is in it gets into place by renaming; a run that died leaves it, and the next clears it.
STAGING_NAME = ".staging"


def install(models: Path, entry: BundleEntry, made: Path, digests: Digests) -> None:
    """Put the files of `entry` that differ from those below `made` into `models`, then its entry into the manifest.

    `digests` tells of what is in `models` already, and is told of what gets there.
    """
    written: dict[str, int] = {}

    def bring(ref: FileRef, to: Path) -> None:
        _copied(made, ref, to)
        written[ref.path] = to.stat().st_mtime_ns

    place(models, entry, lambda ref: _holds(models, ref, digests.sha256), bring)
    digests.note({models / ref.path: ("", ref.sha256, written[ref.path]) for ref in entry.files if ref.path in written})


def place(
    models: Path, entry: BundleEntry, holds: Callable[[FileRef], bool], bring: Callable[[FileRef, Path], None]
) -> None:
    """Put the files of `entry` that `models` does not hold yet there, then its entry into the manifest; `bring` makes a file.

    Under a lock, so that the entry of another bundle, installed at the same time, is not lost. Nothing in the folder changes
    before all bytes are on its disk: MachineError where they do not fit leaves the bundle's earlier version whole. Files that only
    the earlier version had are removed last.
    """
    with disk_errors(models), lock_beside(models, "lock"):
        models.mkdir(parents=True, exist_ok=True)
        staging = models / STAGING_NAME
        if staging.exists():
            shutil.rmtree(staging)
        present = manifest.read(models) if (models / manifest.MANIFEST_NAME).exists() else _manifest()
        _refuse_overwriting(entry, present)
        wanted = manifest.merge([present, _manifest(entry)])
        lacking = [ref for ref in entry.files if not holds(ref)]
        if not lacking and wanted == present:
            return
        try:
            staging.mkdir()
            for index, ref in enumerate(lacking):
                bring(ref, staging / str(index))
            if _listed_otherwise(present, lacking):
                # Between the first new file and the last, the earlier version's entry would be a lie.
                others = (other for other in present.bundles if other.name != entry.name)
                _publish(models, staging, _manifest(*others))
            for index, ref in enumerate(lacking):
                target = models / ref.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging / str(index), target)
            _publish(models, staging, wanted)
            for ref in _listed_no_more(present, wanted):
                if _holds(models, ref, sha256_of):
                    (models / ref.path).unlink()
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def lock_beside(path: Path, ending: str) -> AbstractContextManager[object]:
    """One lock for a models folder or a file, whoever writes to it and with whatever cache; beside it, since a folder gets baked."""
    from filelock import FileLock

    # One folder has several names, `.` among them, and one lock.
    folder = path.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.{ending}")


def _manifest(*entries: BundleEntry) -> Manifest:
    return Manifest(manifest.SCHEMA_VERSION, entries)


def _holds(models: Path, ref: FileRef, sha256: Callable[[Path], str]) -> bool:
    path = models / ref.path
    return path.is_file() and path.stat().st_size == ref.size and sha256(path) == ref.sha256


def _copied(made: Path, ref: FileRef, to: Path) -> None:
    """A copy and no link: people put files of their own over those in models/, and must not write through into a cache."""
    shutil.copyfile(made / ref.path, to)
    os.chmod(to, 0o644)
    if sha256_of(to) != ref.sha256:
        raise IntegrityError(f"{made / ref.path} changed while it was copied; build the bundle again.")


def _publish(models: Path, staging: Path, wanted: Manifest) -> None:
    os.replace(manifest.write(staging, wanted), models / manifest.MANIFEST_NAME)


def _listed_otherwise(present: Manifest, lacking: list[FileRef]) -> bool:
    """Whether the manifest lists another file under a path that is about to be replaced."""
    new = {ref.path: ref for ref in lacking}
    return any(new.get(ref.path, ref) != ref for entry in present.bundles for ref in entry.files)


def _listed_no_more(present: Manifest, wanted: Manifest) -> list[FileRef]:
    """What the bundle's earlier version had and no bundle has now, such as a variant that was given up."""
    listed = {ref.path for entry in wanted.bundles for ref in entry.files}
    return [ref for entry in present.bundles for ref in entry.files if ref.path not in listed]


def _refuse_overwriting(entry: BundleEntry, present: Manifest) -> None:
    """IntegrityError where another bundle of the models folder has a different file of one of the entry's paths."""
    digests = {ref.path: ref.sha256 for ref in entry.files}
    for other in (other for other in present.bundles if other.name != entry.name):
        for ref in other.files:
            if digests.get(ref.path, ref.sha256) != ref.sha256:
                raise IntegrityError(
                    f"{ref.path} belongs to {other.name} in the models folder, and {entry.name} has a different file of that path; "
                    "give its bundle.toml another model name."
                )
