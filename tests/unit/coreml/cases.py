"""One or more calls of every operation of modelbake.coreml.ops, each with an answer that does not come from there.

The answer is coremltools' own inference of values where it has one, and else torch's or numpy's function, or a loop written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.unit.coreml.programs import IOS18, Array, Build, tensor


@dataclass(frozen=True)
class Case:
    """A call of `op`; `answer` None: what coremltools infers."""

    op: str
    build: Build
    inputs: Mapping[str, Array]
    answer: Callable[..., Any] | None = None
    version: int = IOS18
    tolerance: float = 1e-6
    # In float16 too, and with dimensions that the program does not know.
    half: bool = True
    flexible: bool = True
    note: str = field(default="")

    def __str__(self) -> str:
        return f"{self.op}-{self.note}" if self.note else self.op


CASES: list[Case] = []


def add(
    op: str, build: Build, inputs: Mapping[str, Array], answer: Callable[..., Any] | None = None, **more: Any
) -> None:
    CASES.append(Case(op, build, inputs, answer, **more))


def numbers(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> Array:
    """Numbers that float16 holds, so that both precisions start from the same."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float16).astype(np.float32)


def integers(*shape: int, low: int = -5, high: int = 6, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def truths(*shape: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(np.bool_)


def on_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of tensors as one of arrays."""
    return lambda **inputs: function(**{name: tensor(array) for name, array in inputs.items()}).numpy()
