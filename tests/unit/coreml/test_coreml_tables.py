"""Rows of a table of words read alone: the same as of the table made whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import types

from modelbake.coreml import evaluate
from modelbake.coreml.weights import WeightFile
from modelbake.errors import IntegrityError
from tests.unit.coreml.programs import IOS16, IOS18, Array, evaluated

RANDOM = np.random.default_rng(8)
FLOATS = RANDOM.normal(size=(30, 8)).astype(np.float32)
SCALE = np.abs(RANDOM.normal(size=(30, 2))).astype(np.float32)
INDICES = np.array([[3, 0, 29], [29, 7, 3]], np.int32)


def whole(low: int, high: int, dtype: Any) -> Array:
    return RANDOM.integers(low, high, (30, 8)).astype(dtype)


INT8, UINT8, INT4 = whole(-128, 128, np.int8), whole(0, 256, np.uint8), whole(-8, 8, types.np_int4_dtype)


TABLES: dict[str, Any] = {
    "fp32": lambda mb: FLOATS,
    "fp16": lambda mb: FLOATS.astype(np.float16),
    "int8": lambda mb: mb.constexpr_blockwise_shift_scale(data=INT8, scale=SCALE),
    "int4": lambda mb: mb.constexpr_blockwise_shift_scale(data=INT4, scale=SCALE),
    "int8 and fp16": lambda mb: mb.constexpr_blockwise_shift_scale(data=INT8, scale=SCALE.astype(np.float16)),
    "uint8 and offset": lambda mb: mb.constexpr_blockwise_shift_scale(data=UINT8, scale=SCALE, offset=SCALE * 9),
}


def tables(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each operation took rows alone."""
    inner, seen = evaluate.table_of, []

    def seeing(*arguments: Any) -> Any:
        found = inner(*arguments)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(evaluate, "table_of", seeing)
    return seen


@pytest.mark.parametrize("version", [IOS16, IOS18])
@pytest.mark.parametrize("name", TABLES)
def test_rows_read_alone_are_those_of_the_whole_table(
    name: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == IOS16 and "int" in name:
        pytest.skip("of iOS18")
    seen = tables(monkeypatch)
    (alone,) = evaluated(
        lambda mb, i: mb.gather(x=TABLES[name](mb), indices=i, axis=0), {"i": INDICES}, tmp_path / "a", version
    )
    assert True in seen
    monkeypatch.setattr(evaluate, "table_of", lambda *arguments: None)
    (table,) = evaluated(
        lambda mb, i: mb.gather(x=TABLES[name](mb), indices=i, axis=0), {"i": INDICES}, tmp_path / "b", version
    )
    assert alone.dtype == table.dtype
    assert np.array_equal(alone, table)
    assert alone.shape == (2, 3, 8)


def test_rows_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightFile, "read", None)
    (found,) = evaluated(lambda mb, i: mb.gather(x=FLOATS, indices=i), {"i": INDICES}, tmp_path)
    assert np.array_equal(found, FLOATS[INDICES])


def test_a_table_along_another_axis_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tables(monkeypatch)
    (found,) = evaluated(lambda mb, i: mb.gather(x=FLOATS, indices=i, axis=1), {"i": INDICES % 8}, tmp_path)
    assert np.array_equal(found, np.take(FLOATS, INDICES % 8, 1))
    assert True not in seen


def test_a_row_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="the index 30 of 30"):
        evaluated(lambda mb, i: mb.gather(x=FLOATS, indices=i), {"i": np.int32([30])}, tmp_path)
