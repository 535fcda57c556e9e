"""Goldens as packages take them, and Apple's runtime as coremltools offers it: images, ids in their lengths, and what does not fit."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from modelbake import goldens
from modelbake.errors import IntegrityError
from modelbake.finish.items import items_of, own_items
from modelbake.finish.predict import _PLANS_SINCE, Coremltools
from modelbake.goldens import Arrays, Case
from modelbake.manifest import Artifact, BundleEntry, Tensor
from modelbake.runtime.image_preprocess import denormalize, preprocess
from tests.unit import tiny
from tests.unit.finish import standins


@pytest.fixture
def text(entry: BundleEntry) -> Artifact:
    return entry.artifacts[0]


@pytest.fixture
def image(text: Artifact) -> Artifact:
    return replace(
        text,
        role="image_encoder",
        inputs=(Tensor("image", "uint8", (1, 3, tiny.SIZE, tiny.SIZE)),),
        tokenizer=None,
        preprocessing=tiny.PREPROCESSING,
    )


def golden(folder: Path, *cases: Case) -> Path:
    path = folder / "made.npz"
    goldens.write(path, list(cases))
    return path


def out(rows: int) -> Arrays:
    return {"embeddings": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}


def test_ids_are_padded_to_the_next_length_and_masked_there(models: Path, text: Artifact) -> None:
    items = items_of(models, text, models / standins.GOLDEN)
    first, *more = [item for item in items if item.name == "one[0]"]
    assert [item.shape for item in (first, *more)] == ["32", "64", "128"]
    for item in (first, *more):
        ids, mask = item.inputs["input_ids"], item.inputs["attention_mask"]
        assert (ids.dtype, mask.dtype) == (np.int32, np.int32)
        assert ids.shape == mask.shape == (1, int(item.shape))
        np.testing.assert_array_equal(ids[0, :2], tiny.tokens(["red cat"])["input_ids"][0])
        assert not ids[0, 2:].any()
        assert (mask.sum(), mask[0, :2].sum()) == (2, 2)


def test_texts_that_have_no_inputs_are_tokenised(models: Path, text: Artifact) -> None:
    items = [i for i in items_of(models, text, models / standins.GOLDEN) if i.name.startswith("evaluation")]
    assert len(items) == len(standins.TEXTS)
    for item, written in zip(items, standins.TEXTS, strict=True):
        np.testing.assert_array_equal(item.inputs["input_ids"][0, :5], tiny.tokens([written])["input_ids"][0])


def test_images_become_the_bytes_that_the_package_normalises(models: Path, image: Artifact) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    evaluation = Case("image_encoder", goldens.EVALUATION, {}, out(2), {"image.0": raw, "image.1": raw[::-1].copy()})
    given = np.random.default_rng(2).integers(0, 256, (1, 3, tiny.SIZE, tiny.SIZE), dtype=np.uint8)
    items = items_of(models, image, golden(models, evaluation, Case("image_encoder", "one", {"image": given}, out(1))))
    assert [item.name for item in items] == ["evaluation[0]", "evaluation[1]", "one[0]"]
    pixels = preprocess(Image.fromarray(raw), tiny.PREPROCESSING)
    np.testing.assert_array_equal(items[0].inputs["image"][0], denormalize(pixels, tiny.PREPROCESSING))
    np.testing.assert_array_equal(items[2].inputs["image"], given)
    assert {item.inputs["image"].dtype for item in items} == {np.dtype(np.uint8)}
    assert {item.shape for item in items} == {f"1x3x{tiny.SIZE}x{tiny.SIZE}"}


def test_what_a_variant_gave_itself_is_apart_from_the_reference_s(models: Path, entry: BundleEntry) -> None:
    fp32, int8 = entry.artifacts
    path = models / standins.GOLDEN
    assert own_items(fp32, path) == []
    (own,) = own_items(int8, path)
    assert own.name == "one[0]"
    assert len(items_of(models, int8, path)) == 27


ROW: Arrays = {"input_ids": np.array([[2, 5]]), "attention_mask": np.array([[1, 1]])}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("text_encoder", "c", ROW, {}), "has no case with outputs"),
        (Case("image_encoder", "c", ROW, out(1)), "has no case with outputs for text_encoder"),
        (Case("text_encoder", "c", ROW, out(2)), "has 1 rows of inputs and others of outputs"),
        (Case("text_encoder", "c", ROW | {"attention_mask": np.array([[0, 1]])}, out(1)), "padding between its tokens"),
        (Case("text_encoder", "c", {}, out(1)), "neither inputs nor texts"),
        (
            Case("text_encoder", "c", {name: np.ones((1, 129), np.int64) for name in ROW}, out(1)),
            "has 129 tokens, and .* takes 128 at most",
        ),
        (
            Case("text_encoder", "c", {"input_ids": np.array([[1 << 40]]), "attention_mask": np.array([[1]])}, out(1)),
            "no int32",
        ),
    ],
    ids=["no outputs", "another role", "rows", "holes", "nothing", "too long", "too large"],
)
def test_goldens_that_do_not_fit_are_refused(models: Path, text: Artifact, case: Case, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        items_of(models, text, golden(models, case))


def test_inputs_of_other_names_or_types_are_refused(models: Path, text: Artifact, image: Artifact) -> None:
    path = golden(models, Case("text_encoder", "c", ROW, out(1)))
    with pytest.raises(IntegrityError, match="takes token_type_ids"):
        items_of(models, replace(text, inputs=(Tensor("token_type_ids", "int32", (1, 32)),)), path)
    with pytest.raises(IntegrityError, match="is int64"):
        items_of(models, replace(text, inputs=tuple(replace(t, dtype="int64") for t in text.inputs)), path)
    coreml = replace(text.coreml, lengths=())  # type: ignore[type-var]
    with pytest.raises(IntegrityError, match="no length"):
        items_of(models, replace(text, coreml=coreml), path)
    with pytest.raises(IntegrityError, match="nothing to make inputs from"):
        items_of(models, image, golden(models, Case("image_encoder", "c", {}, out(1))))


def test_coremltools_has_what_is_called_of_it() -> None:
    """The names and parameters that Coremltools uses exist in the coremltools that is installed; nothing of them runs on Linux."""
    import coremltools
    from coremltools.models import compute_plan

    assert {"path", "compute_units"} <= inspect.signature(coremltools.models.CompiledMLModel).parameters.keys()
    assert "data" in inspect.signature(coremltools.models.CompiledMLModel.predict).parameters
    plan = compute_plan.MLComputePlan
    assert list(inspect.signature(plan.load_from_path).parameters)[1] == "compute_units"
    assert callable(plan.get_compute_device_usage_for_mlprogram_operation)
    assert "preferred_compute_device" in compute_plan.MLComputePlanDeviceUsage.__dataclass_fields__
    assert {"program"} <= compute_plan.MLModelStructure.__dataclass_fields__.keys()
    # On another system it is no version, and so before every one.
    assert coremltools.utils._macos_version() < _PLANS_SINCE
    from coremltools.models import compute_device

    from modelbake.finish.predict import _DEVICES

    assert all(hasattr(compute_device, name) for name in _DEVICES)


def test_images_and_arrays_reach_core_ml_as_it_wants_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class StandInModel:
        def __init__(self, path: str, compute_units: object) -> None:
            given.update(path=path, compute_units=compute_units)

        def predict(self, data: dict[str, Any]) -> dict[str, Any]:
            given.update(data)
            return {"embeddings": [[1.0, 2.0]]}

    standin = types.ModuleType("coremltools")
    standin.models = types.SimpleNamespace(CompiledMLModel=StandInModel)  # type: ignore[attr-defined]
    standin.ComputeUnit = {"CPU_AND_NE": "the Neural Engine"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coremltools", standin)
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 3, 2, 3)
    ids = np.array([[1, 2]], np.int32)
    outputs = Coremltools().load(tmp_path, "CPU_AND_NE").run({"image": pixels, "input_ids": ids})
    assert (given["path"], given["compute_units"]) == (str(tmp_path), "the Neural Engine")
    assert given["image"].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(given["image"]), pixels[0].transpose(1, 2, 0))
    assert given["input_ids"] is ids
    np.testing.assert_array_equal(outputs["embeddings"], [[1.0, 2.0]])
