"""A bundle's Core ML variants by the way they are shipped: made by the exporter, replayed by parity, damaged in the saved package."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from modelbake import goldens, parity
from modelbake.bundle import FourBitVariant, Fp16Variant, Int8Variant, QualityGates
from modelbake.coreml.package import open_package
from modelbake.errors import IntegrityError, ParityError
from modelbake.export.artifact import Draft
from modelbake.export.coreml import encoders, variants
from modelbake.goldens import Case
from tests.unit.export import coreml_tiny

ROLE = "text_encoder"
LENGTH = 16
GATES = QualityGates(mean_cosine=0.9, top10_overlap=0.3)
TEXTS = 24
NAMES = ("fp16", "int8", "4bit")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Draft]]:
    """A tiny BERT with all variants: its models folder and drafts; the evaluation case has inputs, as no tokenizer is here."""
    import torch

    folder = tmp_path_factory.mktemp("variants")
    model = coreml_tiny.sentence_model(folder / "model")
    encoder = encoders.text_encoder(model, (LENGTH,))
    cases = []
    for name, count in (("short", 1), ("all", LENGTH)):
        ids, mask = coreml_tiny.text(LENGTH, count)
        cases.append(_case(encoder.module, name, ids, mask))
    rows = [coreml_tiny.text(LENGTH, 3 + index % 12, seed=100 + index) for index in range(TEXTS)]
    evaluation = _case(encoder.module, goldens.EVALUATION, *(torch.cat(part) for part in zip(*rows, strict=True)))

    def calibration() -> list[tuple[np.ndarray, ...]]:
        return [tuple(part.numpy().astype(np.int32) for part in coreml_tiny.text(LENGTH, 9, seed=i)) for i in range(4)]

    chosen = (Fp16Variant(gates=GATES), Int8Variant(gates=GATES), FourBitVariant(gates=GATES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelbake.export.coreml.rewrite.SMALLEST", 1024)
        drafts, own = variants.make(chosen, "Tiny", ROLE, encoder, folder, cases, calibration=calibration)
    goldens.write(folder / "goldens.npz", [*cases, evaluation, *own])
    return folder, [replace(draft, tokenizer=None) for draft in drafts]


def _case(module: object, name: str, ids: object, mask: object) -> Case:
    import torch

    with torch.inference_mode():
        rows = [module(a[None], b[None]).numpy() for a, b in zip(ids, mask, strict=True)]  # type: ignore[operator,call-overload]
    inputs = {"input_ids": ids.numpy().astype(np.int32), "attention_mask": mask.numpy().astype(np.int32)}  # type: ignore[attr-defined]
    return Case(ROLE, name, inputs, {"embeddings": np.concatenate(rows)})


def draft_of(made: tuple[Path, list[Draft]], precision: str) -> Draft:
    return next(one for one in made[1] if one.precision == precision)


def test_the_drafts_say_what_the_packages_are(made: tuple[Path, list[Draft]]) -> None:
    folder, drafts = made
    assert [one.precision for one in drafts] == ["fp32", *NAMES]
    for draft in drafts:
        assert draft.coreml is not None
        assert {
            path.relative_to(folder).as_posix() for path in (folder / draft.coreml.package).rglob("*") if path.is_file()
        } == {
            draft.path,
            *draft.external_data,
        }
        assert draft.coreml.lengths == (LENGTH,)
        assert [(one.name, one.dtype, one.shape) for one in draft.inputs] == [
            ("input_ids", "int32", (1, LENGTH)),
            ("attention_mask", "int32", (1, LENGTH)),
        ]
    assert draft_of(made, "int8").coreml.minimum_os == {"iOS": "16.0", "macOS": "13.0"}  # type: ignore[union-attr]
    assert draft_of(made, "4bit").coreml.minimum_os == {"iOS": "18.0", "macOS": "15.0"}  # type: ignore[union-attr]


def test_each_keeps_its_gate(made: tuple[Path, list[Draft]]) -> None:
    folder, drafts = made
    assert parity.replay(folder, drafts[0], folder / "goldens.npz", 1e-5).cases == 3
    for name in NAMES:
        assert parity.appraise(folder, draft_of(made, name), folder / "goldens.npz", GATES).mean_cosine >= 0.9


def damaged(made: tuple[Path, list[Draft]], precision: str, to: Path) -> tuple[Path, Path]:
    """A copy of the models folder, and the package of that precision in it."""
    shutil.copytree(made[0], to, ignore=shutil.ignore_patterns("model"))
    coreml = draft_of(made, precision).coreml
    assert coreml is not None
    return to, to / coreml.package


@pytest.mark.parametrize("precision", NAMES)
def test_a_few_changed_bytes_of_a_layer_are_caught_though_the_gate_of_quality_is_kept(
    made: tuple[Path, list[Draft]], tmp_path: Path, precision: str
) -> None:
    folder, package = damaged(made, precision, tmp_path / "models")
    weights = open_package(package).files()[2]
    data = bytearray(weights.read_bytes())
    # Behind the tables of words and positions, of which a text uses few rows.
    for at in range(len(data) * 6 // 10, len(data) * 6 // 10 + 64):
        data[at] ^= 0x11
    weights.write_bytes(data)
    with pytest.raises((ParityError, IntegrityError)):
        parity.appraise(folder, draft_of(made, precision), folder / "goldens.npz", QualityGates(-1.0, 0.0))


def test_a_variant_without_outputs_of_its_own_is_not_verified(made: tuple[Path, list[Draft]], tmp_path: Path) -> None:
    folder, _ = damaged(made, "int8", tmp_path / "models")
    cases = [case for case in goldens.read(folder / "goldens.npz") if case.role == ROLE]
    goldens.write(folder / "goldens.npz", cases)
    with pytest.raises(IntegrityError, match="gave when it was made"):
        parity.appraise(folder, draft_of(made, "int8"), folder / "goldens.npz", GATES)
