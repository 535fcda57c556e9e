"""Damaged packages of a small BERT, each caught by a replay of its goldens or refused by name: the same damages as of MiniLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelbake.coreml.runner import Runner
from tests import coreml_packages
from tests.coreml_damages import BY_PRECISION, INERT
from tests.coreml_editor import Damage, Editor, Goldens, replayed

TOKENS = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, coreml_packages.packages(coreml_packages.tiny_bert(2), folder, TOKENS, 64)


@pytest.fixture(scope="module")
def goldens(made: tuple[Path, dict[str, Path]]) -> dict[str, Goldens]:
    found: dict[str, Goldens] = {}
    random = np.random.default_rng(4)
    texts = []
    for length in (3, 9, TOKENS):
        ids = np.where(np.arange(TOKENS) < length, random.integers(1, 100, TOKENS), 0).astype(np.int32)[None]
        texts.append({"input_ids": ids, "attention_mask": (np.arange(TOKENS) < length).astype(np.int32)[None]})
    for name, path in made[1].items():
        runner = Runner(path)
        found[name] = [(inputs, runner.run(inputs)["embeddings"]) for inputs in texts]
    return found


TRIED = [(name, damage) for name, damages in BY_PRECISION.items() for damage in damages]


@pytest.mark.parametrize(("precision", "damage"), TRIED, ids=[f"{name}: {damage.what}" for name, damage in TRIED])
def test_a_damage_is_caught(
    precision: str, damage: Damage, made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]
) -> None:
    folder, paths = made
    editor = Editor(paths[precision], folder / "damaged.mlpackage")
    damage.make(editor)
    editor.save()
    found = replayed(editor.path, goldens[precision])
    assert found.startswith(damage.caught), found


@pytest.mark.parametrize("damage", INERT, ids=lambda damage: damage.what)
def test_what_changes_no_output_is_not_seen(
    damage: Damage, made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]
) -> None:
    # Nothing that a model is for depends on these; the files' sha256 sees them.
    folder, paths = made
    editor = Editor(paths["fp32"], folder / "inert.mlpackage")
    damage.make(editor)
    editor.save()
    assert replayed(editor.path, goldens["fp32"]).startswith("not seen")


def test_what_is_undamaged_is_not_caught(made: tuple[Path, dict[str, Path]], goldens: dict[str, Goldens]) -> None:
    folder, paths = made
    for name, path in paths.items():
        Editor(path, folder / "same.mlpackage").save()
        assert replayed(folder / "same.mlpackage", goldens[name]) == "not seen: 0.0e+00"
