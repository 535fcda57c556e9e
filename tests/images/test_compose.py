"""The commands of docs/coreml.md, run as a user runs them: docker compose build, and run with each of the scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelbake import manifest
from modelbake.bake.compose import write_override
from modelbake.bake.host import host_inputs
from modelbake.files import sha256_of
from modelbake.settings import from_environment
from tests.images.engine import ROOT, Done, docker

PROJECT = "modelbake-compose-test"
BUNDLE = "minilm-l6-v2-coreml"
# What a build and a run see of the checkout.
PARTS = (".dockerignore", "bundles", "compose.yaml", "images", "locks", "scripts", "src")
# compose.yaml's own, unless MODELBAKE_USER is set.
UID = 1000

pytestmark = pytest.mark.builds


@dataclass(frozen=True)
class Checkout:
    """A copy of the project, whose models/ the commands fill."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    def compose(self, *arguments: str, **environ: str) -> Done:
        variables = {**os.environ, "TAG": "compose-test", "COMPOSE_PROJECT_NAME": PROJECT, **environ}
        variables.pop("MODELBAKE_USER", None) if "MODELBAKE_USER" not in environ else None
        done = subprocess.run(
            ["docker", "compose", *arguments], cwd=self.root, env=variables, capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *command: str, **environ: str) -> Done:
        return self.compose("run", "--rm", "--no-TTY", "model-converter", *command, **environ)


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Iterator[Checkout]:
    """Built, with an empty models/ that belongs to whoever runs the tests."""
    root = folder / "compose"
    root.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / part)
    # The smaller variants take minutes, and are tests/coreml's.
    definition = root / "bundles" / BUNDLE / "bundle.toml"
    text = definition.read_text(encoding="utf-8")
    definition.write_text(text[: text.index("[[variants]]")], encoding="utf-8")
    (root / "models").mkdir()
    write_override(root, host_inputs(from_environment(directory=root)))
    found = Checkout(root)
    try:
        done = found.compose("build")
        assert done.code == 0, done.stderr
        yield found
    finally:
        found.compose("down", "--volumes", "--remove-orphans")
        docker("image", "rm", "--force", "modelbake/converter:compose-test")


@pytest.fixture(scope="module")
def converted(checkout: Checkout) -> Done:
    done = checkout.run("python", "convert_embedding.py")
    assert done.code == 0, done.stderr
    return done


def test_the_packages_are_in_the_hosts_folder_and_say_their_figures(checkout: Checkout, converted: Done) -> None:
    entry = manifest.read(checkout.models).bundle(BUNDLE)
    for artifact in entry.artifacts:
        assert artifact.coreml is not None
        assert artifact.coreml.package in converted.stdout
    assert "Apple's runtime not exercised" in converted.stdout
    for ref in entry.files:
        assert sha256_of(checkout.models / ref.path) == ref.sha256


def test_what_is_written_belongs_to_the_containers_user(checkout: Checkout, converted: Done) -> None:
    owners = {path.stat().st_uid for path in checkout.models.rglob("*")}
    assert owners == {UID}


def test_the_package_is_within_1e_5_of_sentence_transformers(checkout: Checkout, converted: Done) -> None:
    done = checkout.run("python", "test_models.py")
    assert done.code == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if " PASS " in line]
    assert len(rows) == 10
    assert "FAIL" not in done.stdout

    (line,) = checkout.run("python", "test_models.py", "--json").stdout.splitlines()
    sentences = json.loads(line)["sentences"]
    assert len(sentences) == 10
    assert max(one["max_abs_diff"] for one in sentences) <= 1e-6


def test_a_damaged_package_fails(checkout: Checkout, converted: Done) -> None:
    artifact = manifest.read(checkout.models).bundle(BUNDLE).artifact("text_encoder", "fp32")
    assert artifact.coreml is not None
    (path,) = (checkout.models / artifact.coreml.package).rglob("weight.bin")
    whole = path.read_bytes()
    # A megabyte of the last layers, as if its rows had been swapped; of the table of words a text uses few.
    path.write_bytes(whole[: -4 << 20] + whole[-3 << 20 : -2 << 20] + whole[-3 << 20 :])
    try:
        done = checkout.run("python", "test_models.py")
    finally:
        path.write_bytes(whole)
    assert done.code == 6
    assert " FAIL " in done.stdout


def test_language_models_come_later(checkout: Checkout) -> None:
    done = checkout.run("python", "convert_llm.py")
    assert done.code == 2
    assert "comes later" in done.stderr


def test_the_converter_has_no_network_no_root_and_nothing_else_to_write_to(checkout: Checkout) -> None:
    code = (
        "import os, socket, sys\n"
        "assert os.getuid() == os.geteuid() == int(sys.argv[1])\n"
        "assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
        "for path in ('/x', '/work/bundles/x', '/work/scripts/coreml/x', '/opt/modelbake/x'):\n"
        "    try:\n"
        "        open(path, 'w')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit(f'{path} can be written')\n"
        "open('/cache/.models.lock', 'w')\n"
        "capabilities = open('/proc/self/status').read().split('CapBnd:')[1].split()[0]\n"
        "assert int(capabilities, 16) == 0, capabilities\n"
    )
    done = checkout.run("python", "-c", code, str(UID))
    assert done.code == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_told_and_that_user_can_write_it(checkout: Checkout, folder: Path) -> None:
    other = Checkout(folder / "other")
    shutil.copytree(checkout.root, other.root, ignore=shutil.ignore_patterns("models"))
    other.models.mkdir()
    os.chown(other.models, 4711, 4712)

    done = other.run("python", "convert_embedding.py")
    assert done.code == 7
    assert "MODELBAKE_USER=4711:4712" in done.stderr

    done = other.run("python", "-c", "open('/cache/models/x', 'w')", MODELBAKE_USER="4711:4712")
    assert done.code == 0, done.stderr
    assert (other.models / "x").stat().st_uid == 4711
