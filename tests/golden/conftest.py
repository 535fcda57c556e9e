"""Bundles built once for all golden tests, by the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelbake.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Built:
    """A models folder, the cache it was built with, and the environment that built it."""

    models: Path
    cache: Path
    environ: dict[str, str]

    def sources(self, bundle: str) -> Path:
        return self.cache / "sources" / bundle / "files"


def modelbake(*arguments: str, environ: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "modelbake", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment with models and cache in `folder`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WEIGHTS"))}
    return clean | {"MODELBAKE_MODELS": str(folder / "models"), "MODELBAKE_CACHE": str(folder / "cache"), **more}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The default bundles, with the weights that this machine can have."""
    folder = tmp_path_factory.mktemp("built")
    environ = environment(folder)
    catalog = Catalog(ROOT / "bundles")
    modelbake("build", *(name for name in catalog.names() if catalog.get(name).default), environ=environ)
    return Built(folder / "models", folder / "cache", environ)
