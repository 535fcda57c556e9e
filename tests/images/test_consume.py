"""What the pages of the registry show, run as shown; and what clusters would do with a bundle, done with Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelbake import manifest
from modelbake.files import sha256_of
from tests.images import containerd
from tests.images.engine import ROOT, SANDBOX, TAG, docker, image, must
from tests.images.test_registry import SMALL, models_of
from tests.registry.server import Registry

# In the order in which they are run.
PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("consume", "registry", "trust"))
# What stands for a registry on the pages.
SHOWN = "localhost:5000"


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[Registry]:
    (folder / "registry").mkdir()
    with Registry(folder / "registry") as found:
        yield found
    names = must("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    if ours := [name for name in names if name.startswith(f"{found.host}/")]:
        docker("image", "rm", "--force", *ours)
    docker("image", "rm", "--force", "modelbake-example-baked")


@pytest.fixture(scope="module")
def work(folder: Path) -> Path:
    """A folder with the project's examples, where the commands run."""
    found = folder / "consume"
    found.mkdir()
    shutil.copytree(ROOT / "examples", found / "examples")
    (found / ".venv").symlink_to(Path(sys.executable).parents[1])
    models_of(f"bundle-{SMALL}", found / "models")
    return found


@pytest.fixture(scope="module")
def ran(registry: Registry, work: Path) -> dict[str, str]:
    """All commands of the pages, run in their order; what each block of them printed."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) >= 10
    environ = {
        **os.environ,
        "MODELBAKE_ROOT": str(ROOT),
        "MODELBAKE_MODELS": str(work / "models"),
        "MODELBAKE_CACHE": str(work / "cache"),
        "MODELBAKE_STORE": str(work / "store"),
    }
    printed = {}
    for language, block in found:
        code = block.replace(SHOWN, registry.host).replace("modelbake/runtime:dev ", f"{image('runtime')} ", 1)
        code = code.replace("/modelbake/runtime:dev", f"/modelbake/runtime:{TAG}")
        command = ["bash", "-c", f"set -euo pipefail\n{code}"] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed[block] = done.stdout
    return printed


def output(ran: dict[str, str], words: str) -> str:
    """What the one block with these words printed."""
    (found,) = [text for block, text in ran.items() if words in block]
    return found


def holds(models: Path, work: Path) -> bool:
    """Whether the folder has all that the bundle has, byte for byte."""
    expected = manifest.read(work / "models").bundle(SMALL)
    return manifest.read(models).bundle(SMALL) == expected and all(
        sha256_of(models / ref.path) == ref.sha256 for ref in expected.files
    )


def embeddings(text: str) -> list[float]:
    """The one embedding that a JSON object on a line of the output gives."""
    (line,) = [line for line in text.splitlines() if line.startswith("{")]
    (row,) = json.loads(line)["embeddings"]
    return [float(number) for number in row]


def test_pulls_bring_the_bundle_whole(ran: dict[str, str], work: Path) -> None:
    assert holds(work / "build" / "models", work)
    assert holds(work / "build" / "python", work)
    assert holds(work / "build" / "image" / "models", work)
    assert "(1, 384)" in output(ran, "TextEncoder")


def test_a_part_is_a_part(ran: dict[str, str], work: Path) -> None:
    entry = manifest.read(work / "build" / "int8").bundle(SMALL)

    assert [one.precision for one in entry.artifacts] == ["int8"]
    assert {
        path.relative_to(work / "build" / "int8").as_posix() for path in (work / "build" / "int8").rglob("*.onnx")
    } == {entry.artifacts[0].path}


def test_the_lock_pins_the_digest_and_the_second_pull_moves_nothing(ran: dict[str, str], work: Path) -> None:
    pinned = json.loads((work / "build" / "pulls.json").read_bytes())

    (digest,) = pinned["pulls"].values()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert re.findall(r"received +(\d+) of", output(ran, "build/pulls.json --locked")) == ["0", "0"]


def test_the_image_and_both_services_of_compose_answer_alike(ran: dict[str, str]) -> None:
    built = embeddings(output(ran, "--target service"))
    lines = [line for line in output(ran, "docker compose").splitlines() if line.startswith("{")]

    assert len(built) == 384
    assert [embeddings(line) for line in lines] == [built, built]


def test_a_packed_bundle_in_the_engine_has_the_layers_of_the_baked_one(ran: dict[str, str], registry: Registry) -> None:
    pulled = json.loads(must("image", "inspect", f"{registry.host}/models/minilm:1.0.0"))[0]["RootFS"]["Layers"]

    assert pulled == json.loads(must("image", "inspect", image(f"bundle-{SMALL}")))[0]["RootFS"]["Layers"]


def test_containerd_pulls_and_mounts_what_was_pushed(ran: dict[str, str], registry: Registry, work: Path) -> None:
    """As a node of Kubernetes does for an image volume, without Docker."""
    name = f"{registry.host}/models/minilm:1.0.0"
    with containerd.running() as node:
        node.ctr("images", "pull", "--plain-http", name)
        mounted = work / "mounted"
        mounted.mkdir()
        node.ctr("images", "mount", name, str(mounted))
        try:
            assert holds(mounted / "models", work)
        finally:
            node.ctr("images", "unmount", "--rm", str(mounted))


# ---- what a cluster would do --------------------------------------------------------------------------------------------


def test_the_pods_container_runs_as_the_file_says(ran: dict[str, str], work: Path) -> None:
    """The image volume as a read-only mount of the image's files."""
    pod: dict[str, Any] = yaml.safe_load((ROOT / "examples/kubernetes/pod.yaml").read_text())["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    user = pod["securityContext"]
    assert container["image"].split("/")[-1].partition(":")[0] == "runtime"
    options = [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        "--network=none",
        "--read-only",
        *(f"--cap-drop={name}" for name in container["securityContext"]["capabilities"]["drop"]),
        "--security-opt=no-new-privileges",
        *(f"--env={one['name']}={one['value']}" for one in container["env"]),
        f"--volume={work / 'build' / 'image'}:{mount['mountPath']}:ro",
    ]

    done = docker("run", "--rm", *options, image("runtime"), *container["args"])

    assert done.code == 0, done.stderr
    assert embeddings(done.stdout) == embeddings(output(ran, "--target service"))


# What KServe gives the modelcar's container as arguments (pkg/utils/storage.go), and its init container before.
MODELCAR = "ln -sf /proc/$$/root/models /mnt/models && sleep infinity"
PREFETCH = '[ -d /models ] && [ "$(ls -A /models)" ]'


@pytest.fixture(scope="module")
def beside_modelcar(ran: dict[str, str], registry: Registry, folder: Path) -> Iterator[tuple[str, ...]]:
    """The options of a container beside a modelcar: an empty volume for both at /mnt, one user, one process namespace."""
    modelcar = f"{registry.host}/modelcars/minilm:1.0.0"
    shared = folder / "mnt"
    shared.mkdir()
    shared.chmod(0o777)
    options = (*SANDBOX, f"--volume={shared}:/mnt")
    must("run", "--rm", *options, modelcar, "sh", "-c", PREFETCH)
    started = must("run", "--detach", *options, modelcar, "sh", "-c", MODELCAR)
    try:
        for _ in range(100):
            if (shared / "models").is_symlink():
                break
            must("exec", started, "sleep", "0.1")
        yield (*options, f"--pid=container:{started}", "--env=MODELBAKE_MODELS=/mnt/models")
    finally:
        must("rm", "--force", started)


def test_a_modelcar_gives_every_file_to_the_container_beside_it(beside_modelcar: tuple[str, ...]) -> None:
    code = (
        "import hashlib, pathlib\n"
        "from modelbake import manifest\n"
        "models = pathlib.Path('/mnt/models')\n"
        "for ref in manifest.read(models).bundles[0].files:\n"
        "    assert hashlib.sha256((models / ref.path).read_bytes()).hexdigest() == ref.sha256, ref\n"
        "    print(ref.path)\n"
    )
    done = docker("run", "--rm", *beside_modelcar, "--entrypoint=python3", image("runtime"), "-c", code)

    assert done.code == 0, done.stderr
    assert "onnx/all-MiniLM-L6-v2.onnx.data" in done.stdout.splitlines()


def test_onnx_runtime_does_not_find_weights_beside_a_graph_by_way_of_proc(beside_modelcar: tuple[str, ...]) -> None:
    """As the documentation says: it takes the link for the path that it has in the modelcar. Where this fails, correct the page."""
    done = docker(
        "run", "--rm", *beside_modelcar, image("runtime"), "embed", "--bundle", SMALL, "--text", "hello world"
    )

    assert done.code == 5
    assert "External data path validation failed" in done.stderr


def test_a_bundle_alone_is_no_modelcar(ran: dict[str, str], registry: Registry) -> None:
    """As the documentation says."""
    done = docker("run", "--rm", f"{registry.host}/models/minilm:1.0.0", "sh", "-c", PREFETCH)

    assert done.code == 127
    assert '"sh"' in done.stderr
