"""What is in the images and what is not; what their configuration says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelbake import __version__
from modelbake.bake.docker import read_file
from modelbake.manifest import MANIFEST_NAME, Manifest, decode
from tests.images.conftest import BUNDLES, IMAGES
from tests.images.engine import ROOT, SANDBOX, TAG, image, inspect, label, must, python, run
from tests.images.oci import Archive

RUNNING = ("runtime", "search")
BUILD_ONLY = ("torch", "torchvision", "open_clip", "transformers", "sentence_transformers", "onnx", "safetensors")
HUB_CLIENTS = ("huggingface_hub", "httpx2", "requests", "urllib3", "filelock", "tenacity")
INSTALLERS = ("pip", "setuptools")


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("module", [*BUILD_ONLY, *HUB_CLIENTS, *INSTALLERS])
def test_what_is_only_needed_to_build_cannot_be_imported(name: str, module: str) -> None:
    done = python(name, f"import {module}")

    assert done.code == 1
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("name", RUNNING)
def test_what_answers_is_there(name: str) -> None:
    done = python(name, "import modelbake, numpy, onnxruntime, tokenizers, PIL; print(modelbake.__version__)")

    assert (done.code, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize("name", IMAGES)
def test_the_user_is_a_number_and_not_root(name: str) -> None:
    user = inspect(name)["Config"]["User"]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"User is {user!r}"


@pytest.mark.parametrize("name", ["base", "converter", "runtime", "layered"])
def test_every_dockerfile_of_an_image_ends_as_a_numeric_user(name: str) -> None:
    lines = (ROOT / "images" / name / "Dockerfile").read_text().splitlines()
    last = max(index for index, line in enumerate(lines) if line.startswith("FROM "))
    users = [line.split()[1] for line in lines[last:] if line.startswith("USER ")]

    assert users[-1] == "65532:65532"


@pytest.mark.parametrize("name", RUNNING)
def test_entrypoint_health_check_and_environment_are_set(name: str) -> None:
    config = inspect(name)["Config"]

    assert config["Entrypoint"] == ["modelbake"]
    assert config["Healthcheck"]["Test"] == ["CMD", "modelbake", "list", "--built", "--quiet"]
    assert {"ORT_DISABLE_TELEMETRY=1", "MODELBAKE_MODELS=/models"} <= set(config["Env"])


@pytest.mark.parametrize("name", IMAGES)
def test_labels_give_title_version_and_licence(name: str) -> None:
    labels = inspect(name)["Config"]["Labels"]

    assert name.removeprefix("bundle-") in labels["org.opencontainers.image.title"]
    assert labels["org.opencontainers.image.version"] == TAG
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "runtime"])
def test_the_weights_label_is_what_the_manifest_says(name: str) -> None:
    entries = decode(read_file(image(name), f"/models/{MANIFEST_NAME}"), name).bundles

    assert label(name, "io.modelbake.weights") == ",".join(f"{entry.name}={entry.weights}" for entry in entries)
    assert label(name, "io.modelbake.bundles") == ",".join(entry.name for entry in entries)


def test_search_holds_every_bundle_and_runtime_none(manifest: Manifest) -> None:
    listed = {row["name"]: row["built"] for row in run("search", "list", "--json").json()}

    assert listed == {entry.name: entry.weights for entry in manifest.bundles}
    assert tuple(sorted(listed)) == BUNDLES
    assert run("runtime", "list", "--json").json() == []


def test_the_file_tree_of_the_models_is_the_manifests_and_read_only(manifest: Manifest) -> None:
    code = (
        "import os, json\n"
        "found = {}\n"
        "for folder, _, names in os.walk('/models'):\n"
        "    for path in [folder, *(os.path.join(folder, name) for name in names)]:\n"
        "        facts = os.lstat(path)\n"
        "        found[os.path.relpath(path, '/models')] = [oct(facts.st_mode), facts.st_uid, facts.st_gid]\n"
        "print(json.dumps(found))\n"
    )
    found = python("search", code).json()

    files = {path for path, (mode, _, _) in found.items() if mode == "0o100644"}
    folders = {path for path, (mode, _, _) in found.items() if mode == "0o40755"}
    assert files == {MANIFEST_NAME, *(ref.path for entry in manifest.bundles for ref in entry.files)}
    assert files | folders == set(found), "other modes than 644 and 755, or links"
    assert {(uid, gid) for _, uid, gid in found.values()} == {(0, 0)}


def test_images_carry_no_caches_no_repository_and_no_papers_of_the_project(archives: dict[str, Archive]) -> None:
    for name, archive in archives.items():
        names = archive.names
        for pattern in (
            r"(^|/)\.git(/|$)",
            r"(^|/)\.cache(/|$)",
            # The base image and packages have their own.
            r"^((opt/modelbake|models|work|root|home|srv)/(.*/)?)?README",
            r"(^|/)pip\.conf$",
            r"^(work|cache|sources|out|layers|mnt|tmp|run/secrets)/.+",
            r"^var/cache/apt/.+\.deb$",
            r"opt/venv/.*site-packages/(pip|setuptools)(/|-)",
            r"^opt/modelbake/(?!src(/|$)).+",
        ):
            assert [path for path in names if re.search(pattern, path)] == [], (name, pattern)


def test_a_bundle_image_holds_models_and_nothing_else(archives: dict[str, Archive]) -> None:
    for name in BUNDLES:
        assert {path.split("/")[0] for path in archives[f"bundle-{name}"].names} == {"models"}


def test_a_running_search_container_becomes_healthy(container: Callable[..., str]) -> None:
    running = container(*SANDBOX, "--health-interval=500ms", "--entrypoint=sleep", image("search"), "600")

    assert health(running) == ("healthy", 0)


def test_a_search_container_whose_manifest_is_damaged_becomes_unhealthy(
    container: Callable[..., str], folder: Path
) -> None:
    bad = folder / "bad-manifest.json"
    bad.write_text('{"schema_version": 99, "bundles": []}')
    bad.chmod(0o644)
    running = container(
        *SANDBOX,
        f"--volume={bad}:/models/{MANIFEST_NAME}:ro",
        "--health-interval=500ms",
        "--health-retries=1",
        "--entrypoint=sleep",
        image("search"),
        "600",
    )

    status, code = health(running)

    assert (status, code) == ("unhealthy", 5)


def health(name: str) -> tuple[str, int]:
    """What the health check settles on, and the exit code of its last run."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = json.loads(must("inspect", "--format", "{{json .State.Health}}", name))
        if state["Status"] != "starting":
            return state["Status"], state["Log"][-1]["ExitCode"]
        time.sleep(0.3)
    raise AssertionError(f"the health check has not settled within a minute: {state}")
