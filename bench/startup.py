#!/usr/bin/env python3
"""Size and start of a baked MiniLM image against one with torch; writes docs/bench/startup.md and startup.svg."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measure import ROOT, TO, Panel, bars, machine, page, say

from modelbake import settings
from modelbake.bake import buildx
from modelbake.bake.host import host_inputs
from modelbake.bake.proof import SANDBOX

BUNDLE = "minilm-l6-v2"
TEXT = "hello world"
TOLERANCE = 1e-5
MEMORY_ROUNDS = 3
# Control groups of version 2 and of version 1.
PEAK_FILES = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"


@dataclass
class Subject:
    """An image to measure: its tag, the command that prints one embedding, and what was found.

    Sizes are in bytes, of all layers: gzip-compressed as in a registry, and unpacked; starts in seconds; peaks in bytes.
    """

    name: str
    image: str
    command: tuple[str, ...]
    compressed: int = 0
    unpacked: int = 0
    starts: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def start(self) -> float:
        return statistics.median(self.starts)

    @property
    def peak(self) -> float:
        return statistics.median(self.peaks)


ONNX = Subject(
    "modelbake: onnxruntime",
    "modelbake/bench-onnx:bench",
    ("modelbake", "embed", "--quiet", "--bundle", BUNDLE, "--text", TEXT),
)
TORCH = Subject("torch + sentence-transformers", "modelbake/bench-torch:bench", ("python3", "/opt/embed.py", TEXT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="starts of each image (default 9, at least 5)")
    rounds = max(5, parser.parse_args().rounds)
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-") as name, gone_afterwards():
        build(Path(name))
        say("comparing the answers")
        difference = max(abs(a - b) for a, b in zip(embedding(ONNX), embedding(TORCH), strict=True))
        if difference > TOLERANCE:
            sys.exit(f"The two images give other embeddings ({difference:g} apart): there is nothing to compare.")
        measure(rounds)
    page("startup", report(rounds, difference))
    plot(TO / "startup.svg")


def build(folder: Path) -> None:
    """Build both images into the engine and measure their layers.

    Both are targets of docker-bake.hcl with other inputs: the bundle's image upon the runtime, and the runtime with torch's Dockerfile.
    """
    say("fetching the model's files")
    sources = folder / "sources"
    modelbake = Path(sys.executable).with_name("modelbake")
    subprocess.run([modelbake, "fetch", BUNDLE, "--weights=pretrained", "--to", sources], cwd=ROOT, check=True)
    onnx = (f"bundle-{BUNDLE}.contexts.base=target:runtime",)
    torch = (
        "runtime.dockerfile=bench/torch.Dockerfile",
        f"runtime.contexts.model={sources / BUNDLE / 'files'}",
        "runtime.contexts.bench=bench",
        f"runtime.args.TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}",
    )
    for subject, target, overrides in ((ONNX, f"bundle-{BUNDLE}", onnx), (TORCH, "runtime", torch)):
        say(f"building {subject.image}")
        tag = f"{target}.tags={subject.image}"
        bake(target, f"{target}.output=type=docker", tag, *overrides)
        archive = folder / "image.tar"
        bake(
            target, f"{target}.output=type=oci,dest={archive},compression=gzip,force-compression=true", tag, *overrides
        )
        subject.compressed, subject.unpacked = layer_sizes(archive)
        archive.unlink()


def bake(target: str, *overrides: str) -> None:
    plan = buildx.plan_bake(ROOT, ("runtime", target))
    wanted = buildx.Plan(plan.targets, (target,))
    buildx.bake(ROOT, wanted, list(overrides), host_inputs(settings.from_environment(directory=ROOT)), no_cache=False)


def layer_sizes(archive: Path) -> tuple[int, int]:
    """The bytes of all layers of an OCI archive, compressed and not."""
    compressed = unpacked = 0
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None
            return file.read()

        index_file = tar.extractfile("index.json")
        assert index_file is not None
        manifest = json.loads(blob(json.load(index_file)["manifests"][0]["digest"]))
        for layer in manifest["layers"]:
            data = blob(layer["digest"])
            compressed += len(data)
            unpacked += len(gzip.decompress(data))
    return compressed, unpacked


def run_command(subject: Subject, *wrapper: str) -> list[str]:
    command = [*wrapper, *subject.command]
    # torch wants a temporary folder when it is imported; modelbake needs none.
    return ["docker", "run", *SANDBOX, "--tmpfs=/tmp", f"--entrypoint={command[0]}", subject.image, *command[1:]]


def embedding(subject: Subject) -> list[float]:
    done = subprocess.run(run_command(subject), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{subject.image} failed:\n{done.stderr}")
    return [float(word) for word in done.stdout.split()]


def measure(rounds: int) -> None:
    """Start both in turns, so that what else the machine does meets both; the first round, which fills the page cache, is not counted."""
    for index in range(rounds + 1):
        say(f"round {index} of {rounds}" if index else "warming up")
        for subject in (ONNX, TORCH) if index % 2 else (TORCH, ONNX):
            seconds = seconds_to_first_line(run_command(subject))
            if index:
                subject.starts.append(seconds)
    for _ in range(MEMORY_ROUNDS):
        for subject in (ONNX, TORCH):
            script = f'"$@" >/dev/null; cat {PEAK_FILES} 2>/dev/null'
            done = subprocess.run(
                run_command(subject, "sh", "-c", script, "sh"), capture_output=True, text=True, check=False
            )
            subject.peaks.append(int(done.stdout))


def seconds_to_first_line(command: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if process.returncode != 0 or not line:
        sys.exit(f"{' '.join(command)} failed:\n{errors}")
    return seconds


@contextmanager
def gone_afterwards() -> Iterator[None]:
    """The measured images are removed at the end; their layers stay in the build cache."""
    try:
        yield
    finally:
        subprocess.run(["docker", "image", "rm", ONNX.image, TORCH.image], capture_output=True, check=False)


def engine() -> str:
    command = ["docker", "info", "--format", "{{.ServerVersion}}, {{.Driver}} store"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def report(rounds: int, difference: float) -> str:
    def megabytes(value: float) -> str:
        return f"{value / 1e6:.0f} MB"

    def row(what: str, ours: float, theirs: float, shown: tuple[str, str]) -> str:
        return f"| {what} | {shown[0]} | {shown[1]} | {theirs / ours:.1f} |"

    rows = [
        row(what, ours, theirs, (megabytes(ours), megabytes(theirs)))
        for what, ours, theirs in (
            ("layers, gzip, as pulled from a registry", ONNX.compressed, TORCH.compressed),
            ("layers, unpacked", ONNX.unpacked, TORCH.unpacked),
        )
    ]
    spread = tuple(f"{s.start:.2f} s ({min(s.starts):.2f}-{max(s.starts):.2f})" for s in (ONNX, TORCH))
    rows.append(row("`docker run` to the first embedding", ONNX.start, TORCH.start, (spread[0], spread[1])))
    rows.append(
        row("peak memory of the container", ONNX.peak, TORCH.peak, (megabytes(ONNX.peak), megabytes(TORCH.peak)))
    )
    table = "\n".join(rows)
    return f"""# Size and start against torch

