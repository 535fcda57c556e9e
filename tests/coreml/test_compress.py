"""Smaller packages: what coremltools and the runner make of them, and recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelbake.coreml.runner import Runner
from modelbake.errors import UsageError
from modelbake.export.coreml import encoders, package
from modelbake.export.coreml.calibrate import Calibration, word_salad
from modelbake.export.coreml.compress import Recipe, Sensitivity, measure, to_int8, to_palettes
from modelbake.export.coreml.convert import convert
from tests.coreml import contents
from tests.unit.export import coreml_tiny


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> encoders.Encoder:
    return encoders.text_encoder(coreml_tiny.sentence_model(tmp_path_factory.mktemp("model")), (16,))


@pytest.fixture(scope="module")
def packages(encoder: encoders.Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The tiny encoder by precision and oldest system. Its tables are too small to be worth it but for the patch below."""
    folder = tmp_path_factory.mktemp("packages")
    made = {}
    for precision in ("fp32", "fp16"):
        for target in ("iOS16", "iOS18"):
            path = folder / f"{precision}-{target}.mlpackage"
            convert(encoder.module, encoder.inputs, encoder.output, path, precision, target)  # type: ignore[arg-type]
            made[precision, target] = path
    return made


@pytest.fixture(scope="module")
def calibration(encoder: encoders.Encoder) -> Calibration:
    return Calibration(encoder.module, word_salad(coreml_tiny.VOCABULARY, 1, 2, 3, count=24, length=16))


@pytest.fixture(autouse=True)
def _small_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelbake.export.coreml.rewrite.SMALLEST", 1024)


def answer(path: Path) -> Any:
    run = Runner(path)
    given = [coreml_tiny.text(16, tokens, seed=tokens) for tokens in (3, 8, 16)]
    return np.concatenate(
        [run.run({"input_ids": i.numpy(), "attention_mask": m.numpy()})["embeddings"] for i, m in given]
    )


def coremltools_own(path: Path) -> dict[str, Any]:
    """Every constant as coremltools decompresses it."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    program = load.load(
        model.get_spec(),
        specification_version=model.get_spec().specificationVersion,
        file_weights_dir=model.weights_dir,
    )
    found = {}
    for operation in program.functions["main"].operations:
        if operation.op_type.startswith("constexpr_"):
            found[operation.outputs[0].name] = operation.materialized_val_inference()
        elif operation.op_type == "const":
            found[operation.outputs[0].name] = operation.val.val
    return found


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_int8_is_near_and_coremltools_makes_the_same_of_it(
    packages: dict[tuple[str, str], Path], tmp_path: Path, precision: str, target: str
) -> None:
    source, small = packages[precision, target], tmp_path / "int8.mlpackage"
    to_int8(source, small)
    assert contents.size(small) < contents.size(source)
    own = coremltools_own(small)
    compared = 0
    for name, values in contents.dense(small):
        np.testing.assert_array_equal(values, own[name])
        compared += 1
    assert compared > 15
    kinds = {"iOS16": "constexpr_affine_dequantize", "iOS18": "constexpr_blockwise_shift_scale"}
    with package.reading(small) as (spec, _):
        used = [operation.type for operation in package.operations(spec) if operation.type.startswith("constexpr")]
        assert used == [kinds[target]] * 13
    assert (answer(small) * answer(source)).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_palettes_are_near_and_coremltools_makes_the_same_of_them(
    packages: dict[tuple[str, str], Path], calibration: Calibration, tmp_path: Path, precision: str
) -> None:
    source = packages[precision, "iOS18"]
    sensitivity = measure(source, calibration)
    cosines = []
    for average in (4, 5, 6, 8):
        small = tmp_path / f"{average}.mlpackage"
        recipe = sensitivity.recipe(average)
        to_palettes(source, small, calibration, recipe)
        own = coremltools_own(small)
        for name, values in contents.dense(small):
            np.testing.assert_array_equal(values, own[name])
        with package.reading(small) as (spec, _):
            written = spec.description.metadata.userDefined["modelbake.recipe"]
        assert json.loads(written) == json.loads(recipe.text())
        cosines.append(float((answer(small) * answer(source)).sum(axis=1).mean()))
    assert cosines == sorted(cosines)
    assert cosines[0] > 0.95
    assert cosines[-1] > 0.9999


def test_palettes_need_a_program_for_ios_18(
    packages: dict[tuple[str, str], Path], calibration: Calibration, tmp_path: Path
) -> None:
    source = packages["fp16", "iOS16"]
    with pytest.raises(UsageError, match="need a program for iOS18"):
        to_palettes(source, tmp_path / "x.mlpackage", calibration, measure(source, calibration).recipe(4))
    assert not list(tmp_path.iterdir())


def test_a_recipe_for_another_model_is_refused(
    packages: dict[tuple[str, str], Path], calibration: Calibration, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no weight 'nothing'"):
        to_palettes(packages["fp16", "iOS18"], tmp_path / "x.mlpackage", calibration, Recipe({"nothing": 4}))


def test_bits_go_where_they_save_most() -> None:
    sizes = {"large": 1000, "dear": 100, "unknown": 10, "cheap": 100}
    sensitivity = Sensitivity(sizes, {"large": 0.01, "dear": 0.02, "unknown": np.inf, "cheap": 0.0001})
    assert set(sensitivity.recipe(4).bits.values()) == {4}
    assert sensitivity.recipe(4.3).bits == {"large": 4, "dear": 6, "unknown": 8, "cheap": 4}
    for average in (4.5, 5, 6, 7, 8):
        bits = sensitivity.recipe(average).bits
        assert sum(bits[name] * sizes[name] for name in sizes) <= average * sum(sizes.values())
    with pytest.raises(UsageError, match="ask for more"):
        sensitivity.recipe(3)


def test_a_model_without_weights_worth_it_is_refused(
    packages: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelbake.export.coreml.rewrite.SMALLEST", 1 << 20)
    with pytest.raises(UsageError, match="no weights that fewer bits would make smaller"):
        to_int8(packages["fp16", "iOS16"], tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())
