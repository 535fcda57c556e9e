"""Walking the rows of a document that arrives in pieces."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.export.boundary_regressor import rows
from modelbake.export.boundary_regressor.rows import NotRowsError, Rows


class Dripping(io.BytesIO):
    """Gives `step` bytes at a time, whatever is asked for."""

    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.step)


def walk(content: bytes, step: int = 1 << 20) -> tuple[list[bytes], Rows]:
    found = Rows(Dripping(content, step))
    return list(found), found


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
keys = st.text(max_size=6).filter(lambda key: key != "rows")


@settings(max_examples=60, deadline=None)
@given(
    before=st.dictionaries(keys, values, max_size=3),
    array=st.lists(values, max_size=4),
    after=st.dictionaries(keys, values, max_size=3),
    indent=st.none() | st.integers(0, 3),
    step=st.integers(1, 40),
)
def test_any_rows_come_out_as_they_went_in_whatever_the_pieces(
    before: dict[str, object], array: list[object], after: dict[str, object], indent: int | None, step: int
) -> None:
    document = {**before, "rows": array, **{key: value for key, value in after.items() if key not in before}}
    found, walked = walk(json.dumps(document, indent=indent).encode(), step)
    assert [json.loads(raw) for raw in found] == array
    assert json.loads(walked.document) == {**document, "rows": []}
    assert json.loads(walked.before) == {**before, "rows": []}


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"a": 1}', b'{"rows": 3}', b'{"a": {"rows": [1]}}', b'"rows"', b'{"a"']
)
def test_a_document_without_the_array_comes_whole_and_without_rows(content: bytes) -> None:
    found, walked = walk(content, 3)
    assert (found, walked.document, walked.before) == ([], content, b"")


@pytest.mark.parametrize(
    ("content", "row", "told"),
    [
        (b'{"rows": [', 0, "ends before the array"),
        (b'{"rows": [{"a": "', 0, "ends in the middle"),
        (b'{"rows": [{}, [1', 1, "ends in the middle"),
        (b'{"rows": [{}, 12', 1, "ends in the middle"),
        (b'{"rows": [{},', 1, "ends before the array"),
        (b'{"rows": [{} {}]}', 0, "expected ',' or ']' after it, got '{'"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_rows_that_are_cut_off_are_named(content: bytes, row: int, told: str, step: int) -> None:
    with pytest.raises(NotRowsError) as caught:
        walk(content, step)
    assert caught.value.row == row
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b'{"rows": [{}, "' + b"x" * 300 + b'"]}', 1),
        (b'{"rows": [{}]' + b" " * 300 + b"}", None),
        (b'{"a": "' + b"x" * 300 + b'", "rows": []}', None),
    ],
    ids=["row", "after", "before"],
)
def test_what_is_long_beyond_reason_is_not_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, content: bytes, row: int | None
) -> None:
    monkeypatch.setattr(rows, "LONGEST_ROW", 100)
    monkeypatch.setattr(rows, "LONGEST_HEAD", 100)
    with pytest.raises(NotRowsError) as caught:
        walk(content, 10)
    assert caught.value.row == row
