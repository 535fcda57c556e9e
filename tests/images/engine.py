"""The engine as the tests use it: one client, containers in the sandbox, what images hold."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modelbake.manifest import Weights

ROOT = Path(__file__).parents[2]
TAG = os.environ.get("TAG") or "dev"
REGISTRY = os.environ.get("REGISTRY", "")

# What a cautious administrator would allow a container: nothing.
SANDBOX = (
    "--network=none",
    "--read-only",
    "--user=65532:65532",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)
MANIFEST = "/models/model_manifest.json"


@dataclass(frozen=True)
class Done:
    """How a container ended: exit code, standard output and standard error."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The standard output as JSON, where the container succeeded."""
        assert self.code == 0, f"exit code {self.code}:\n{self.stdout}\n{self.stderr}"
        return json.loads(self.stdout)


def engine_environ() -> dict[str, str]:
    """The variables that `scripts/engine.sh env` sets; RuntimeError with its own words where no engine answers."""
    shell = f'set -e; settings=$({shlex.quote(str(ROOT / "scripts/engine.sh"))} env); eval "$settings"; env -0'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    pairs = (entry.partition("=") for entry in done.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs if name in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH")}


def image(name: str) -> str:
    """The full name of one of this project's images."""
    return f"{REGISTRY}modelbake/{name}:{TAG}"


def docker(*arguments: str, stdin: str | None = None) -> Done:
    """Run `docker ARGUMENTS`, whatever comes of it."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def must(*arguments: str, stdin: str | None = None) -> str:
    """The standard output of `docker ARGUMENTS`, which has to succeed."""
    done = docker(*arguments, stdin=stdin)
    assert done.code == 0, f"docker {' '.join(arguments)}:\n{done.stderr}"
    return done.stdout.strip()


def run(name: str, *command: str, options: tuple[str, ...] = (), stdin: str | None = None) -> Done:
    """Run an image in the sandbox."""
    interactive = ("--interactive",) if stdin is not None else ()
    return docker("run", "--rm", *SANDBOX, *interactive, *options, image(name), *command, stdin=stdin)


def python(name: str, code: str) -> Done:
    """Run Python code in the sandbox, with the image's own interpreter."""
    return run(name, "-c", code, options=("--entrypoint=python3",))


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows of one of this project's images."""
    found: list[dict[str, Any]] = json.loads(must("image", "inspect", image(name)))
    return found[0]


def label(name: str, key: str) -> str:
    """A label of an image; empty where it has none."""
    return str((inspect(name)["Config"].get("Labels") or {}).get(key, ""))


def weights_of(name: str) -> dict[str, Weights]:
    """Bundle to weights, as the image's label says."""
    pairs = (pair.split("=") for pair in label(name, "io.modelbake.weights").split(",") if pair)
    return {bundle: cast(Weights, weights) for bundle, weights in pairs}
