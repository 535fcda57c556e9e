"""The boundary regressor: a network that adjusts a video segment's start and end, from training data to ONNX.

model (the network), data and rows (reading and splitting what it learns from), train (seeded training and its scores),
weights (its files), build (all of it in a row, for a bundle). This module imports no torch until `export` is called.
"""

from __future__ import annotations

from pathlib import Path

from modelbake.bundle import Bundle
from modelbake.export.artifact import Export


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Write weights, ONNX graph and goldens below `out`: of the weights that were deployed, where `sources` has such, else of
    the network trained on the bundle's data below `sources`.

    Same bundle, files and torch: same bytes (see train.train). Errors: IntegrityError where data or weights are not valid,
    RefusedError for a pickle in place of weights, SourceUnreachableError where the data is not there, UsageError for a
    bundle of another kind.
    """
    from modelbake.export.boundary_regressor.build import build

    return build(bundle, sources, out)
