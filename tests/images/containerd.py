"""A containerd of the tests' own, without Docker: what Kubernetes' nodes pull with."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMESPACE = "modelbake-tests"
# Pulling and mounting need none of these, and they want devices, networks or another service.
_LEFT_OUT = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
)


@dataclass(frozen=True)
class Containerd:
    """A running one, by its socket."""

    socket: Path

    def ctr(self, *words: str) -> str:
        """What `ctr WORDS` prints; AssertionError where it fails."""
        command = ["ctr", "--address", str(self.socket), "--namespace", NAMESPACE, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def running() -> Iterator[Containerd]:
    """One that keeps everything in a folder which is gone at the end."""
    if os.geteuid() != 0 or not (shutil.which("containerd") and shutil.which("ctr")):
        # It is with the engine that scripts/engine.sh sets up; another engine may be on another machine.
        pytest.skip("no containerd can be started here")
    # The path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="ctrd-", dir="/tmp") as name:
        folder = Path(name)
        config = folder / "config.toml"
        left_out = ", ".join(f'"{plugin}"' for plugin in _LEFT_OUT)
        config.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\ndisabled_plugins = [{left_out}]\n'
            f'[grpc]\naddress = "{folder}/sock"\n[ttrpc]\naddress = "{folder}/ttrpc"\n'
        )
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
            try:
                for _ in range(200):
                    if (folder / "sock").exists() or process.poll() is not None:
                        break
                    time.sleep(0.05)
                assert process.poll() is None, (folder / "log").read_text()
                yield Containerd(folder / "sock")
            finally:
                process.terminate()
                process.wait(30)
