"""Each command's own words and results, on models folders made for the test."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelbake import manifest
from modelbake.catalog import Catalog
from modelbake.cli.main import run
from modelbake.manifest import Manifest
from modelbake.runtime import encoder
from modelbake.runtime.schedule import WINDOW
from modelbake.runtime.session import Session
from tests.unit import tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with a text and an image bundle, that the environment names."""
    folder = tmp_path / "models"
    folder.mkdir()
    tiny.models_folder(folder)
    monkeypatch.setenv("MODELBAKE_MODELS", str(folder))
    monkeypatch.setenv("MODELBAKE_ROOT", str(ROOT))
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_texts_become_embeddings_in_their_order(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "embed", "--bundle", "tiny-text", "--text", "red cat", "--text", "dog")
    assert (found["bundle"], found["weights"], found["dimensions"]) == ("tiny-text", "sample", 4)
    np.testing.assert_allclose(found["embeddings"], tiny.embedding(["red cat", "dog"], tiny.table()), atol=1e-6)


def test_without_json_an_embedding_is_a_line_of_numbers(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", "--bundle", "tiny-text", "--text", "red cat", "--text", "dog"]) == 0
    said = capsys.readouterr()
    rows = [[float(word) for word in line.split()] for line in said.out.splitlines()]
    np.testing.assert_allclose(rows, tiny.embedding(["red cat", "dog"], tiny.table()), atol=1e-5)
    assert said.err == "WARNING: tiny-text has SAMPLE WEIGHTS (random): its embeddings mean nothing.\n"


def test_real_weights_come_without_a_warning(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write(models, Manifest(1, (tiny.text_bundle(models, weights="pretrained"),)))
    assert run(["embed", "--bundle", "tiny-text", "--text", "dog"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [b"red cat\ndog\n", b"red cat\r\ndog"])
def test_standard_input_is_a_text_a_line(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    found = as_json(capsys, "embed", "--bundle", "tiny-text", "--stdin")
    np.testing.assert_allclose(found["embeddings"], tiny.embedding(["red cat", "dog"], tiny.table()), atol=1e-6)


def test_no_standard_input_gives_no_embeddings(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert as_json(capsys, "embed", "--bundle", "tiny-text", "--stdin")["embeddings"] == []


def test_lines_are_answered_before_standard_input_ends(models: Path) -> None:
    command = [sys.executable, "-m", "modelbake", "embed", "--bundle", "tiny-text", "--stdin"]
    environ = {**os.environ, "MODELBAKE_MODELS": str(models)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environ, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("red cat\n" * 2 * WINDOW)
        process.stdin.flush()
        first = [process.stdout.readline() for _ in range(WINDOW)]
        process.stdin.write("dog\n")
        process.stdin.close()
        # Not by communicate(), which knows nothing of what readline() read ahead.
        rest = process.stdout.read().splitlines()
    rows = [[float(word) for word in line.split()] for line in [*first, *rest]]
    expected = tiny.embedding(["red cat", "dog"], tiny.table())[[0] * 2 * WINDOW + [1]]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "environ", "expected"),
    [
        ([], {}, None),
        ([], {"MODELBAKE_THREADS": "3"}, 3),
        (["--threads", "1"], {"MODELBAKE_THREADS": "3"}, 1),
    ],
    ids=str,
)
def test_the_threads_are_those_that_the_user_gave(
    models: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], environ: dict[str, str], expected: int | None
) -> None:
    seen = []

    def session(path: Path, threads: int | None, brief: bool) -> Session:
        seen.append(threads)
        return Session(path, threads, brief)

    monkeypatch.delenv("MODELBAKE_THREADS", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(encoder, "Session", session)
    assert run(["embed", "--bundle", "tiny-text", "--text", "dog", *words]) == 0
    assert seen == [expected]


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_a_number_of_threads_that_is_none_is_wrong_usage(models: Path, threads: str) -> None:
    assert run(["embed", "--bundle", "tiny-text", "--text", "dog", "--threads", threads]) == 2


def test_standard_input_that_is_no_text_is_wrong_usage(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"dog\n\xff\n"), encoding="utf-8"))
    assert run(["embed", "--bundle", "tiny-text", "--stdin"]) == 2
    assert "error: Standard input is no utf-8 text" in capsys.readouterr().err


def test_words_that_are_no_utf8_are_embedded_as_unknown(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "embed", "--bundle", "tiny-text", "--text", os.fsdecode(b"\xff dog"))
    np.testing.assert_allclose(found["embeddings"], tiny.embedding(["? dog"], tiny.table()), atol=1e-6)


def test_images_become_embeddings(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colour in (("black", 0), ("white", 255)):
        Image.new("RGB", (10, 12), (colour,) * 3).save(tmp_path / f"{name}.png")
    words = [word for name in ("black", "white") for word in ("--image", str(tmp_path / f"{name}.png"))]
    found = as_json(capsys, "embed", "--bundle", "tiny-image", *words)
    np.testing.assert_allclose(found["embeddings"], [[-2.0] * 3, [2.0] * 3], atol=1e-6)


@pytest.mark.parametrize(
    "words", [[], ["--text", "a", "--stdin"], ["--image", "a", "--stdin"], ["--text", "a", "--image", "b"]], ids=str
)
def test_texts_images_and_standard_input_exclude_each_other(
    models: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["embed", "--bundle", "tiny-text", *words]) == 2
    assert "one of the three. Try `modelbake embed --help`." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--bundle", "other", "--text", "a"], 3, "It has: tiny-image, tiny-text."),
        (["--bundle", "tiny-text", "--image", "a.png"], 2, "does not embed images"),
        (["--bundle", "tiny-image", "--text", "a"], 2, "does not embed texts"),
        (["--bundle", "tiny-image", "--image", "/absent.png"], 2, "/absent.png cannot be opened"),
    ],
)
def test_what_cannot_be_embedded_is_one_message(
    models: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(["embed", *words, "-q"]) == code
    assert message in capsys.readouterr().err


def test_the_list_shows_what_can_be_built_and_what_is_built(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defined = Catalog(ROOT / "bundles").names()
    rows = {row["name"]: row for row in as_json(capsys, "list")}
    assert list(rows) == sorted([*defined, "tiny-image", "tiny-text"])
    assert rows["tiny-text"]["built"] == "sample"
    assert all(rows[name]["built"] is None for name in defined)
    assert set(rows["tiny-text"]) == {"name", "version", "kind", "default", "pinned", "licence", "built", "description"}
    assert run(["list"]) == 0
    header, line, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["bundle", "version", "kind", "default", "pinned", "built", "description"]
    assert set(line) == {"-", " "}
    assert [text.split()[0] for text in lines] == list(rows)
    assert next(text.split()[5] for text in lines if text.startswith("minilm-l6-v2")) == "-"


def test_the_list_needs_no_models(tmp_path: Path, capsys: pytest.CaptureFixture[str], models: Path) -> None:
    names = [row["name"] for row in as_json(capsys, "list", "--models-dir", str(tmp_path / "absent"))]
    assert names == Catalog(ROOT / "bundles").names()


def test_the_list_of_what_is_built_needs_a_manifest(
    models: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert [row["name"] for row in as_json(capsys, "list", "--built")] == ["tiny-image", "tiny-text"]
    assert run(["list", "--built", "--models-dir", str(tmp_path / "absent")]) == 7


def test_a_kind_that_no_bundle_has_is_an_unknown_name(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "--kind", "no_such_kind"]) == 3
    assert "of the kind 'no_such_kind'" in capsys.readouterr().err


def test_verifying_shows_the_figures(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "verify")
    assert set(found) == {"tiny-image", "tiny-text"}
    assert found["tiny-text"]["onnx/tiny-text.onnx"]["gate"] == tiny.GATE
    assert run(["verify", "tiny-text"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["tiny-text", "onnx/tiny-text.onnx"]
    ]
    (models / "onnx" / "tiny-text.onnx").unlink()
    assert run(["verify"]) == 5


def test_layers_are_laid_out_and_listed(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["layers", str(models), "--to", str(tmp_path / "out"), "--count", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01 goldens/tiny-image.npz"
    assert lines[-1] == "06 model_manifest.json"
    assert run(["layers", str(models), "--to", str(tmp_path / "other"), "--count", "5"]) == 5
    assert run(["layers", str(models), "--to", str(tmp_path / "out"), "--count", "6"]) == 2


def test_without_docker_a_bake_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["bake"]) == 7
    assert "Run `scripts/engine.sh start`" in capsys.readouterr().err


PROJECT = """
schema_version = 1
name = "absent"
version = "1.0.0"
description = "a model whose files are not there"
licence = "MIT"
pinned = {pinned}
model = {{ kind = "text_encoder", model = "Absent", max_tokens = 5 }}
sources = [{{ type = "local", folder = "data" }}]
files = [{{ path = "x"{pin} }}]
"""


@pytest.mark.parametrize(
    ("pin", "words", "code"),
    [
        (f', sha256 = "{"0" * 64}"', ["fetch"], 4),
        (f', sha256 = "{"0" * 64}"', ["build"], 4),
        ("", ["fetch", "--locked"], 8),
        ("", ["build", "--locked"], 8),
    ],
)
def test_what_cannot_or_may_not_be_fetched_has_its_own_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pin: str,
    words: list[str],
    code: int,
) -> None:
    (tmp_path / "bundles" / "absent").mkdir(parents=True)
    text = PROJECT.format(pinned=str(bool(pin)).lower(), pin=pin)
    (tmp_path / "bundles" / "absent" / "bundle.toml").write_text(text)
    monkeypatch.setenv("MODELBAKE_ROOT", str(tmp_path))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELBAKE_MODELS", raising=False)
    assert run([*words, "--json"]) == code
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code
    assert "absent" in said["error"]
    assert not (tmp_path / "models").exists()


def test_fetching_tells_where_the_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELBAKE_ROOT", str(ROOT))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    (found,) = as_json(capsys, "fetch", "boundary-regressor", "--to", str(tmp_path / "to"))
    assert found["folder"] == str(tmp_path / "to" / "boundary-regressor")
    assert (found["weights"], found["files"]) == ("trained", 1)
    assert (tmp_path / "to" / "boundary-regressor" / "files" / "sample_training_data.json").stat().st_size == found[
        "size"
    ]


def test_a_locked_build_names_all_that_is_not_pinned_and_begins_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    words = ["build", "boundary-regressor", "clip-rn50", "ms-marco-reranker", "--locked"]
    assert run([*words, "--models-dir", str(tmp_path / "models")]) == 8
    assert "error: clip-rn50, ms-marco-reranker: pinned = false" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
