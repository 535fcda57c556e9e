"""Which steps of a build may reach a network: fetching, and installing packages; nothing that comes after."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.engine import ROOT, docker, image, must

REACH = """FROM {image}
RUN {flag} python3 -c "import socket; socket.create_connection(('{host}', {port}), 5)" # {nonce}
"""


def steps(text: str) -> dict[str, list[str]]:
    """The RUN instructions of a Dockerfile by stage, in order; a stage without a name goes by its number."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    stages: dict[str, list[str]] = {}
    for line in joined.splitlines():
        if match := re.match(r"FROM\s+\S+(?:\s+AS\s+(\S+))?", line, re.IGNORECASE):
            stages[match.group(1) or str(len(stages))] = []
        elif re.match(r"RUN\s", line, re.IGNORECASE):
            stages[list(stages)[-1]].append(line)
    return stages


def networked(text: str) -> dict[str, list[str]]:
    """The steps by stage that have a network."""
    open_steps = {
        stage: [run for run in runs if "--network=none" not in run.split()] for stage, runs in steps(text).items()
    }
    return {stage: runs for stage, runs in open_steps.items() if runs}


def test_the_fetch_stage_alone_has_a_network_in_a_bundles_build() -> None:
    text = (ROOT / "images/bundle/Dockerfile").read_text()

    assert {"export", "verify", "layout"} <= {stage for stage, runs in steps(text).items() if runs}
    assert list(networked(text)) == ["fetch"]
    assert list(steps(text)).index("fetch") < list(steps(text)).index("export")


@pytest.mark.parametrize("name", ["search", "layered"])
def test_images_are_put_together_without_a_network(name: str) -> None:
    assert networked((ROOT / "images" / name / "Dockerfile").read_text()) == {}


def test_a_step_without_the_flag_is_noticed() -> None:
    """A check of the check."""
    text = "FROM a AS fetch\nRUN x\nFROM fetch AS export\n# RUN no\nRUN --mount=type=cache \\\n    # why\n    y\nRUN --network=none z\n"

    assert steps(text) == {"fetch": ["RUN x"], "export": ["RUN --mount=type=cache      y", "RUN --network=none z"]}
    assert list(networked(text)) == ["fetch", "export"]


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    """A port that containers on the bridge can reach."""
    host = must("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    with socket.create_server((host, 0)) as server:
        yield host, server.getsockname()[1]


@pytest.mark.builds
def test_a_step_with_the_flag_reaches_nothing_and_one_without_does(listener: tuple[str, int], tmp_path: Path) -> None:
    def build(flag: str) -> tuple[int, str]:
        host, port = listener
        (tmp_path / "Dockerfile").write_text(
            REACH.format(image=image("runtime"), flag=flag, host=host, port=port, nonce=tmp_path)
        )
        done = docker("buildx", "build", "--no-cache", "--progress=plain", "--output=type=cacheonly", str(tmp_path))
        return done.code, done.stderr

    assert build("")[0] == 0
    code, log = build("--network=none")
    assert code != 0
    assert "Network is unreachable" in log
