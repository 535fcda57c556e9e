"""The docker client, called as a process."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from modelbake.errors import MachineError

NO_ENGINE = (
    'Run `scripts/engine.sh start`, which finds or sets up a Docker engine, then `eval "$(scripts/engine.sh env)"`.'
)


def require_engine() -> None:
    """MachineError where no engine answers or the client has no buildx."""
    if shutil.which("docker") is None:
        raise MachineError(f"There is no docker client on this machine. {NO_ENGINE}")
    for command, lack in (
        (["version"], "No Docker engine answers"),
        (["buildx", "version"], "The docker client has no buildx plugin"),
    ):
        done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MachineError(f"{lack} ({last_line(done.stderr)}). {NO_ENGINE}")


def docker(*arguments: str, stdin: bytes | None = None) -> bytes:
    """The standard output of `docker ARGUMENTS`; MachineError with docker's own words where it fails."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"docker {arguments[0]} failed: {last_line(done.stderr.decode(errors='replace'))}")
    return done.stdout


def inspect_image(name: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", name))
    return found[0]


def read_file(image: str, path: str) -> bytes:
    """One file of an image, without running it."""
    import io
    import tarfile

    # Images of files alone have no command; the one given here is never run.
    container = docker("create", "--network=none", image, "unused").decode().strip()
    try:
        archive = docker("cp", f"{container}:{path}", "-")
    finally:
        docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        if member is None:
            raise MachineError(f"{path} of {image} is no file.")
        return member.read()


def last_line(text: str) -> str:
    """The last line of a message that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
