"""scripts/coreml: a tiny BERT converted for real, and compared with sentence-transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from modelbake import goldens, manifest, parity
from modelbake.cli import compare_models
from modelbake.cli.main import run
from modelbake.coreml import PROVES
from modelbake.errors import ParityError
from tests.coreml_editor import Editor

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny-coreml"
# Of the sample tokenizer.
CLS = 2
TEXTS = ["a b c", "red and green", "The quick brown fox.", "x" * 40]
DEFINITION = f"""
schema_version = 1
name = "{NAME}"
version = "1.0.0"
description = "a tiny BERT"
licence = "Apache-2.0"
pinned = false

[model]
kind = "coreml_text_encoder"
model = "tiny"
max_tokens = 32
package = "Tiny"
lengths = [8, 32]
pooling = "POOLING"

[model.architecture]
vocab_size = 200
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 32

[[sources]]
type = "sample"
seed = 7

[[files]]
path = "model.safetensors"
"""


@dataclass(frozen=True)
class Project:
    """A folder with one definition, a cache and models."""

    root: Path

    def environ(self) -> dict[str, str]:
        return {
            "MODELBAKE_ROOT": str(self.root),
            "MODELBAKE_MODELS": str(self.root / "models"),
            "MODELBAKE_CACHE": str(self.root / "cache"),
        }


def write_project(root: Path, pooling: str = "mean") -> Project:
    folder = root / "bundles" / NAME
    folder.mkdir(parents=True)
    (folder / "bundle.toml").write_text(DEFINITION.replace("POOLING", pooling))
    (folder / "evaluation.txt").write_text("\n".join(TEXTS) + "\n")
    return Project(root)


def script(name: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "coreml" / name), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environ}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["mean", "cls"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose bundle the script has converted."""
    project = write_project(tmp_path_factory.mktemp("coreml"), request.param)
    done = script("convert_embedding.py", "--bundle", NAME, **project.environ())
    assert done.returncode == 0, done.stderr
    assert "coreml/Tiny.mlpackage" in done.stdout
    assert "weights: sample; graph, weights and quantization verified; Apple's runtime not exercised" in done.stdout
    return project


@pytest.fixture
def copy(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it to damage, which this process's commands take for theirs."""
    shutil.copytree(built.root, tmp_path / "project")
    project = Project(tmp_path / "project")
    for name, value in project.environ().items():
        monkeypatch.setenv(name, value)
    return project


def compare(*arguments: str) -> int:
    return run(["--bundle", NAME, *arguments], command=compare_models.command, name="test_models.py")


def test_each_sentence_has_its_differences_and_passes(built: Project) -> None:
    done = script("test_models.py", "--bundle", NAME, **built.environ())

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split("  ")[0] == "max difference"
    assert [line.split()[2] for line in lines[2:-2]] == ["PASS"] * len(TEXTS)
    assert lines[-2] == "4 of 4 within 1e-05 of sentence-transformers (sample weights)"


def test_verify_says_what_it_proves(copy: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", NAME]) == 0
    assert f"Core ML packages: {PROVES}" in capsys.readouterr().err


def test_every_length_and_words_that_no_text_has_are_proven(copy: Project, tmp_path: Path) -> None:
    models = copy.root / "models"
    entry = manifest.read(models).bundle(NAME)
    golden = models / entry.goldens.path
    cases = [case for case in goldens.read(golden) if case.inputs]
    assert {case.inputs["input_ids"].shape for case in cases} == {(1, 8), (1, 32)}
    assert set(range(200)) <= {int(one) for case in cases for one in case.inputs["input_ids"].reshape(-1)}
    artifact = entry.artifact("text_encoder", "fp32")
    assert artifact.coreml is not None
    parity.replay(models, artifact, golden, 1e-5)

    package = models / artifact.coreml.package
    editor = Editor(package, tmp_path / "edited.mlpackage")
    words = editor.value(next(one for one in editor.operations("gather")), "x")
    # One row of 16 numbers, of a word that no golden text has.
    editor.change(words, slice(150 * 16, 151 * 16), lambda row: row * 0)
    shutil.copytree(editor.path, package, dirs_exist_ok=True)
    with pytest.raises(ParityError, match="vocabulary-"):
        parity.replay(models, artifact, golden, 1e-5)


def test_the_figures_are_those_of_float32_at_every_length(copy: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--json", "a", "a b c d e f", "a b c d e f g", "x" * 100) == 0
    found = json.loads(capsys.readouterr().out)
    # Seven, and one more than the first length; a text that is too long is cut as the reference cuts it.
    assert [one["tokens"] for one in found["sentences"]] == [3, 8, 9, 32]
    assert all(0 <= one["mean_abs_diff"] <= one["max_abs_diff"] <= 1e-6 for one in found["sentences"])
    assert all(one["cosine"] == pytest.approx(1, abs=1e-6) for one in found["sentences"])


def test_one_wrong_weight_fails(copy: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (copy.root / "models").rglob("weight.bin")
    data = path.read_bytes()
    table = load_file(copy.root / "cache/sources" / NAME / "files/model.safetensors")[
        "embeddings.word_embeddings.weight"
    ]
    # [CLS] is in every text.
    row = table[CLS].tobytes()
    assert data.count(row) == 1
    table[CLS, 0] += 0.5
    path.write_bytes(data.replace(row, table[CLS].tobytes()))

    assert compare() == 6
    captured = capsys.readouterr()
    assert "FAIL" in captured.out
    assert "do not use the package" in captured.err


def test_a_reference_of_other_weights_is_refused(copy: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy.root / "cache" / "sources" / NAME / "files" / "model.safetensors"
    path.unlink()
    path.write_bytes(b"other")
    assert compare() == 5
    assert "is not the file that tiny-coreml was made from" in capsys.readouterr().err


def test_without_a_reference_it_says_how_to_fetch_it(copy: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy.root / "cache" / "sources")
    assert compare() == 7
    assert f"`modelbake fetch {NAME}` brings it" in capsys.readouterr().err


def test_an_empty_sentence_is_a_usage_error(copy: Project) -> None:
    assert compare("a", " ") == 2