`make bench` writes this page.

| | {ONNX.name} | {TORCH.name} | times |
|---|---|---|---|
{table}

![Size and start of both images](startup.svg)

Both images stand on the same base, hold all-MiniLM-L6-v2 made from the same files, have their Python compiled ahead and no pip, and
embed one text on the processor; their embeddings differ by {difference:.0e} at most. The left one is the runtime with the bundle
`{BUNDLE}`; the right one (`bench/torch.Dockerfile`) has the locked versions of torch for the processor and of sentence-transformers,
and what these ask for.

Times are medians of {rounds} starts of each image in turns, with the fastest and slowest in brackets, after one start that is not
counted: the files are in the page cache. Each start is a `docker run` with no network, a read-only root, no rights and a temporary folder
(which torch wants), up to the first line printed. Peak memory is the control group's, so page cache that a container was the first to
fill counts; it is the median of {MEMORY_ROUNDS}.

Machine: {machine()}, Docker {engine()}.
"""


def plot(path: Path) -> None:
    subjects = (ONNX, TORCH)
    compressed = {s.name: s.compressed / 1e6 for s in subjects}
    unpacked = {s.name: s.unpacked / 1e6 for s in subjects}
    spread = {s.name: (min(s.starts), max(s.starts)) for s in subjects}
    panels = (
        Panel("image, gzip (MB)", compressed, format="%.0f"),
        Panel("image, unpacked (MB)", unpacked, format="%.0f"),
        Panel("docker run to first embedding (s)", {s.name: s.start for s in subjects}, spread),
        Panel("peak memory (MB)", {s.name: s.peak / 1e6 for s in subjects}, format="%.0f"),
    )
    bars(path, panels)


if __name__ == "__main__":
    main()
