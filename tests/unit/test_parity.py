"""The parity gate: what differs from its goldens, by however little beyond the gate, does not pass."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake import goldens, parity
from modelbake.bundle import QualityGates
from modelbake.errors import IntegrityError, MachineError, ParityError
from modelbake.goldens import Case
from modelbake.manifest import Artifact, Parity, Quality
from tests.unit import tiny

GATE = 1e-5
WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
X = np.array([[1.0, 2.0], [3.0, -4.0], [0.25, 0.0]], np.float32)


def matrix(folder: Path, *cases: Case, weights: Any = WEIGHTS) -> Any:
    """An artifact y = x @ weights with these goldens."""
    tiny.matrix_graph(folder / "m.onnx", weights)
    goldens.write(folder / "m.npz", list(cases))
    facts = {"precision": "fp32", "coreml": None, "tokenizer": None, "preprocessing": None}
    return SimpleNamespace(path="m.onnx", role="boundary_regressor", **facts)


def case(outputs: Any = X @ WEIGHTS, role: str = "boundary_regressor", **inputs: Any) -> Case:
    return Case(role, "one", inputs or {"x": X}, {"y": outputs})


def replayed(folder: Path, *cases: Case, weights: Any = WEIGHTS, gate: float = GATE) -> Parity:
    return parity.replay(folder, matrix(folder, *cases, weights=weights), folder / "m.npz", gate)


def test_equal_outputs_pass(tmp_path: Path) -> None:
    second = Case("boundary_regressor", "two", {"x": X[:1]}, {"y": X[:1] @ WEIGHTS})
    assert replayed(tmp_path, case(), second) == Parity(0.0, GATE, 2)


def test_the_figure_is_the_largest_difference_rounded_up(tmp_path: Path) -> None:
    off = (X @ WEIGHTS).astype(np.float64)
    off[1, 1] += 3e-6
    off[0, 0] -= 1e-6
    assert replayed(tmp_path, case(off)) == Parity(5e-6, GATE, 1)


def test_a_figure_is_never_above_the_gate_that_was_kept(tmp_path: Path) -> None:
    off = (X @ WEIGHTS).astype(np.float64)
    off[0, 0] += 3.5e-6
    assert replayed(tmp_path, case(off), gate=4e-6) == Parity(4e-6, 4e-6, 1)


def test_one_changed_weight_misses_the_gate(tmp_path: Path) -> None:
    changed = WEIGHTS.copy()
    changed[1, 0] += 1e-4
    with pytest.raises(
        ParityError, match=r"m\.onnx: case 'one' differs from the reference by 0\.0004, the gate is 1e-05"
    ) as caught:
        replayed(tmp_path, case(), weights=changed)
    assert caught.value.exit_code == 6


def test_the_last_case_counts_as_much_as_the_first(tmp_path: Path) -> None:
    wrong = Case("boundary_regressor", "zz", {"x": X}, {"y": X @ WEIGHTS + 1})
    with pytest.raises(ParityError, match="'zz'"):
        replayed(tmp_path, case(), wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_fails_on_either_side_and_on_both(tmp_path: Path, value: float) -> None:
    reference = X @ WEIGHTS
    reference[0, 0] = value
    with pytest.raises(ParityError, match="'y' is not finite"):
        replayed(tmp_path, case(reference))
    strange = WEIGHTS.copy()
    strange[0, 0] = value
    with pytest.raises(ParityError, match="'y' is not finite"):
        replayed(tmp_path, case(), weights=strange)
    with pytest.raises(ParityError, match="'y' is not finite"):
        replayed(tmp_path, case(X @ strange), weights=strange)


@pytest.mark.parametrize("shape", [(2, 3), (6,), (3, 2, 1), (1, 2)])
def test_another_shape_fails_though_it_could_be_broadcast(tmp_path: Path, shape: tuple[int, ...]) -> None:
    outputs = np.resize(X @ WEIGHTS, shape)
    with pytest.raises(ParityError, match=re.escape(f"'y' has the shape (3, 2), the reference gave {shape}")):
        replayed(tmp_path, case(outputs))


def test_an_output_that_the_graph_does_not_have_fails(tmp_path: Path) -> None:
    wrong = Case("boundary_regressor", "one", {"x": X}, {"z": X})
    with pytest.raises(ParityError, match="'z' has the shape None"):
        replayed(tmp_path, wrong)


@pytest.mark.parametrize(
    "cases",
    [(), (case(role="text_encoder"),), (Case("boundary_regressor", "one", {"x": X}, {}),)],
    ids=["none", "other", "empty"],
)
def test_nothing_to_compare_is_no_pass(tmp_path: Path, cases: tuple[Case, ...]) -> None:
    with pytest.raises(
        IntegrityError, match=r"m\.npz has no case with outputs for boundary_regressor, so m\.onnx"
    ) as caught:
        replayed(tmp_path, *cases)
    assert caught.value.exit_code == 5


def test_inputs_that_the_graph_does_not_take_are_an_integrity_error(tmp_path: Path) -> None:
    for inputs in ({"x": X.astype(np.int64)}, {"x": X[:, :1]}, {"w": X}):
        with pytest.raises(IntegrityError, match=r"m\.onnx: the graph fails on its inputs"):
            replayed(tmp_path, case(**inputs))


def test_a_missing_graph_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    artifact = matrix(tmp_path, case())
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(MachineError, match=r"m\.onnx does not exist"):
        parity.replay(tmp_path, artifact, tmp_path / "m.npz", GATE)


@given(st.floats(1e-300, 1e300))
def test_rounding_up_gives_the_next_1_2_or_5_of_a_power_of_ten(value: float) -> None:
    bound = parity.round_up(value)
    assert value <= bound < 2.5 * value
    assert Decimal(repr(bound)).normalize().as_tuple().digits in ((1,), (2,), (5,))
    assert parity.round_up(bound) == bound


@pytest.mark.parametrize(
    ("value", "bound"),
    [(0.0, 0.0), (1e-6, 1e-6), (1.0000001e-6, 2e-6), (2.1e-6, 5e-6), (5.1e-6, 1e-5), (1e-5, 1e-5), (5e-324, 5e-324)],
)
def test_rounding_up_by_example(value: float, bound: float) -> None:
    assert parity.round_up(value) == bound


def text_case(**changes: Any) -> Case:
    texts = ["red cat", "dog"]
    fields: dict[str, Any] = {
        "inputs": tiny.tokens(texts),
        "outputs": {"sentence_embedding": tiny.embedding(texts, tiny.table())},
        "raw": {"text": np.array(texts)},
        **changes,
    }
    return Case("text_encoder", "texts", **fields)


def replay_text(folder: Path, golden: Case, tokenizer: dict[str, Any] | None = None) -> Parity:
    artifact = tiny.text_bundle(folder).artifacts[0]
    if tokenizer is not None:
        assert artifact.tokenizer is not None
        tiny.tokenizer_file(folder / artifact.tokenizer.path, **tokenizer)
        artifact = replace(artifact, tokenizer=replace(artifact.tokenizer, max_tokens=tokenizer["max_tokens"]))
    goldens.write(folder / "t.npz", [golden])
    return parity.replay(folder, artifact, folder / "t.npz", GATE)


def test_texts_that_the_runtime_tokenizes_as_the_reference_did_pass(tmp_path: Path) -> None:
    assert replay_text(tmp_path, text_case()).cases == 1


def test_padding_that_the_runtime_leaves_out_does_not_count(tmp_path: Path) -> None:
    wide = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in tiny.tokens(["red cat", "dog"]).items()}
    assert replay_text(tmp_path, text_case(inputs=wide)).cases == 1


@pytest.mark.parametrize(
    "golden",
    [
        text_case(raw={"text": np.array(["red dog", "dog"])}),
        text_case(raw={"text": np.array(["red cat dog", "dog"])}),
        text_case(raw={"text": np.array(["red cat", "dog", "dog"])}),
        text_case(
            inputs={
                name: np.pad(a, ((0, 0), (0, 1)), constant_values=1)
                for name, a in tiny.tokens(["red cat", "dog"]).items()
            }
        ),
        text_case(inputs={**tiny.tokens(["red cat", "dog"]), "token_type_ids": np.zeros((2, 2), np.int64)}),
    ],
    ids=["word", "longer", "more", "no padding", "another input"],
)
def test_token_ids_that_are_not_the_reference_s_fail(tmp_path: Path, golden: Case) -> None:
    with pytest.raises(
        ParityError, match=r"tokenizers/tiny-text/tokenizer\.json: case 'texts': the runtime's"
    ) as caught:
        replay_text(tmp_path, golden)
    assert caught.value.exit_code == 6


def test_a_tokenizer_that_cuts_elsewhere_fails(tmp_path: Path) -> None:
    texts = ["red green blue cat dog"]
    golden = text_case(
        inputs=tiny.tokens(texts),
        outputs={"sentence_embedding": tiny.embedding(texts, tiny.table())},
        raw={"text": np.array(texts)},
    )
    assert replay_text(tmp_path, golden).cases == 1
    with pytest.raises(ParityError, match="the runtime's"):
        replay_text(tmp_path, golden, {"max_tokens": 4})


def replay_image(folder: Path, change: Any) -> Parity:
    artifact: Artifact = tiny.image_bundle(folder).artifacts[0]
    (golden,) = goldens.read(folder / "goldens" / "tiny-image.npz")
    change(golden)
    goldens.write(folder / "i.npz", [golden])
    return parity.replay(folder, artifact, folder / "i.npz", GATE)


def test_pixels_that_the_runtime_makes_as_the_reference_did_pass(tmp_path: Path) -> None:
    assert replay_image(tmp_path, lambda golden: None).cases == 1


def shift_image(golden: Case) -> None:
    golden.raw["image.0"] = np.roll(golden.raw["image.0"], 1, axis=0)


def shift_pixel(golden: Case) -> None:
    golden.inputs["pixel_values"][0, 2, 3, 4] += 2e-6


def blank_pixel(golden: Case) -> None:
    golden.inputs["pixel_values"][0, 0, 0, 0] = np.nan


def repeat_pixels(golden: Case) -> None:
    golden.inputs["pixel_values"] = np.repeat(golden.inputs["pixel_values"], 2, axis=0)
    golden.outputs["image_embedding"] = np.repeat(golden.outputs["image_embedding"], 2, axis=0)


@pytest.mark.parametrize("change", [shift_image, shift_pixel, blank_pixel, repeat_pixels])
def test_pixels_that_are_not_the_reference_s_fail(tmp_path: Path, change: Any) -> None:
    with pytest.raises(ParityError, match=r"onnx/tiny-image\.onnx: case 'one': the runtime's pixels"):
        replay_image(tmp_path, change)


def test_images_are_taken_by_number_and_not_by_the_order_of_their_names(tmp_path: Path) -> None:
    from PIL import Image

    from modelbake.runtime.image_preprocess import preprocess

    artifact = tiny.image_bundle(tmp_path).artifacts[0]
    raw = np.random.default_rng(2).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    pixels = np.stack([preprocess(Image.fromarray(image), tiny.PREPROCESSING) for image in raw])
    golden = Case(
        "image_encoder",
        "eleven",
        {"pixel_values": pixels},
        {"image_embedding": pixels.mean(axis=(2, 3), dtype=np.float64)},
        {f"image.{index}": image for index, image in enumerate(raw)},
    )
    goldens.write(tmp_path / "i.npz", [golden])
    assert parity.replay(tmp_path, artifact, tmp_path / "i.npz", GATE).cases == 1


GATES = QualityGates(0.995, 0.95)


def embeddings(count: int = 40, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def naive_quality(found: Any, expected: Any) -> tuple[float, float]:
    """Mean cosine and top-10 overlap by plain loops."""

    def cosine(a: Any, b: Any) -> float:
        return float(np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)))

    def nearest(vectors: Any, index: int) -> set[int]:
        others = [other for other in range(len(vectors)) if other != index]
        others.sort(key=lambda other: cosine(vectors[index], vectors[other]), reverse=True)
        return set(others[:10])

    found, expected = found.astype(np.float64), expected.astype(np.float64)
    count = len(found)
    cosines = [cosine(found[i], expected[i]) for i in range(count)]
    shared = [len(nearest(found, i) & nearest(expected, i)) for i in range(count)]
    return sum(cosines) / count, sum(shared) / (10 * count)


@given(st.integers(0, 1000), st.floats(0, 2))
def test_mean_cosine_and_overlap_are_those_of_plain_loops(seed: int, noise: float) -> None:
    expected = embeddings(25, seed)
    found = expected + noise * embeddings(25, seed + 1)
    cosine, overlap = naive_quality(found, expected)
    assert parity.mean_cosine(found, expected) == pytest.approx(cosine, abs=1e-9)
    assert parity.top_overlap(found, expected) == pytest.approx(overlap, abs=1e-9)


def appraised(folder: Path, texts: list[str], reference: Any, gates: QualityGates = GATES) -> Quality:
    """The tiny text encoder, measured against `reference` on the texts."""
    artifact = tiny.text_bundle(folder).artifacts[0]
    case = goldens.evaluation_of_texts("text_encoder", texts, {"sentence_embedding": reference})
    goldens.write(folder / "e.npz", [text_case(), case])
    return parity.appraise(folder, artifact, folder / "e.npz", gates)


def test_a_variant_as_good_as_the_reference_has_the_best_figures_that_are_told(tmp_path: Path) -> None:
    texts = tiny.distinct_texts(50)
    quality = appraised(tmp_path, texts, tiny.embedding(texts, tiny.table()))
    assert quality == Quality(0.999999, 0.995, 1.0, 0.95, 50)


def test_figures_are_rounded_down_but_not_below_their_gates(tmp_path: Path) -> None:
    texts = tiny.distinct_texts(50)
    reference = tiny.embedding(texts, tiny.table()) + 0.02 * embeddings(50)
    cosine, overlap = naive_quality(tiny.embedding(texts, tiny.table()), reference)
    gates = QualityGates(cosine - 1e-7, overlap)
    assert appraised(tmp_path, texts, reference, gates) == Quality(cosine - 1e-7, cosine - 1e-7, overlap, overlap, 50)
    low = appraised(tmp_path, texts, reference, QualityGates(0, 0))
    assert cosine > low.mean_cosine >= 1 - 2.5 * (1 - cosine)
    assert overlap - 0.01 < low.top10_overlap <= overlap + 1e-12
    assert low.top10_overlap == round(low.top10_overlap, 2)


@pytest.mark.parametrize("gates", [QualityGates(0.9999, 0), QualityGates(0, 0.999)], ids=["cosine", "overlap"])
def test_either_gate_that_is_missed_fails_the_variant(tmp_path: Path, gates: QualityGates) -> None:
    texts = tiny.distinct_texts(50)
    reference = tiny.embedding(texts, tiny.table()) + 0.05 * embeddings(50)
    with pytest.raises(ParityError, match=r"onnx/tiny-text\.onnx: on 50 items its mean cosine is 0\.9") as caught:
        appraised(tmp_path, texts, reference, gates)
    assert caught.value.exit_code == 6


def test_embeddings_that_are_not_finite_pass_no_gate(tmp_path: Path) -> None:
    texts = tiny.distinct_texts(50)
    reference = tiny.embedding(texts, tiny.table())
    reference[7, 0] = np.nan
    with pytest.raises(ParityError, match="not finite"):
        appraised(tmp_path, texts, reference, QualityGates(-1, 0))


def test_without_an_evaluation_case_or_with_too_few_items_nothing_is_measured(tmp_path: Path) -> None:
    artifact = tiny.text_bundle(tmp_path).artifacts[0]
    with pytest.raises(IntegrityError, match=r"no evaluation case for text_encoder.*evaluation\.txt"):
        parity.appraise(tmp_path, artifact, tmp_path / "goldens" / "tiny-text.npz", GATES)
    few = tiny.distinct_texts(19)
    with pytest.raises(IntegrityError, match="at least 20 embeddings"):
        appraised(tmp_path, few, tiny.embedding(few, tiny.table()))


def test_an_evaluation_case_is_part_of_parity_too(tmp_path: Path) -> None:
    artifact = tiny.text_bundle(tmp_path).artifacts[0]
    texts = tiny.distinct_texts(50)
    for shift, passes in ((0, True), (1e-3, False)):
        reference = tiny.embedding(texts, tiny.table()) + np.float32(shift)
        goldens.write(
            tmp_path / "e.npz", [goldens.evaluation_of_texts("text_encoder", texts, {"sentence_embedding": reference})]
        )
        if passes:
            assert parity.replay(tmp_path, artifact, tmp_path / "e.npz", GATE).cases == 1
        else:
            with pytest.raises(ParityError, match="'evaluation' differs"):
                parity.replay(tmp_path, artifact, tmp_path / "e.npz", GATE)


def test_images_of_an_evaluation_case_are_preprocessed_by_the_runtime(tmp_path: Path) -> None:
    from PIL import Image

    from modelbake.runtime.image_preprocess import preprocess

    artifact = tiny.image_bundle(tmp_path).artifacts[0]
    raw = np.random.default_rng(2).integers(0, 256, (40, 9, 12, 3), dtype=np.uint8)
    reference = np.stack([preprocess(Image.fromarray(image), tiny.PREPROCESSING).mean(axis=(1, 2)) for image in raw])
    case = Case(
        "image_encoder",
        goldens.EVALUATION,
        {},
        {"image_embedding": reference},
        {f"image.{i}": image for i, image in enumerate(raw)},
    )
    goldens.write(tmp_path / "e.npz", [case])
    assert parity.appraise(tmp_path, artifact, tmp_path / "e.npz", GATES).items == 40


def test_an_evaluation_case_without_anything_to_make_inputs_from_is_an_integrity_error(tmp_path: Path) -> None:
    artifact = tiny.text_bundle(tmp_path).artifacts[0]
    goldens.write(tmp_path / "e.npz", [Case("text_encoder", "evaluation", {}, {"sentence_embedding": embeddings()})])
    with pytest.raises(IntegrityError, match="nothing to make its inputs from"):
        parity.appraise(tmp_path, artifact, tmp_path / "e.npz", GATES)
