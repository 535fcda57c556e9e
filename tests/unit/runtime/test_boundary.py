"""The boundary regressor in the runtime: what it takes, what it refuses, and which frames its features come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import TensorProto, helper

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import Artifact, BundleEntry, Parity, Tensor
from modelbake.runtime.boundary import BATCH, FRAMES, BoundaryRegressor, frame_times
from tests.unit import tiny

FEATURES = ("text_features", "start_image_features", "end_image_features")
DIMENSION = 4


def graph(path: Path) -> None:
    """A stand-in: both boundaries move by the first number of the text features times that of the start's less the end's."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", DIMENSION]) for name in FEATURES]
    segment = helper.make_tensor_value_info("segment", TensorProto.FLOAT, ["batch", 2])
    output = helper.make_tensor_value_info("adjusted_segment", TensorProto.FLOAT, ["batch", 2])
    nodes = [
        helper.make_node("Sub", [FEATURES[1], FEATURES[2]], ["difference"]),
        helper.make_node("Mul", [FEATURES[0], "difference"], ["product"]),
        helper.make_node("ReduceSum", ["product", "one"], ["sum"], keepdims=1),
        helper.make_node("Add", ["segment", "sum"], ["adjusted_segment"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    made = helper.make_graph(nodes, "tiny", [*inputs, segment], [output], [one])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True)
    onnx.save_model(model, str(path))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    graph(folder / "onnx" / "boundary.onnx")
    tiny.goldens.write(folder / "goldens.npz", [])
    return folder


@pytest.fixture(scope="module")
def entry(models: Path) -> BundleEntry:
    ref = tiny.file_ref(models, "onnx/boundary.onnx")
    artifact = Artifact(
        path=ref.path,
        sha256=ref.sha256,
        size=ref.size,
        format="onnx",
        role="boundary_regressor",
        precision="fp32",
        inputs=(
            *(Tensor(name, "float32", ("batch", DIMENSION)) for name in FEATURES),
            Tensor("segment", "float32", ("batch", 2)),
        ),
        outputs=(Tensor("adjusted_segment", "float32", ("batch", 2)),),
        parity=Parity(0, 1e-5, 1),
        tools={},
    )
    return tiny.entry_of(models, "tiny-boundary", (artifact,), "goldens.npz")


@pytest.fixture(scope="module")
def regressor(entry: BundleEntry, models: Path) -> BoundaryRegressor:
    return BoundaryRegressor(entry, models, threads=1)


def rows(count: int) -> dict[str, Any]:
    generator = np.random.default_rng(count)
    features = {name: generator.normal(size=(count, DIMENSION)).astype(np.float32) for name in FEATURES}
    starts = generator.uniform(0, 50, size=(count, 1))
    return {**features, "segments": np.concatenate([starts, starts + generator.uniform(1, 9, (count, 1))], axis=1)}


@pytest.mark.parametrize("count", [0, 1, 3, BATCH + 1])
def test_segments_are_adjusted_in_their_order_in_float32(regressor: BoundaryRegressor, count: int) -> None:
    given = rows(count)
    adjusted = regressor.adjust(**given)
    text, start, end = (given[name] for name in FEATURES)
    expected = given["segments"] + (text * (start - end)).sum(axis=1, keepdims=True)
    assert (adjusted.shape, adjusted.dtype) == ((count, 2), np.float32)
    np.testing.assert_allclose(adjusted, expected, atol=1e-4)
    assert regressor.dimension == DIMENSION


def test_one_segment_comes_without_the_leading_dimension_as_plain_lists_too(regressor: BoundaryRegressor) -> None:
    given = {name: values[0].tolist() for name, values in rows(1).items()}
    adjusted = regressor.adjust(**given)
    assert (adjusted.shape, adjusted.dtype) == ((2,), np.float32)
    np.testing.assert_array_equal(adjusted, regressor.adjust(**rows(1))[0])


def changed(name: str, place: Any, value: Any) -> dict[str, Any]:
    given = rows(3)
    given[name][place] = value
    return given


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({**rows(3), "text_features": np.zeros((3, 5))}, r"text_features: expected the shape \[3, 4\].* got \[3, 5\]"),
        ({**rows(3), "end_image_features": np.zeros((2, 4))}, r"end_image_features: expected the shape \[3, 4\].* got \[2, 4\]"),
        ({**rows(3), "segments": np.zeros((3, 3))}, r"segment: expected the shape \[3, 2\].* got \[3, 3\]"),
        ({**rows(3), "segments": 3.0}, r"expected the shape"),
        ({**rows(1), "segments": [1.0, 2.0]}, r"expected the shape"),
        ({**rows(3), "text_features": "words"}, "text_features: expected an array of numbers"),
        ({**rows(3), "text_features": [[1.0], [1.0, 2.0]]}, "text_features: expected an array of numbers"),
        (changed("start_image_features", (1, 2), np.nan), r"start_image_features\[1, 2\]: expected a finite float32 number, got nan"),
        (changed("segments", (2, 1), 1e39), r"segment\[2, 1\]: expected a finite float32 number, got inf"),
        (changed("text_features", 1, 0.0), r"text_features\[1\]: expected a vector with a direction"),
        (changed("segments", 2, [4.0, 4.0]), r"segment\[2\]: expected 0 <= start < end in seconds, got \[4\.0, 4\.0\]"),
        (changed("segments", 0, [-1.0, 4.0]), r"segment\[0\]: expected 0 <= start < end"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_wrong_usage_and_is_named(
    regressor: BoundaryRegressor, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        regressor.adjust(**given)


def test_a_bundle_that_adjusts_nothing_is_wrong_usage(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'tiny-text' adjusts no segments"):
        BoundaryRegressor(tiny.text_bundle(tmp_path), tmp_path)


def test_a_manifest_with_other_inputs_is_an_integrity_error(entry: BundleEntry, models: Path) -> None:
    (artifact,) = entry.artifacts
    for inputs in (
        artifact.inputs[1:],
        (*artifact.inputs[:2], Tensor(FEATURES[2], "float32", ("batch", 9)), artifact.inputs[3]),
    ):
        with pytest.raises(IntegrityError, match="other inputs"):
            BoundaryRegressor(replace(entry, artifacts=(replace(artifact, inputs=inputs),)), models)


def test_frames_lie_a_quarter_of_the_length_around_each_boundary() -> None:
    starts, ends = frame_times([10, 18])
    assert len(starts) == len(ends) == FRAMES
    assert (starts[0], starts[-1], ends[0], ends[-1]) == (8, 12, 16, 20)
    np.testing.assert_allclose(np.diff(starts), 4 / (FRAMES - 1))


@given(st.floats(0, 1e5), st.floats(0.1, 1e4))
def test_frames_are_never_before_the_video_and_in_order(start: float, length: float) -> None:
    for times in frame_times([start, start + length]):
        assert (times >= 0).all()
        assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("segment", [[1, 1], [-1, 2], [1, 2, 3], [[1, 2]], ["a", "b"], [0, float("nan")]])
def test_times_of_what_is_no_segment_are_wrong_usage(segment: Any) -> None:
    with pytest.raises(UsageError, match="segment"):
        frame_times(segment)
