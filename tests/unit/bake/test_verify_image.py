"""`modelbake verify --image`: the image's own word and exit code, or its files taken out and verified here."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from modelbake import manifest
from modelbake.cli.main import run
from tests.unit import tiny
from tests.unit.bake.stub import StubDocker

RUNTIME = {"Config": {"Entrypoint": ["modelbake"]}}
FILES = {"Config": {"Entrypoint": None}}


def engine(docker: StubDocker, config: object) -> StubDocker:
    """The stub as an engine that has one image."""
    docker.answer("version")
    docker.answer("buildx", "version")
    docker.answer("image", "inspect", out=json.dumps([config]))
    docker.answer("create", out="c0ffee\n")
    docker.answer("rm")
    return docker


def archive(models: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(models, "models")
    return buffer.getvalue()


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    tiny.models_folder(folder)
    return folder


def test_an_image_with_the_runtime_verifies_itself_in_a_sandbox(
    docker: StubDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"tiny-text": {"onnx/x.onnx": {"max_abs_diff": 1e-6, "gate": 1e-5, "cases": 2}}}
    engine(docker, RUNTIME).answer("run", out=json.dumps(figures))
    assert run(["verify", "--image", "search", "tiny-text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    (call,) = [words for words in docker.calls if words[0] == "run"]
    assert {"--network=none", "--read-only", "--cap-drop=ALL", "--user=65532:65532", "--rm"} <= set(call)
    assert call[-4:] == ["search", "verify", "--json", "tiny-text"]


@pytest.mark.parametrize("code", [3, 5, 6, 7, 8])
def test_the_container_s_error_and_exit_code_come_through(
    docker: StubDocker, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    said = json.dumps({"error": "x.onnx is not the file", "exit_code": code})
    engine(docker, RUNTIME).answer("run", out=f"{said}\n", err="error: x\n", code=code)
    assert run(["verify", "--image", "search"]) == code
    assert capsys.readouterr().err == "error: search: x.onnx is not the file\n"


def test_a_container_that_does_not_start_is_the_machine_s_failure(
    docker: StubDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(docker, RUNTIME).answer("run", err="docker: no space left\n", code=125)
    assert run(["verify", "--image", "search"]) == 7
    assert "docker run failed: docker: no space left" in capsys.readouterr().err


def test_an_answer_that_is_no_figures_is_not_taken_for_success(docker: StubDocker) -> None:
    engine(docker, RUNTIME).answer("run", out="{}}")
    assert run(["verify", "--image", "search"]) == 5


@pytest.mark.parametrize(("config", "words"), [(FILES, []), (RUNTIME, ["--here"])])
def test_the_files_of_an_image_are_taken_out_and_verified_here(
    docker: StubDocker, models: Path, capsys: pytest.CaptureFixture[str], config: object, words: list[str]
) -> None:
    engine(docker, config).answer("cp", "c0ffee:/models", "-", out=archive(models))
    assert run(["verify", "--image", "bundle", *words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"tiny-image", "tiny-text"}
    assert docker.calls[-1] == ["rm", "c0ffee"]
    assert not [words for words in docker.calls if words[0] == "run"]


def test_a_flipped_bit_in_an_image_of_files_is_found(
    docker: StubDocker, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = models / "onnx" / "tiny-text.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    engine(docker, FILES).answer("cp", out=archive(models))
    assert run(["verify", "--image", "bundle"]) == 5
    assert "tiny-text.onnx is not the file that the manifest lists" in capsys.readouterr().err
    assert docker.calls[-1] == ["rm", "c0ffee"]


@pytest.mark.parametrize(
    "data",
    [
        hostile("../x"),
        hostile("/etc/x"),
        hostile("other/x"),
        hostile("models/x", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("models/x", tarfile.LNKTYPE, "models/y"),
        hostile("models/x", tarfile.CHRTYPE),
        hostile("models/x", tarfile.FIFOTYPE),
    ],
    ids=["above", "absolute", "beside", "symlink", "hard link", "device", "pipe"],
)
def test_an_image_with_anything_but_plain_files_is_refused(docker: StubDocker, data: bytes) -> None:
    engine(docker, FILES).answer("cp", out=data)
    assert run(["verify", "--image", "bundle"]) == 8
    assert docker.calls[-1] == ["rm", "c0ffee"]


def test_an_image_without_models_is_told(docker: StubDocker, capsys: pytest.CaptureFixture[str]) -> None:
    engine(docker, FILES).answer("cp", err="no such path\n", code=1)
    assert run(["verify", "--image", "bundle"]) == 7
    assert "is it a bundle's image?" in capsys.readouterr().err
    assert docker.calls[-1] == ["rm", "c0ffee"]


def test_an_archive_that_ends_too_soon_is_no_success(docker: StubDocker, models: Path) -> None:
    engine(docker, FILES).answer("cp", out=archive(models)[:5000], code=1)
    assert run(["verify", "--image", "bundle"]) in (5, 7)


def test_without_the_runtime_s_packages_the_advice_is_to_install_them(
    docker: StubDocker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "modelbake.verify", None)
    engine(docker, FILES)
    assert run(["verify", "--image", "bundle"]) == 7
    assert "pip install '.[runtime]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--here"], ["--image", "x", "--models-dir", "."]])
def test_options_that_do_not_go_together(words: list[str]) -> None:
    assert run(["verify", *words]) == 2


def test_an_unknown_bundle_of_an_image_of_files_is_exit_3(docker: StubDocker, models: Path) -> None:
    engine(docker, FILES).answer("cp", out=archive(models))
    assert manifest.read(models).bundle("tiny-text")
    assert run(["verify", "--image", "bundle", "nothing"]) == 3
