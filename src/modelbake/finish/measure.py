"""A compiled model on one compute unit: every item run and compared with the reference, and the time that it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from modelbake.errors import ParityError
from modelbake.finish.gates import Figures, Gate
from modelbake.finish.items import Item
from modelbake.finish.predict import Loaded, Predictor
from modelbake.finish.report import UnitReport
from modelbake.finish.units import Unit
from modelbake.goldens import Arrays

T = TypeVar("T")


def measure(
    predictor: Predictor, compiled: Path, unit: Unit, items: list[Item], own: list[Item], gate: Gate, runs: int
) -> UnitReport:
    """Load the .mlmodelc for the unit, run every item, then one of each shape `runs` times.

    `own` has what the artifact gave itself on Linux where `items` has what the reference gives.

    Whatever goes wrong with the model is in the report, not raised: other units are still worth knowing of. An output that is
    missing, not finite, or of another shape fails like a missed gate.
    """
    report = UnitReport(unit, False, gate, len(items), runs)
    try:
        began = time.perf_counter()
        loaded = _doing("loading it", lambda: predictor.load(compiled, unit))
        load_ms = _ms(time.perf_counter() - began)
        differences, cosines = _compared(loaded, items)
        _, with_own = _compared(loaded, own)
        latency = {shape: _latency(loaded, item, runs) for shape, item in _one_of_each(items).items()}
    except ParityError as error:
        return replace(report, failure=str(error))
    try:
        report = replace(report, placement=_doing("planning it", lambda: predictor.placement(compiled, unit)))
    except ParityError as error:
        # Where operations go is worth knowing, and no gate.
        report = replace(report, placement_failure=str(error))
    figures = Figures(
        max(differences),
        statistics.fmean(cosines),
        min(cosines),
        statistics.fmean(with_own) if with_own else None,
        min(with_own, default=None),
    )
    missed = gate.missed(figures)
    return replace(report, passed=missed is None, load_ms=load_ms, latency_ms=latency, figures=figures, failure=missed)


def _compared(loaded: Loaded, items: list[Item]) -> tuple[list[float], list[float]]:
    differences, cosines = [], []
    for item in items:
        outputs = _doing(f"{item.name} in the shape {item.shape}", lambda item=item: loaded.run(item.inputs))  # type: ignore[misc]
        for name, expected in item.expected.items():
            found = _checked(outputs, name, expected, item)
            a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
            differences.append(float(np.max(np.abs(a - b), initial=0.0)))
            cosines.append(_cosine(a, b))
    return differences, cosines


def _checked(outputs: Arrays, name: str, expected: NDArray[np.generic], item: Item) -> NDArray[np.generic]:
    found = outputs.get(name)
    where = f"{item.name} in the shape {item.shape}: output {name!r}"
    if found is None:
        raise ParityError(f"{where} is missing; there is {', '.join(sorted(outputs)) or 'none'}")
    if found.shape != expected.shape:
        raise ParityError(f"{where} has the shape {list(found.shape)}, the reference gave {list(expected.shape)}")
    if not np.all(np.isfinite(found.astype(np.float64))):
        raise ParityError(f"{where} is not finite")
    return found


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    # Of rounding alone, a vector's cosine with itself can be above 1.
    return min(float(a @ b) / lengths, 1.0) if lengths > 0 else float(np.array_equal(a, b))


def _one_of_each(items: list[Item]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.shape, item)
    return dict(sorted(found.items(), key=lambda pair: [int(size) for size in pair[0].split("x")]))


def _latency(loaded: Loaded, item: Item, runs: int) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        _doing(f"running {item.name} again", lambda: loaded.run(item.inputs))
        times.append(time.perf_counter() - began)
    return _ms(statistics.median(times))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _doing(what: str, work: Callable[[], T]) -> T:
    """The work's result; ParityError of whatever it raises, since coremltools raises anything, bare Exception included."""
    try:
        return work()
    except Exception as error:
        raise ParityError(f"{what}: {type(error).__name__}: {error}") from error
