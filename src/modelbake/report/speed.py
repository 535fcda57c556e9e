"""Latency of each artifact on this machine, through the runtime, on inputs of its own goldens."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelbake import goldens
from modelbake.goldens import Arrays, Case
from modelbake.manifest import Artifact, BundleEntry
from modelbake.runtime.session import Session

BATCHES = (1, 8)
WARM_UP, FEWEST, MOST = 1, 5, 40
# Seconds for all rounds of one artifact and batch, once there are the fewest.
ENOUGH = 1.0


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one call; `ratio` is how many times faster than the bundle's fp32 artifact of the same role, None where
    there is none to compare with. `shapes` are those of the inputs."""

    bundle: str
    role: str
    path: str
    precision: str
    batch: int
    milliseconds: float
    rounds: int
    ratio: float | None
    shapes: str


def measure(models_dir: Path, entry: BundleEntry, batches: tuple[int, ...] = BATCHES) -> list[Timing]:
    """Timings of the bundle's artifacts, those of one role in turns: so whatever else the machine does meets them alike.

    An artifact without goldens of its role is left out, and so is one of Core ML: what runs it here is no measure of Apple's.
    """
    cases = list(goldens.read(models_dir / entry.goldens.path))
    timings = []
    timed = [artifact for artifact in entry.artifacts if artifact.coreml is None]
    for role in dict.fromkeys(artifact.role for artifact in timed):
        of_role = [case for case in cases if case.role == role]
        if of_role:
            # The one with the most rows has the most natural mixture.
            case = max(of_role, key=_rows)
            timings += _race(models_dir, entry, [a for a in timed if a.role == role], case, batches)
    return timings


def machine() -> str:
    """The processor's name, how many of its cores this process may use, and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {platform.system()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _race(
    models_dir: Path, entry: BundleEntry, artifacts: list[Artifact], case: Case, batches: tuple[int, ...]
) -> list[Timing]:
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    inputs: dict[tuple[str, int], Arrays] = {}
    for artifact in artifacts:
        session = Session(models_dir / artifact.path)
        for batch in batches:
            inputs[artifact.path, batch] = made = take(artifact, case, batch)
            calls[artifact.path, batch] = _call(session, made)
    seconds = _interleaved(calls)
    medians = {key: statistics.median(found) for key, found in seconds.items()}
    timings = []
    for artifact in artifacts:
        for batch in batches:
            base = [medians[other.path, batch] for other in artifacts if other.precision == "fp32"]
            own = medians[artifact.path, batch]
            ratio = base[0] / own if base and artifact.precision != "fp32" else None
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs[artifact.path, batch].items())
            rounds = len(seconds[artifact.path, batch])
            timings.append(
                Timing(
                    entry.name,
                    artifact.role,
                    artifact.path,
                    artifact.precision,
                    batch,
                    own * 1e3,
                    rounds,
                    ratio,
                    shapes,
                )
            )
    return timings


def _interleaved(calls: dict[tuple[str, int], Callable[[], object]]) -> dict[tuple[str, int], list[float]]:
    """Seconds of each call, one of each in every round.

    Each runs once, uncounted, before it is timed: the threads of the session before spin on for a while, on the same cores.
    """
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    spent, rounds = 0.0, -WARM_UP
    while rounds < FEWEST or (rounds < MOST and spent < ENOUGH * len(calls)):
        for key, call in calls.items():
            call()
            started = time.perf_counter()
            call()
            took = time.perf_counter() - started
            if rounds >= 0:
                seconds[key].append(took)
                spent += took
        rounds += 1
    return seconds


def take(artifact: Artifact, case: Case, batch: int) -> Arrays:
    """The case's inputs with `batch` rows, its own ones over and over, in the dtypes that the artifact takes; an input whose first
    dimension is not free stays whole."""
    made: Arrays = {}
    for tensor in artifact.inputs:
        array = case.inputs[tensor.name]
        if tensor.shape and isinstance(tensor.shape[0], str):
            array = array[np.arange(batch) % array.shape[0]]
        made[tensor.name] = np.asarray(array, dtype=tensor.dtype, order="C")
    return made


def _call(session: Session, inputs: Arrays) -> Callable[[], object]:
    return lambda: session.run(inputs)


def _rows(case: Case) -> int:
    return max((array.shape[0] for array in case.inputs.values() if array.ndim), default=0)
