"""The thin scripts: what they pass on, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def download_models(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "download_models.py"), *arguments]
    environ = os.environ | {"MODELBAKE_CACHE": str(cwd / "cache"), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


def test_two_choices_at_once_are_a_usage_error(tmp_path: Path) -> None:
    assert download_models("--clip-only", "--regressor-only", cwd=tmp_path).returncode == 2


def test_the_regressor_alone_lands_in_the_models_folder(tmp_path: Path) -> None:
    done = download_models("--regressor-only", "--models-dir", str(tmp_path / "models"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "models" / "onnx").iterdir()} == {"boundary_regressor.onnx"}
    assert (tmp_path / "models" / "regressor" / "boundary_regressor_pretrained.pth").is_file()


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["fetch", "b", "sample", "/s"], "fetch b --weights sample --to /s"),
        (["build", "b", "/s", "/m"], "build b --sources /s --models-dir /m"),
        (["verify", "/m"], "verify --models-dir /m"),
    ],
)
def test_the_docker_steps_are_commands_of_modelbake(tmp_path: Path, arguments: list[str], passed_on: str) -> None:
    stub = tmp_path / "modelbake"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ROOT / "scripts" / "setup_models_docker.sh"
    done = subprocess.run(["bash", str(script), *arguments], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == passed_on


@pytest.mark.parametrize(
    "arguments", [[], ["fetch"], ["fetch", "b", "auto", "/s"], ["build", "b"], ["other", "x", "y", "z"]]
)
def test_other_words_to_the_docker_steps_are_a_usage_error(arguments: list[str]) -> None:
    script = ROOT / "scripts" / "setup_models_docker.sh"
    done = subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fetch BUNDLE WEIGHTS SOURCES" in done.stderr


def test_an_index_with_a_password_is_refused_and_not_repeated() -> None:
    script = ROOT / "scripts" / "install_torch.sh"
    done = subprocess.run(
        ["bash", str(script), sys.executable, str(ROOT / "locks"), "https://me:marked-secret@index.example/whl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 8
    assert "pip's configuration" in done.stderr
    assert "marked-secret" not in done.stderr
