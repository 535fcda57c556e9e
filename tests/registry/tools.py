"""The real programs that the tests of the registry use: what scripts/registry_tools.sh sets up, or what is on PATH."""

from __future__ import annotations

import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("docker-registry", "oras", "cosign", "skopeo")


@cache
def _paths() -> dict[str, str]:
    """Each program and where it is, as the script finds them; empty where one is missing."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/registry_tools.sh"), "path"], capture_output=True, text=True, check=False
    )
    return dict(zip(NAMES, done.stdout.splitlines(), strict=True)) if done.returncode == 0 else {}


def tool(name: str) -> str:
    """Where the program is; the test is skipped where there is none."""
    found = _paths().get(name) or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: scripts/registry_tools.sh install")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on by now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
