"""compose.yaml: what each service may do, and that it builds the very image that bake's converter is.

tests/images/test_compose.py runs it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Target to source and whether it can be written."""
    return {one["target"]: (one["source"], not one.get("read_only", False)) for one in service["volumes"]}


def test_no_service_has_a_writable_root_privileges_to_gain_or_capabilities_that_it_does_not_need(
    services: dict[str, dict[str, Any]],
) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
    assert {name: service["cap_add"] for name, service in services.items() if "cap_add" in service} == {
        "prepare": ["CHOWN", "DAC_READ_SEARCH"]
    }


def test_the_converter_and_the_fetcher_run_as_a_user_who_is_not_root(services: dict[str, dict[str, Any]]) -> None:
    users = {name: service["user"] for name, service in services.items()}
    assert users == {
        "model-converter": "${MODELBAKE_USER:-1000:1000}",
        "weights": "${MODELBAKE_USER:-1000:1000}",
        "prepare": "0:0",
    }
    assert services["prepare"]["environment"] == {"OWNER": users["model-converter"]}


def test_only_what_fetches_has_a_network_and_it_sees_no_models(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service["network_mode"] for name, service in services.items()} == {
        "model-converter": "none",
        "weights": "bridge",
        "prepare": "none",
    }
    assert mounts(services["weights"]) == {"/work/bundles": ("./bundles", False), "/cache": ("cache", True)}
    # Beside the cache and not in it, all of which it gives to the user.
    assert mounts(services["prepare"]) == {"/cache": ("cache", True), "/models": ("./models", True)}


def test_the_fetcher_knows_the_proxy_by_either_of_its_names(services: dict[str, dict[str, Any]]) -> None:
    environment = services["weights"]["environment"]
    assert {name for name in environment if name.lower().endswith("_proxy")} == {
        cased for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for cased in (name, name.lower())
    }


