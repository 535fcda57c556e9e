"""A blob out of a repository: resumed, hashed while it arrives, tried again, and handed on in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from modelbake.errors import IntegrityError
from modelbake.oci.model import Descriptor
from modelbake.oci.repository import NoPartsError, Repository
from modelbake.output import Progress


class Sink(Protocol):
    """What takes a blob's bytes in order, and keeps those of a download that was cut."""

    def kept(self) -> Iterator[bytes]:
        """The bytes of an earlier, cut download from the first on; what follows goes behind them."""

    def write(self, chunk: bytes) -> None:
        """The next bytes."""

    def restart(self) -> None:
        """Throw away what was kept or written: the next bytes are the first."""


def download(repository: Repository, descriptor: Descriptor, sink: Sink, progress: Progress) -> None:
    """Bring the blob into the sink; IntegrityError where what came is not of its digest.

    Where what was kept from before, or a part out of the middle, may be what is wrong, it is all brought once more.
    """
    if _once(repository, descriptor, sink, progress, anew=False):
        return
    if _once(repository, descriptor, sink, progress, anew=True):
        return
    raise IntegrityError(
        f"{repository}: the bytes of {descriptor.digest} are not those of their digest: the blob is damaged there, or changed on its way. "
        "Nothing of it was kept; delete it in the registry, and push it again from where it is whole."
    )


def _once(repository: Repository, descriptor: Descriptor, sink: Sink, progress: Progress, anew: bool) -> bool:
    """Whether the bytes were right. `anew`: all from the first byte on, and no part out of the middle if it can be helped."""
    state = _State(descriptor, sink, progress)
    if anew:
        state.restart()
    else:
        state.take_up()

    def attempt() -> None:
        try:
            for chunk in repository.chunks(descriptor, state.length):
                state.add(chunk)
        except NoPartsError:
            state.restart()
            raise

    before = state.length

    def gained() -> bool:
        nonlocal before
        better, before = state.length > before, state.length
        return better

    while state.length < descriptor.size:
        repository.patience().run(attempt, gained)
    right = state.sha256.hexdigest() == descriptor.hex
    if not right:
        # Either all of it came in one go and is wrong for good, or it is once more to be brought.
        state.restart()
    return right


class _State:
    def __init__(self, descriptor: Descriptor, sink: Sink, progress: Progress) -> None:
        self._descriptor = descriptor
        self._sink = sink
        self._progress = progress
        self.sha256 = hashlib.sha256()
        self.length = 0

    def take_up(self) -> None:
        """Hash what an earlier download left."""
        for chunk in self._sink.kept():
            self.sha256.update(chunk)
            self._count(len(chunk))
        if self.length > self._descriptor.size:
            self.restart()

    def add(self, chunk: bytes) -> None:
        self._sink.write(chunk)
        self.sha256.update(chunk)
        self._count(len(chunk))

    def restart(self) -> None:
        self._sink.restart()
        self._progress.update(-self.length)
        self.sha256 = hashlib.sha256()
        self.length = 0

    def _count(self, size: int) -> None:
        self.length += size
        self._progress.update(size)
