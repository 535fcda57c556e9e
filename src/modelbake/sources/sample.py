"""Weights drawn from a fixed seed, for machines that reach no hub; whatever is made of them is labelled `sample`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from modelbake.bundle import SampleSource
from modelbake.files import sha256_of
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.local import open_file


class Sample:
    """What `generate` writes into a folder; which family draws which weights is the exporters' knowledge, hence passed in."""

    def __init__(self, spec: SampleSource, folder: Path, generate: Callable[[Path, int], None]) -> None:
        self._seed, self._folder, self._generate = spec.seed, folder, generate

    @property
    def label(self) -> str:
        return f"sample weights (seed {self._seed})"

    def inventory(self) -> dict[str, RemoteFile]:
        """The generated files; draws them first if that was not done yet."""
        if not any(self._folder.iterdir()):
            self._generate(self._folder, self._seed)
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return {
            path.relative_to(self._folder).as_posix(): RemoteFile(path.stat().st_size, sha256_of(path))
            for path in files
        }

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        return open_file(self._folder / path, offset)
