"""Grafts with the real engine, out of the images that a bake made: the same layers as the baked search image, and it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.images.conftest import BUNDLES
from tests.images.engine import ROOT, SANDBOX, docker, image, inspect, must, run

SMALL = "minilm-l6-v2"
TEXT = "a red cat on a green table"


def graft(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "modelbake", "graft", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, str]]:
    """Names for grafted images, which are gone from the engine in the end."""
    found = {name: f"modelbake/graft-test-{name}:1" for name in ("small", "again", "search")}
    yield found
    docker("image", "rm", "--force", *found.values())


@pytest.fixture(scope="module")
def small(names: dict[str, str]) -> dict[str, Any]:
    """The runtime with one bundle."""
    return graft(f"docker:{image('runtime')}", f"docker:{image(f'bundle-{SMALL}')}", "-t", f"docker:{names['small']}")


def test_a_grafted_image_answers_in_the_sandbox_as_the_baked_one_does(
    small: dict[str, Any], names: dict[str, str]
) -> None:
    command = ("embed", "--bundle", SMALL, "--text", TEXT, "--json")
    answer = json.loads(must("run", "--rm", *SANDBOX, names["small"], *command))

    assert small["bundles"] == {SMALL: "1.0.0"}
    assert answer == run("search", *command).json()


def test_a_grafted_image_verifies_itself(small: dict[str, Any], names: dict[str, str]) -> None:
    assert set(json.loads(must("run", "--rm", *SANDBOX, names["small"], "verify", "--json"))) == set(small["bundles"])


def test_no_layer_moves_into_the_engine_that_has_them(small: dict[str, Any]) -> None:
    # A manifest, a config and the layer of the merged models manifest.
    assert small["sent"] < 100_000 < small["size"]


def test_the_same_graft_gives_the_same_digest(small: dict[str, Any], names: dict[str, str]) -> None:
    again = graft(f"docker:{image('runtime')}", f"docker:{image(f'bundle-{SMALL}')}", "-t", f"docker:{names['again']}")

    assert again["digest"] == small["digest"]


def test_replacing_a_bundle_by_itself_gives_the_same_digest(small: dict[str, Any], names: dict[str, str]) -> None:
    bundle = f"docker:{image(f'bundle-{SMALL}')}"
    again = graft(f"docker:{names['small']}", bundle, "-t", f"docker:{names['again']}", "--replace", SMALL)

    assert again["digest"] == small["digest"]


def test_the_config_of_the_runtime_stays(small: dict[str, Any], names: dict[str, str]) -> None:
    old = inspect("runtime")["Config"]
    new = json.loads(must("image", "inspect", names["small"]))[0]["Config"]

    assert new.pop("Labels")["io.modelbake.bundles"] == SMALL
    old.pop("Labels")
    assert new == old


def test_all_bundles_grafted_upon_the_runtime_are_the_layers_of_the_baked_search_image(names: dict[str, str]) -> None:
    bundles = [f"docker:{image(f'bundle-{name}')}" for name in BUNDLES]
    graft(f"docker:{image('runtime')}", *bundles, "-t", f"docker:{names['search']}")
    layers = json.loads(must("image", "inspect", names["search"]))[0]["RootFS"]["Layers"]

    assert layers == inspect("search")["RootFS"]["Layers"]
