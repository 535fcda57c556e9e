"""When a download gives up. What registries and connections do is in tests/registry."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelbake import patience
from modelbake.errors import SourceUnreachableError
from modelbake.oci.download import download
from modelbake.oci.model import LAYER_TAR, Descriptor, descriptor_of
from modelbake.oci.repository import NoPartsError
from modelbake.oci.sink import FileSink
from modelbake.output import NO_PROGRESS
from modelbake.patience import Patience, TransientError


class WithoutParts:
    """A registry whose connections break after ten bytes, and that lies of parts."""

    asked = 0

    def chunks(self, descriptor: Descriptor, offset: int, piece: int) -> Iterator[bytes]:
        self.asked += 1
        assert self.asked < 100
        if offset:
            raise NoPartsError("others came")
        yield b"x" * 10
        raise TransientError("broken")

    def patience(self) -> Patience:
        return Patience(5, threading.Event())


def test_a_registry_that_always_breaks_at_one_place_and_lies_of_parts_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "pause", lambda stop, seconds: None)
    registry = WithoutParts()
    descriptor = descriptor_of(b"x" * 20, LAYER_TAR)
    with FileSink(tmp_path / "blob", descriptor) as sink, pytest.raises(SourceUnreachableError, match="gave up"):
        download(registry, descriptor, sink, NO_PROGRESS)  # type: ignore[arg-type]
    assert registry.asked == 6
