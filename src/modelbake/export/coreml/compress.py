"""Smaller variants of a converted package: int8, and palettes of few bits with more of them where it matters."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelbake.errors import UsageError
from modelbake.export.coreml import package, palettes
from modelbake.export.coreml.calibrate import Calibration
from modelbake.export.coreml.palettes import Doubles, Palette
from modelbake.export.coreml.rewrite import Form, Linear8, Palettized, Weight, rewrite, weights

WIDTHS = (4, 6, 8)
# Rows that share a palette: fewer cost more bytes than they gain, more lose what sets a row apart.
ROWS = 8
# MiniLM at 5 bits: mean cosine 0.9936 in 14.6 MB; at 4.5: 0.9845 in 13.0 MB; at 4: 0.9672 in 11.5 MB.
AVERAGE = 5.0


@dataclass(frozen=True)
class Recipe:
    """Bits of each weight, by the constant's name, and how many rows share a palette."""

    bits: dict[str, int]
    rows: int = ROWS

    def text(self) -> str:
        """As JSON, for a package's metadata."""
        by_bits = {
            str(width): sorted(n for n, b in self.bits.items() if b == width)
            for width in sorted(set(self.bits.values()))
        }
        return json.dumps({"palettes": by_bits, "rows": self.rows}, separators=(",", ":"), sort_keys=True)


def to_int8(source: Path, target: Path) -> None:
    """`source`'s weights as int8, each row with a scale: no calibration, iOS 16 and later (as `source` is).

    UsageError where the package has no weights worth it.
    """
    recipe = json.dumps({"int8": "rows"}, separators=(",", ":"))
    rewrite(source, target, lambda _: Linear8(), {"recipe": recipe})


@dataclass(frozen=True)
class Sensitivity:
    """How many numbers each weight has, and what the output loses where it alone is kept in 4 bits; infinity where that is unknown."""

    sizes: dict[str, int]
    losses: dict[str, float]

    def recipe(self, average: float = AVERAGE, rows: int = ROWS) -> Recipe:
        """Bits for each weight, of which a number takes `average` or fewer; UsageError below 4.

        A bit more quarters a rounding's power, so 6 bits leave a 16th of the loss. From 4 bits everywhere, the step that saves the
        most loss a byte comes first.
        """
        if average < WIDTHS[0]:
            raise UsageError(
                f"An average of {average:g} bits cannot be had with palettes of {WIDTHS[0]}; ask for more."
            )
        bits = dict.fromkeys(self.sizes, WIDTHS[0])
        left = (average - WIDTHS[0]) * sum(self.sizes.values())
        steps = []
        for name, size in self.sizes.items():
            for before, after in itertools.pairwise(WIDTHS):
                saved = self.losses[name] * (4.0 ** (WIDTHS[0] - before) - 4.0 ** (WIDTHS[0] - after))
                steps.append((-saved / (size * (after - before)), name, before, after))
        for _, name, before, after in sorted(steps):
            cost = self.sizes[name] * (after - before)
            if cost <= left and bits[name] == before:
                bits[name] = after
                left -= cost
        return Recipe(bits, rows)


def measure(source: Path, calibration: Calibration, rows: int = ROWS) -> Sensitivity:
    """Each weight of `source` in 4 bits alone, as `to_palettes` would keep it, and what the module's output loses by it."""
    sizes: dict[str, int] = {}
    losses: dict[str, float] = {}
    with package.reading(source) as (spec, reader):
        found = list(weights(spec, reader))
        products = _products(found, calibration)
        for weight in found:
            sizes[weight.name] = weight.size
            parameter = calibration.parameter_of(weight.name, weight.matrix())
            # What is no parameter as it stands cannot be measured, and is kept well.
            losses[weight.name] = np.inf
            if parameter is not None:
                rounded = _palette(weight, WIDTHS[0], rows, products.get(weight.name)).dense()
                losses[weight.name] = calibration.loss({parameter: rounded})
    return Sensitivity(sizes, losses)


def to_palettes(source: Path, target: Path, calibration: Calibration, recipe: Recipe) -> None:
    """`source`'s weights as palettes of the recipe's bits, rounding errors made up for where a linear layer reads them.

    `source` is a package for iOS 18 (macOS 15), the first system that keeps several palettes for a weight.
    """
    with package.reading(source) as (spec, reader):
        found = list(weights(spec, reader))
        unknown = set(recipe.bits) - {weight.name for weight in found}
        if unknown:
            raise UsageError(
                f"{source}: it has no weight {min(unknown)!r}, which the recipe names; measure the recipe on it."
            )
        products = _products(found, calibration)

    def form(weight: Weight) -> Form | None:
        bits = recipe.bits.get(weight.name)
        if bits is None:
            return None
        return Palettized(_palette(weight, bits, recipe.rows, products.get(weight.name)), bits)

    rewrite(source, target, form, {"recipe": recipe.text()})


def _products(found: list[Weight], calibration: Calibration) -> dict[str, Doubles]:
    parameters = {
        weight.name: calibration.parameter_of(weight.name, weight.matrix())
        for weight in found
        if len(weight.shape) == 2
    }
    by_parameter = calibration.products(parameter for parameter in parameters.values() if parameter is not None)
    return {name: by_parameter[one] for name, one in parameters.items() if one in by_parameter}


def _palette(weight: Weight, bits: int, rows: int, products: Doubles | None) -> Palette:
    """A table that rows are taken from has one palette: its rows are many, and much alike."""
    shared = rows if products is not None or len(weight.shape) > 2 else weight.shape[0]
    return palettes.palettize(
        weight.matrix(), bits, shared, np.dtype(f"f{2 if weight.kind == 'float16' else 4}"), products
    )
