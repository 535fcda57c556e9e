"""What the reader of training data accepts, what it refuses and in which words, and how data is split by video."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.export.boundary_regressor import data

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "models" / "regressor" / "sample_training_data.json"


def row(video: str = "v1", query: str = "a dog runs", **changes: Any) -> dict[str, Any]:
    vectors = {f"{name}_features": [0.25] * 512 for name in ("text", "start_image", "end_image")}
    return {"video_id": video, "query": query, **vectors, "segment": [1.5, 4], "target": [1, 5.25], **changes}


def document(*rows: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"schema_version": 1, "feature_dimension": 512, "rows": list(rows), **changes}).encode()


def with_value(index: int, value: Any) -> list[Any]:
    return [value if i == index else 0.25 for i in range(512)]


def without(field: str) -> dict[str, Any]:
    return {key: value for key, value in row().items() if key != field}


def test_rows_become_float32_arrays_in_the_order_of_the_file() -> None:
    read = data.parse(document(row("b"), row("a", text_features=with_value(3, -2.5))), "data.json")
    assert len(read) == 2
    assert read.video_ids == ("b", "a")
    assert read.text_features.shape == read.start_image_features.shape == read.end_image_features.shape == (2, 512)
    assert read.text_features[1, 3] == -2.5
    np.testing.assert_array_equal(read.segments, np.array([[1.5, 4]] * 2, dtype=np.float32))
    np.testing.assert_array_equal(read.targets, np.array([[1, 5.25]] * 2, dtype=np.float32))
    assert {array.dtype for array in (read.text_features, read.segments, read.targets)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (row("v2", text_features=[0.25] * 511), "rows[1] (video 'v2'): text_features: expected 512 numbers, got 511"),
        (row("v2", end_image_features=[1, 2]), "rows[1] (video 'v2'): end_image_features: expected 512 numbers, got 2"),
        (
            row("v2", start_image_features=with_value(17, float("nan"))),
            "rows[1] (video 'v2'): start_image_features[17]: expected a finite float32 number, got nan",
        ),
        (
            row("v2", text_features=with_value(511, float("-inf"))),
            "rows[1] (video 'v2'): text_features[511]: expected a finite float32 number, got -inf",
        ),
        (
            row("v2", text_features=with_value(0, 1e39)),
            "rows[1] (video 'v2'): text_features[0]: expected a finite float32 number, got 1e+39",
        ),
        (row("v2", text_features=[0] * 512), "rows[1] (video 'v2'): text_features: expected a vector with a direction"),
        (row("v2", text_features=with_value(9, "x")), "rows[1]: Expected `float`, got `str` - at `$.text_features[9]`"),
        (row("v2", segment=[4, 4]), "rows[1] (video 'v2'): segment: expected 0 <= start < end in seconds, got [4, 4]"),
        (
            row("v2", segment=[-1, 4]),
            "rows[1] (video 'v2'): segment: expected 0 <= start < end in seconds, got [-1, 4]",
        ),
        (row("v2", target=[9, 4]), "rows[1] (video 'v2'): target: expected 0 <= start < end in seconds, got [9, 4]"),
        (row("v2", target=[1, float("inf")]), "rows[1] (video 'v2'): target[1]: expected a finite float32 number"),
        (row("v2", target=[1, 2, 3]), "rows[1]: Expected `array` of length 2 - at `$.target`"),
        (row(""), "rows[1]: Expected `str` of length >= 1 - at `$.video_id`"),
        (without("query"), "rows[1]: Object missing required field `query`"),
        (row("v2", txt=[]), "rows[1]: Object contains unknown field `txt`"),
        (
            row(),
            "rows[1] (video 'v1'): query: expected one row per video_id and query, got 'a dog runs' again after rows[0]",
        ),
    ],
)
def test_a_row_that_is_not_valid_is_named_with_file_row_field_and_expectation(
    broken: dict[str, Any], told: str
) -> None:
    with pytest.raises(IntegrityError) as caught:
        data.parse(document(row(), broken), "folder/data.json")
    assert str(caught.value).startswith(f"folder/data.json: {told}")
    assert "models/regressor/README.md" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"{", "not the JSON expected"),
        (b"\xff\xfe\x00", "not the JSON expected"),
        (b'{"rows":' + b"[" * 100_000, "not the JSON expected"),
        (document(), "rows: expected at least one row, got none"),
        (document(row(), schema_version=2), "schema_version: expected 1, got 2"),
        (document(row(), feature_dimension=768), "feature_dimension: expected 512, got 768"),
        (document(row())[:-30], "rows[0]: not the JSON expected: the file ends in the middle of it"),
        (b'{"schema_version": 2, "rows": [{"another": "form"}]}', "schema_version: expected 1, got 2"),
        (document(row()).replace(b'"rows"', b'"r\\u006fws"'), "rows: expected the key to be written"),
        (document(row(), rows=None), "Expected `array`, got `null` - at `$.rows`"),
    ],
)
def test_a_document_that_is_not_valid_is_refused_with_its_reason(content: bytes, told: str) -> None:
    with pytest.raises(IntegrityError, match=r"data\.json") as caught:
        data.parse(content, "data.json")
    assert told in str(caught.value)


def test_the_same_query_may_stand_in_two_videos_and_two_queries_in_one_video() -> None:
    assert len(data.parse(document(row("a"), row("b"), row("a", "a cat sleeps")), "data.json")) == 3


def test_a_file_that_is_not_there_is_a_source_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachableError, match=r"absent\.json"):
        data.read(tmp_path / "absent.json")


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 60) | st.integers(0, 25_000), dropped=st.integers(0, 40), put=st.binary(max_size=12))
def test_whatever_the_bytes_they_are_read_or_refused_but_never_crash(cut: int, dropped: int, put: bytes) -> None:
    content = document(row(), row("v2", text_features=[-0.5] * 512))
    damaged = content[:cut] + put + content[cut + dropped :]
    try:
        read = data.parse(damaged, "data.json")
    except IntegrityError as error:
        assert str(error).startswith("data.json: ")  # noqa: PT017 (either outcome is right)
    else:
        assert np.isfinite(read.text_features).all()
        assert (read.segments[:, 0] < read.segments[:, 1]).all()


def test_the_three_parts_share_no_video_and_lose_no_row() -> None:
    sample = data.read(SAMPLE)
    split = data.split_by_video(sample, 0, "data.json")
    parts = [set(part.video_ids) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [16, 4, 4]
    assert len(set.union(*parts)) == 24
    assert len(split.train) + len(split.validation) + len(split.test) == len(sample)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    sample = data.read(SAMPLE)
    backwards = sample.take(list(reversed(range(len(sample)))))

    def tests(rows: data.TrainingData, seed: int) -> set[str]:
        return set(data.split_by_video(rows, seed, "data.json").test.video_ids)

    assert tests(sample, 0) == tests(backwards, 0)
    assert len({frozenset(tests(sample, seed)) for seed in range(5)}) > 1


def test_three_videos_are_enough_to_split_and_two_are_not() -> None:
    split = data.split_by_video(data.parse(document(row("a"), row("b"), row("c")), "data.json"), 0, "data.json")
    assert len(split.train) == len(split.validation) == len(split.test) == 1
    with pytest.raises(IntegrityError, match="expected at least 3 different video_id, got 2"):
        data.split_by_video(data.parse(document(row("a"), row("b")), "data.json"), 0, "data.json")


def test_the_committed_sample_is_what_its_generator_writes(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_regressor_sample.py"), str(made)], check=True)
    assert made.read_bytes() == SAMPLE.read_bytes()
    assert len(made.read_bytes()) < 1_000_000


def test_more_rows_than_the_first_ones_made_expect_are_read_too() -> None:
    long = [row(f"v{i}", "a query " + "x" * 60_000) for i in range(3)]
    short = [row(f"w{i}", segment=[i, i + 1]) for i in range(60)]
    read = data.parse(document(*long, *short), "data.json")
    assert len(read) == 63
    np.testing.assert_array_equal(read.segments[3:, 0], np.arange(60, dtype=np.float32))
    assert (read.text_features == 0.25).all()


def test_a_file_is_not_held_in_memory_beside_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    padding = b" " * 500_000 + b"}"
    rows = [json.dumps(row(f"v{i}")).encode()[:-1] + padding for i in range(60)]
    path.write_bytes(document()[:-2] + b",".join(rows) + b"]}")
    tracemalloc.start()
    try:
        read = data.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 60
    assert path.stat().st_size > 30_000_000
    assert peak < 8_000_000


def test_reading_data_needs_no_torch() -> None:
    code = "import sys, modelbake.export.boundary_regressor.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
