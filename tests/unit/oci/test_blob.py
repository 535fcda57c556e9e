"""Blobs of several pieces: read from any place on, and nothing is passed off for what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError
from modelbake.files import CHUNK
from modelbake.oci.blob import Blob, FilePart, of_file
from modelbake.oci.model import LAYER_TAR, Descriptor, digest_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=6), st.integers(0, 200))
def test_from_any_offset_on_come_the_bytes_behind_it(
    folder: Path, parts: list[tuple[bool, bytes]], offset: int
) -> None:
    pieces: list[bytes | FilePart] = []
    for number, (in_file, data) in enumerate(parts):
        if in_file:
            (folder / str(number)).write_bytes(data)
        pieces.append(FilePart(folder / str(number), len(data)) if in_file else data)
    whole = b"".join(data for _, data in parts)
    blob = Blob(Descriptor(LAYER_TAR, digest_of(whole), len(whole)), tuple(pieces))

    assert b"".join(blob.chunks(offset)) == whole[offset:]
    assert b"".join(blob.chunks()) == whole


def test_a_large_file_comes_in_chunks(folder: Path) -> None:
    data = bytes(range(256)) * (CHUNK // 256) + b"the end"
    (folder / "large").write_bytes(data)

    chunks = list(of_file(folder / "large", Descriptor(LAYER_TAR, digest_of(data), len(data))).chunks(5))

    assert [len(chunk) for chunk in chunks] == [CHUNK, len(data) - CHUNK - 5]
    assert b"".join(chunks) == data[5:]


def test_a_file_that_grew_gives_the_bytes_that_were_promised(folder: Path) -> None:
    (folder / "growing").write_bytes(b"first and more")

    assert b"".join(of_file(folder / "growing", Descriptor(LAYER_TAR, digest_of(b"first"), 5)).chunks()) == b"first"


def test_a_file_that_became_shorter_or_is_gone_is_an_integrity_error(folder: Path) -> None:
    (folder / "short").write_bytes(b"abc")
    short = of_file(folder / "short", Descriptor(LAYER_TAR, digest_of(b"abcd"), 4))
    gone = of_file(folder / "gone", Descriptor(LAYER_TAR, digest_of(b"abcd"), 4))

    with pytest.raises(IntegrityError, match=r"short became shorter while it was read; run this again"):
        list(short.chunks())
    with pytest.raises(IntegrityError, match=r"gone is gone; build, pull or pack again"):
        list(gone.chunks())
