"""The real exporters, whose writing Python does not announce: killed while they write, and on disks too small for them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.faults.mounts import can_mount, small_disk
from tests.faults.project import ROOT, Done, Project

DATA = "sample_training_data.json"
REGRESSOR = f'data = "{DATA}"\nepochs = 2'
TRANSFORMER = (
    "max_tokens = 16\narchitecture = { vocab_size = 300, hidden_size = 256, num_hidden_layers = 1, num_attention_heads = 2, "
    "intermediate_size = 512, max_position_embeddings = 32 }"
)


@pytest.fixture
def regressor(project: Project) -> Project:
    """A bundle of the boundary regressor, whose training data the hub has."""
    content = (ROOT / "models" / "regressor" / DATA).read_bytes()
    project.define("small", files={DATA: content}, kind="boundary_regressor", model=REGRESSOR)
    return project


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "modelbake", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=project.folder, env=project.environ, stdout=pipe, stderr=pipe, text=True)


def limited(project: Project, limit: int, *words: str) -> Done:
    """The command where no file may grow over `limit` bytes."""
    code = (
        "import resource, sys; from modelbake.cli.main import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


PLACES = {
    "graph": "steps/export/*.partial/models/onnx/*.raw.onnx",
    "weights": "steps/export/*.partial/models/regressor/*.pth",
    "goldens": "steps/export/*.partial/models/goldens/*",
    "exported": "steps/export/*/export.json",
}


def test_killed_while_it_writes_each_of_its_files(regressor: Project) -> None:
    """Whenever it is met: nothing half-made is taken, and at the end all is there."""
    for pattern in PLACES.values():
        process = start(regressor, "build")
        deadline = time.monotonic() + 60
        while process.poll() is None and not list(regressor.cache.glob(pattern)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -9
        assert regressor.listed() in ([], ["small"])
    before = regressor.sent()
    regressor.real("build").succeeded()
    assert regressor.sent() == before
    assert regressor.listed() == ["small"]
    assert regressor.remains() == []
    regressor.real("verify").succeeded()


@pytest.mark.parametrize("limit", [10_000, 400_000])
def test_a_limit_on_the_size_of_files_that_torch_and_onnx_write(regressor: Project, limit: int) -> None:
    regressor.real("fetch").succeeded()
    limited(regressor, limit, "build", "--sources", str(regressor.cache / "sources")).failed(7)
    assert regressor.listed() == []
    assert regressor.remains() == []


def test_a_disk_too_small_for_transformers_to_write(project: Project) -> None:
    """safetensors and tokenizers write in Rust, and tell of a full disk in words of their own."""
    project.define(files={"model.safetensors": b"x"}, sample=True, model=TRANSFORMER)
    words = ("build", "--weights", "sample")
    if can_mount():
        with small_disk(project.cache, 1 << 20) as disk:
            project.real(*words).failed(7, "is full")
            assert project.remains() == []
            disk.resize(1 << 28)
            project.real(*words).succeeded()
    else:
        limited(project, 1 << 16, *words).failed(7)
        project.real(*words).succeeded()
    assert project.listed() == ["small"]
