"""The boundary regressor: a network that adjusts a video segment's start and end, from training data to ONNX.

model (the network), data (reading and splitting what it learns from), train (seeded training and its scores), build
(all of it in a row, written to files). This module imports no torch until `export` is called.
"""

from __future__ import annotations

from pathlib import Path

from modelbake.bundle import Bundle
from modelbake.export.artifact import Export


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Train the bundle's network on its data below `sources`, and write weights, ONNX graph and goldens below `out`.

    Same bundle, data and torch: same bytes (see train.train). Errors: IntegrityError where the data is not valid,
    SourceUnreachableError where it is not there, UsageError for a bundle of another kind.
    """
    from modelbake.export.boundary_regressor.build import build

    return build(bundle, sources, out)
