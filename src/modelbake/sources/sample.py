"""Weights drawn from a fixed seed, for machines that reach no hub; whatever is made of them is labelled `sample`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from modelbake.bundle import SampleSource
from modelbake.digests import Digests
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.local import open_file


class Sample:
    """The folder that `draw(seed)` gives; which family draws which weights is the exporters' knowledge, hence passed in."""

    def __init__(self, spec: SampleSource, draw: Callable[[int], Path], digests: Digests) -> None:
        self._seed, self._draw, self._digests = spec.seed, draw, digests

    @cached_property
    def folder(self) -> Path:
        """Where the files are, drawn at first use; they are not to be changed there."""
        return self._draw(self._seed)

    @property
    def label(self) -> str:
        return f"sample weights (seed {self._seed})"

    def inventory(self) -> dict[str, RemoteFile]:
        """The drawn files."""
        return {ref.path: RemoteFile(ref.size, ref.sha256) for ref in self._digests.refs(self.folder)}

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        return open_file(self.folder / path, offset)
