"""all-MiniLM-L6-v2 as Core ML packages, run here: against sentence-transformers, and damaged in all the ways of coreml_damages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelbake.coreml.runner import Runner
from tests import coreml_packages
from tests.coreml_damages import BY_PRECISION, INERT
from tests.coreml_editor import Damage, Editor, Goldens, replayed
from tests.golden.conftest import ROOT, environment, modelbake

TOKENS = 128
# From a word to more than the package takes: what is masked, what is not, and every position.
TEXTS = [
    "hello world",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich — 12 %?!",
    "a very long sentence that does not end, " * 60,
]


def tokens_of(files: Path, texts: list[str]) -> Iterator[dict[str, Any]]:
    """int32 ids and mask [1, TOKENS] of each text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    for text in texts:
        encoded = tokenizer.encode(text)
        yield {
            "input_ids": np.array([encoded.ids], np.int32),
            "attention_mask": np.array([encoded.attention_mask], np.int32),
        }


def reference(files: Path, texts: list[str]) -> Any:
    """sentence-transformers' own vectors, float32 [texts, 384]."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(files), device="cpu", local_files_only=True)
    model.max_seq_length = TOKENS
    return model.encode(texts, batch_size=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's files, with the published weights or, where no source has them, a sample's."""
    folder = tmp_path_factory.mktemp("files")
    modelbake("fetch", "minilm-l6-v2", "--to", str(folder), environ=environment(folder))
    return folder / "minilm-l6-v2" / "files"


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("coreml")
    return folder, coreml_packages.packages(coreml_packages.minilm(files), folder, TOKENS, 2048)


@pytest.fixture(scope="module")
def goldens(files: Path, made: tuple[Path, dict[str, Path]]) -> dict[str, Goldens]:
    """Of float32 sentence-transformers' vectors; of what is compressed the undamaged package's own."""
    inputs = list(tokens_of(files, TEXTS))
    found: dict[str, Goldens] = {
        "fp32": [(one, row[None]) for one, row in zip(inputs, reference(files, TEXTS), strict=True)]
    }
    for name, path in made[1].items():
        if name not in found:
            runner = Runner(path)
            found[name] = [(one, runner.run(one)["embeddings"]) for one in inputs]
    return found


def damaged(made: tuple[Path, dict[str, Path]], precision: str, damage: Damage) -> Path:
    editor = Editor(made[1][precision], made[0] / "damaged.mlpackage")
    damage.make(editor)
    editor.save()
    return editor.path


def test_float32_gives_sentence_transformers_vectors(files: Path, made: tuple[Path, dict[str, Path]]) -> None:
    evaluation = ROOT / "bundles" / "minilm-l6-v2" / "evaluation.txt"
    texts = evaluation.read_text(encoding="utf-8").splitlines()[:200]
    runner = Runner(made[1]["fp32"])
    found = np.concatenate([runner.run(one)["embeddings"] for one in tokens_of(files, texts)])
    assert len(found) == len(texts) == 200
    assert np.abs(found - reference(files, texts)).max() <= 1e-6


def test_what_is_compressed_gives_near_vectors(files: Path, made: tuple[Path, dict[str, Path]]) -> None:
    wanted = reference(files, TEXTS)
    # The palette of even steps is made to be damaged, not to be used: what it is worth, test_coreml_constexpr asks of coremltools.
    for name, least in (("int8", 0.997), ("int8-ios16", 0.997)):
        runner = Runner(made[1][name])
        found = np.concatenate([runner.run(one)["embeddings"] for one in tokens_of(files, TEXTS)])
        assert (found * wanted).sum(axis=1).mean() >= least, name


TRIED = [(name, damage) for name, damages in BY_PRECISION.items() for damage in damages]


def test_there_are_many_damages_of_each_kind() -> None:
    assert len(TRIED) >= 120
    assert len({damage.what for _, damage in TRIED}) >= 90
    assert sum(damage.caught == "replay" for _, damage in TRIED) >= 60


@pytest.mark.parametrize(("precision", "damage"), TRIED, ids=[f"{name}: {damage.what}" for name, damage in TRIED])
def test_a_damage_is_caught(
    precision: str, damage: Damage, made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]
) -> None:
    found = replayed(damaged(made, precision, damage), goldens[precision])
    assert found.startswith(damage.caught), found


@pytest.mark.parametrize("damage", INERT, ids=lambda damage: damage.what)
def test_what_changes_no_output_is_not_seen(
    damage: Damage, made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]
) -> None:
    assert replayed(damaged(made, "fp32", damage), goldens["fp32"]).startswith("not seen")


# What one kind of golden alone sees: a damage, and which texts are left when that kind is not there.
KINDS = {
    "a position that only a full text has": (
        Damage("position 127", lambda e: e.change(e.value(e.operations("add")[1], "y"), slice(127 * 384, None), lambda x: x * 2)),
        [0, 1],
    ),
    "a mask that only a padded text has": (
        Damage("the mask", lambda e: e.number(e.operations("mul")[0], "y", -3.0)),
        [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_goldens_of_each_kind_are_needed(
    kind: str, made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]
) -> None:
    damage, left = KINDS[kind]
    path = damaged(made, "fp32", damage)
    assert replayed(path, [goldens["fp32"][index] for index in left]).startswith("not seen")
    assert replayed(path, goldens["fp32"]).startswith("replay")
