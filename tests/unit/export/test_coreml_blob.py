"""weight.bin, against coremltools' own writer and reader."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from modelbake.errors import IntegrityError
from modelbake.export.coreml import blob

# Kinds and coremltools' method for each.
KINDS = {
    "float16": "write_fp16_data",
    "float32": "write_float_data",
    "uint8": "write_uint8_data",
    "int8": "write_int8_data",
    "int4": "write_int4_data",
    "uint1": "write_uint1_data",
    "uint2": "write_uint2_data",
    "uint3": "write_uint3_data",
    "uint4": "write_uint4_data",
    "uint6": "write_uint6_data",
    "int32": "write_int32_data",
}


def numbers(kind: str, count: int) -> np.ndarray:
    generator = np.random.default_rng(count)
    known = blob.KINDS[kind]
    if kind.startswith("float"):
        return generator.standard_normal(count).astype(known.numpy)
    low, high = (0, 1 << known.bits) if kind.startswith("uint") else (-(1 << (known.bits - 1)), 1 << (known.bits - 1))
    return generator.integers(low, high, count).astype(known.numpy)


def test_the_file_is_coremltools_own_byte_for_byte(tmp_path: Path) -> None:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    theirs = tmp_path / "theirs.bin"
    writer, offsets = _BlobStorageWriter(str(theirs)), []
    for count in (1, 7, 64, 1001):
        for kind, method in KINDS.items():
            values = numbers(kind, count)
            offsets.append(getattr(writer, method)(values.view(np.uint16) if kind == "float16" else values))
    del writer
    ours = io.BytesIO()
    own = blob.Writer(ours)
    mine = [own.add_array(kind, numbers(kind, count)) for count in (1, 7, 64, 1001) for kind in KINDS]
    own.finish()
    assert mine == offsets
    expected = theirs.read_bytes()
    # coremltools ends with the last number, this writer with the 64 bytes that it is in.
    assert ours.getvalue()[: len(expected)] == expected
    assert not any(ours.getvalue()[len(expected) :])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 130])
def test_what_is_written_is_read(kind: str, count: int) -> None:
    file = io.BytesIO()
    writer = blob.Writer(file)
    writer.add_array("int8", np.ones(3, np.int8))
    offset = writer.add_array(kind, numbers(kind, count))
    writer.finish()
    reader = blob.Reader(file, "weight.bin")
    np.testing.assert_array_equal(reader.array(offset, (count,)), numbers(kind, count))
    with pytest.raises(IntegrityError, match=r"weight\.bin: the tensor at \d+ holds"):
        reader.array(offset, (count + 1,))


def written() -> bytes:
    file = io.BytesIO()
    writer = blob.Writer(file)
    writer.add_array("float32", np.arange(100, dtype=np.float32))
    writer.finish()
    return file.getvalue()


@pytest.mark.parametrize("length", [0, 63, 64, 100, 200])
def test_a_file_cut_short_is_no_file(length: int) -> None:
    with pytest.raises(IntegrityError, match="ends before byte"):
        blob.Reader(io.BytesIO(written()[:length]), "w").array(64, (100,))


def test_an_offset_where_no_tensor_begins_is_refused() -> None:
    reader = blob.Reader(io.BytesIO(written()), "w")
    with pytest.raises(IntegrityError, match="at 128 begins no tensor"):
        reader.entry(128)


def test_a_version_that_is_not_known_is_refused() -> None:
    data = bytearray(written())
    data[4] = 3
    with pytest.raises(IntegrityError, match="version 2"):
        blob.Reader(io.BytesIO(bytes(data)), "w")


def test_pieces_that_do_not_make_up_the_tensor_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="4 bytes for a tensor of 8"):
        blob.Writer(io.BytesIO()).add("float32", [bytes(4)], 2)
