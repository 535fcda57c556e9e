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

from modelbake.files import disk_errors


class StepCache:
    """Results below `folder/<step>/<digest of the key>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def result(self, step: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder that `make(folder)` filled for this key, now or earlier.

        `key` is JSON-encodable and holds all that the result depends on: input digests, parameters, code, versions. A process
        that dies in the middle leaves a `.partial` folder, which the next one clears.
        """
        digest = hashlib.sha256(msgspec.json.encode({"step": step, **key}, order="sorted")).hexdigest()
        target = self._folder / step / digest
        if target.is_dir():
            return target
        with disk_errors(self._folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_suffix(".lock")):
                if not target.is_dir():
                    partial = target.with_suffix(".partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir()
                    make(partial)
                    os.replace(partial, target)
        return target


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
