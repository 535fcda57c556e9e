"""The docker client as a process: what is lacking is said plainly, and files come out of images without running them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from modelbake.bake.docker import docker as call
from modelbake.bake.docker import inspect_image, last_line, read_file, require_engine
from modelbake.errors import MachineError
from tests.unit.bake.stub import StubDocker


def test_without_a_docker_client_the_message_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MachineError, match=r"There is no docker client on this machine\. Run `scripts/engine\.sh start`"
    ) as caught:
        require_engine()
    assert caught.value.exit_code == 7


def test_an_engine_that_does_not_answer_is_told_in_docker_s_words(docker: StubDocker) -> None:
    docker.answer("version", err="first\nCannot connect to the Docker daemon\n\n", code=1)
    with pytest.raises(MachineError, match=r"No Docker engine answers \(Cannot connect to the Docker daemon\)\. Run"):
        require_engine()


def test_a_client_without_buildx_is_told(docker: StubDocker) -> None:
    docker.answer("version")
    docker.answer("buildx", "version", code=1)
    with pytest.raises(MachineError, match=r"has no buildx plugin \(it said nothing\)"):
        require_engine()


def test_an_engine_that_answers_will_do(docker: StubDocker) -> None:
    docker.answer("version")
    docker.answer("buildx", "version")
    require_engine()
    assert docker.calls == [["version"], ["buildx", "version"]]


def test_a_command_that_fails_gives_docker_s_last_words(docker: StubDocker) -> None:
    docker.answer("image", "inspect", err="[]\nError: No such image: x\n", code=1)
    with pytest.raises(MachineError, match="docker image failed: Error: No such image: x"):
        inspect_image("x")


def test_an_image_is_described_by_the_engine(docker: StubDocker) -> None:
    docker.answer("image", "inspect", "x", out=json.dumps([{"Id": "sha256:1"}]))
    assert inspect_image("x") == {"Id": "sha256:1"}


def archive(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    member.size = len(data)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_a_file_is_read_out_of_a_container_that_never_runs_and_is_removed(docker: StubDocker) -> None:
    docker.answer("create", out="c0ffee\n")
    docker.answer("cp", "c0ffee:/models/file", "-", out=archive(tarfile.TarInfo("file"), b"\0data"))
    docker.answer("rm")
    assert read_file("image", "/models/file") == b"\0data"
    assert docker.calls[0] == ["create", "--network=none", "image", "unused"]
    assert docker.calls[-1] == ["rm", "c0ffee"]


def test_the_container_is_removed_though_the_file_is_not_there(docker: StubDocker) -> None:
    docker.answer("create", out="c0ffee\n")
    docker.answer("cp", err="Could not find the file\n", code=1)
    docker.answer("rm")
    with pytest.raises(MachineError, match="docker cp failed: Could not find the file"):
        read_file("image", "/models/file")
    assert docker.calls[-1] == ["rm", "c0ffee"]


def test_a_folder_is_no_file(docker: StubDocker) -> None:
    folder = tarfile.TarInfo("models")
    folder.type = tarfile.DIRTYPE
    docker.answer("create", out="c0ffee\n")
    docker.answer("cp", out=archive(folder))
    docker.answer("rm")
    with pytest.raises(MachineError, match="/models of image is no file"):
        read_file("image", "/models")


def test_bytes_go_in_and_out_as_they_are(docker: StubDocker) -> None:
    docker.answer("cp", "-", "x:/", out=bytes(range(256)))
    assert call("cp", "-", "x:/", stdin=b"\xff") == bytes(range(256))


@pytest.mark.parametrize(
    ("text", "expected"), [("", "it said nothing"), (" \n\n", "it said nothing"), ("a\n b \n\n", "b")]
)
def test_the_last_line_is_the_last_that_says_something(text: str, expected: str) -> None:
    assert last_line(text) == expected
