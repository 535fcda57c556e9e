"""scripts/coreml: what the scripts refuse; tests/coreml/test_scripts.py has them convert and compare."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelbake import manifest
from modelbake.cli import compare_models, convert_embedding
from modelbake.cli.main import run
from tests.unit import tiny

ROOT = Path(__file__).resolve().parents[3]
NAME = "tiny-coreml"
DEFINITION = f"""
schema_version = 1
name = "{NAME}"
version = "1.0.0"
description = "a tiny BERT"
licence = "Apache-2.0"
pinned = false
model = {{ kind = "coreml_text_encoder", model = "tiny", max_tokens = 32, package = "Tiny", lengths = [8, 32] }}
sources = [{{ type = "sample", seed = 7 }}]
files = [{{ path = "model.safetensors" }}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one definition, which this process's commands take for the project."""
    folder = tmp_path / "bundles" / NAME
    folder.mkdir(parents=True)
    (folder / "bundle.toml").write_text(DEFINITION)
    (folder / "evaluation.txt").write_text("one\ntwo\n")
    monkeypatch.setenv("MODELBAKE_ROOT", str(tmp_path))
    monkeypatch.setenv("MODELBAKE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def tiny_bundle(models: Path) -> None:
    """A built bundle of that name, whose graph is ONNX."""
    entry = tiny.text_bundle(models, name=NAME)
    manifest.write(models, manifest.Manifest(manifest.SCHEMA_VERSION, (entry,)))


def compare(*arguments: str) -> int:
    return run(["--bundle", NAME, *arguments], command=compare_models.command, name="test_models.py")


def convert(*arguments: str) -> int:
    return run([*arguments], command=convert_embedding.command, name="convert_embedding.py")


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "coreml" / name), *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_nothing_built_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare() == 7
    assert "modelbake build" in capsys.readouterr().err


def test_a_bundle_for_another_runtime_is_an_unknown_name(project: Path) -> None:
    tiny_bundle(project / "models")
    assert compare() == 3


def test_an_empty_sentence_is_a_usage_error(project: Path) -> None:
    tiny_bundle(project / "models")
    assert compare("a", " ") == 2


def test_a_folder_of_somebody_elses_is_told_before_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models").mkdir()
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    assert convert("--bundle", NAME) == 7
    owner = (project / "models").stat()
    assert f"MODELBAKE_USER={owner.st_uid}:{owner.st_gid}" in capsys.readouterr().err


def test_an_unknown_bundle_is_an_unknown_name(project: Path) -> None:
    assert convert("--bundle", "other") == 3


@pytest.mark.parametrize("name", ["convert_embedding.py", "test_models.py", "convert_llm.py"])
def test_each_script_says_what_it_is_for(name: str) -> None:
    done = script(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: {name}" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--model", "Qwen/Qwen3-0.6B"], ["x", "-o", "y"]])
def test_language_models_come_later(arguments: list[str]) -> None:
    done = script("convert_llm.py", *arguments)
    assert done.returncode == 2
    assert "comes later" in done.stderr


def test_the_default_is_a_bundle_of_the_catalog() -> None:
    commands = (convert_embedding.command, compare_models.command)
    defaults: list[dict[str, Any]] = [{one.name: one.default for one in command.params} for command in commands]
    assert [one["bundle"] for one in defaults] == ["minilm-l6-v2-coreml"] * 2
    assert (ROOT / "bundles" / defaults[0]["bundle"] / "bundle.toml").is_file()