def prepare(services: dict[str, dict[str, Any]], folder: Path, uid_map: str, owner: str) -> tuple[int, str, list[str]]:
    """The exit code, errors and calls of find of prepare's own script, by this machine's sh, where the kernel gives that map."""
    (shell, flags), (script,) = services["prepare"]["entrypoint"], services["prepare"]["command"]
    (folder / "uid_map").write_text(uid_map)
    (folder / "find").write_text(f'#!/bin/sh\necho "$@" >>{folder}/calls\n')
    (folder / "find").chmod(0o755)
    (folder / "calls").write_text("")
    assert script.count("/proc/self/uid_map") == 1
    # As Compose hands it on.
    script = script.replace("$$", "$").replace("/proc/self/uid_map", str(folder / "uid_map"))
    environ = {"PATH": f"{folder}:/usr/bin:/bin", "OWNER": owner}
    done = subprocess.run([shell, flags, script], env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, (folder / "calls").read_text().splitlines()


WITHOUT_ROOT = "         0       1000          1\n         1     100000      65536\n"


def test_with_an_engine_without_root_nothing_is_given_to_a_user_that_you_do_not_own(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    code, said, calls = prepare(services, tmp_path, WITHOUT_ROOT, "1000:1000")
    assert (code, calls) == (7, [])
    assert "MODELBAKE_USER=0:0" in said


@pytest.mark.parametrize(
    ("uid_map", "owner"),
    [
        ("         0          0 4294967295\n", "1000:1000"),
        (WITHOUT_ROOT, "0:0"),
        # A machine in a container of its own: its root is no single user's.
        ("         0     100000      65536\n", "1000:1000"),
    ],
    ids=["root", "without root, told", "nested"],
)
def test_else_the_folders_are_given_to_the_user(
    services: dict[str, dict[str, Any]], tmp_path: Path, uid_map: str, owner: str
) -> None:
    code, said, calls = prepare(services, tmp_path, uid_map, owner)
    assert (code, said) == (0, "")
    uid = owner.partition(":")[0]
    assert calls == [
        f"/models -xdev -type d -user 0 -exec chown {owner} {{}} +",
        f"/cache -xdev ! -user {uid} -exec chown -h {owner} {{}} +",
    ]


def test_models_can_be_written_and_the_project_cannot(services: dict[str, dict[str, Any]]) -> None:
    assert mounts(services["model-converter"]) == {
        "/work/bundles": ("./bundles", False),
        "/cache/models": ("./models", True),
        "/work/scripts/coreml": ("./scripts/coreml", False),
        "/cache": ("cache", True),
    }
    assert services["model-converter"]["working_dir"] == "/work/scripts/coreml"
    assert services["model-converter"]["environment"] == {
        "MODELBAKE_ROOT": "/work",
        "MODELBAKE_MODELS": "/cache/models",
        "MODELBAKE_CACHE": "/cache",
        "WEIGHTS": None,
    }


def test_the_scripts_of_the_commands_are_there(services: dict[str, dict[str, Any]]) -> None:
    folder = ROOT / mounts(services["model-converter"])["/work/scripts/coreml"][0]
    assert {path.name for path in folder.glob("*.py")} == {"convert_embedding.py", "test_models.py", "convert_llm.py"}


def test_each_service_waits_for_what_it_needs(services: dict[str, dict[str, Any]]) -> None:
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    done = "service_completed_successfully"
    assert waits == {"model-converter": {"weights": done}, "weights": {"prepare": done}, "prepare": {}}


def test_all_services_run_the_image_that_one_of_them_builds(services: dict[str, dict[str, Any]]) -> None:
    assert {service["image"] for service in services.values()} == {"${REGISTRY:-}modelbake/converter:${TAG:-dev}"}
    # What only `docker compose build` makes is looked for in no registry.
    assert {service["pull_policy"] for service in services.values()} == {"never"}
    assert [name for name, service in services.items() if "build" in service] == ["model-converter"]


def test_the_build_is_that_of_the_bake(services: dict[str, dict[str, Any]]) -> None:
    hcl = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    target = re.search(r'^target "converter" \{\n(.*?)^\}', hcl, re.MULTILINE | re.DOTALL)
    assert target is not None
    build = services["model-converter"]["build"]
    assert f'"{build["dockerfile"]}"' in target[1]
    assert f'"{build["labels"]["org.opencontainers.image.title"]}"' in target[1]
    for name, value in build["args"].items():
        default = re.search(rf'^variable "{name}" \{{ default = "(.*)" \}}', hcl, re.MULTILINE)
        assert default is not None
        assert value == f"${{{name}:-{default[1]}}}"


def instructions(text: str) -> list[str]:
    """A Dockerfile's lines, without comments and those that are empty."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_converters_own_base_is_the_base_image() -> None:
    base = instructions((ROOT / "images" / "base" / "Dockerfile").read_text(encoding="utf-8"))
    own = instructions((ROOT / "images" / "converter" / "Dockerfile").read_text(encoding="utf-8"))
    assert base[:2] == ["ARG BASE_IMAGE=python:3.11-slim", "FROM ${BASE_IMAGE}"]
    begin, end = own.index("FROM ${BASE_IMAGE} AS base-image"), own.index("FROM base-image")
    assert own[0] == base[0]
    assert own[begin + 1 : end] == base[2:]


def test_the_evaluation_sets_are_of_texts_whose_sources_are_told() -> None:
    """The folder of a bundle is all that an image build sees of the catalog, so each has a copy, and no link."""
    original = (ROOT / "bundles" / "minilm-l6-v2" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    copies = [
        ROOT / "bundles" / name / "evaluation.txt"
        for name in ("minilm-l6-v2-coreml", "arctic-embed-xs-coreml", "clip-vit-b-32-coreml")
    ]
    assert not any(path.is_symlink() for path in copies)
    found = [path.read_text(encoding="utf-8").splitlines() for path in copies]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 200
    assert set(found[0]) <= set(original)
