"""The step cache: the result folder of a pure step, made once per key, appearing whole by one rename under a lock."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from modelbake.files import disk_errors, file_refs
from modelbake.manifest import FileRef
from modelbake.output import out


class StepCache:
    """Results below `folder/<step>/<digest of the key>`; `refs` hashes the files of one that was made earlier."""

    def __init__(self, folder: Path, refs: Callable[[Path], tuple[FileRef, ...]] = file_refs) -> None:
        self._folder, self._refs = folder, refs

    def result(self, step: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder that `make(folder)` filled for this key, now or earlier.

        `key` is JSON-encodable and holds all that the result depends on: input digests, parameters, code, versions. A result of
        which a file was changed, lost or added is made again. A process that dies in the middle leaves a `.partial` folder,
        which the next one clears.
        """
        digest = hashlib.sha256(msgspec.json.encode({"step": step, **key}, order="sorted")).hexdigest()
        target = self._folder / step / digest
        if self._whole(target):
            return target
        with disk_errors(self._folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_suffix(".lock")):
                if not self._whole(target):
                    self._make(target, make)
        return target

    def _make(self, target: Path, make: Callable[[Path], None]) -> None:
        partial = target.with_suffix(".partial")
        if target.exists():
            out.warn(f"{target} is damaged and made again.")
            shutil.rmtree(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            make(partial)
            # Before the result itself: a result without its record is none.
            _record(target).write_bytes(msgspec.json.encode(file_refs(partial)))
            os.replace(partial, target)
        except BaseException:
            # A disk that was too small for it is not left full.
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _whole(self, target: Path) -> bool:
        """Whether the result is there and every file of it is the one that was made."""
        if not target.is_dir():
            return False
        try:
            made = msgspec.json.decode(_record(target).read_bytes(), type=tuple[FileRef, ...])
            return self._refs(target) == made
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            # Unreadable, or another process is replacing it.
            return False


def _record(target: Path) -> Path:
    """Where the digests of a result's files are kept: beside it, since the folder is the step's own."""
    return target.with_suffix(".json")


def code_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the source files of the modules named, packages with all that is below them; they are not run for it."""
    digest = hashlib.sha256()
    for module in sorted(set(modules)):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(module)
        origin = Path(spec.origin)
        paths = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        for path in paths:
            digest.update(f"{module}:{path.name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
