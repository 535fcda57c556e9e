"""The boundary regressor: a proposed segment and the features around its ends to the adjusted segment.

The features are what the network was trained on: the query's CLIP text features, and for each boundary the mean of the CLIP
image features of the frames at `frame_times`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import BundleEntry
from modelbake.runtime.session import Session

ROLE = "boundary_regressor"
INPUTS = ("text_features", "start_image_features", "end_image_features")
SEGMENT = "segment"

# The frames around a boundary: so many, spread over this share of the segment's length to either side.
FRAMES = 8
REACH = 0.25

# A feature vector shorter or longer than this has no direction that float32 could compute.
SMALLEST_NORM, LARGEST_NORM = 1e-6, 1e18
# Rows in one call of the graph: what it makes of them in between has 40 MB.
BATCH = 1024

Float32 = NDArray[np.float32]


class BoundaryRegressor:
    """The boundary regressor of a bundle; safe for several threads."""

    def __init__(self, entry: BundleEntry, models_dir: Path, threads: int | None = None) -> None:
        if all(artifact.role != ROLE for artifact in entry.artifacts):
            raise UsageError(
                f"The bundle {entry.name!r} adjusts no segments; `modelbake list` shows which one is a boundary_regressor."
            )
        artifact = entry.artifact(ROLE)
        shapes = {tensor.name: tensor.shape for tensor in artifact.inputs}
        dimensions = {shapes[name][-1] for name in INPUTS if shapes.get(name)}
        if shapes.keys() != {*INPUTS, SEGMENT} or len(dimensions) != 1:
            raise IntegrityError(
                f"The manifest gives {artifact.path} other inputs than a boundary regressor has; build the bundle again."
            )
        self.dimension = int(dimensions.pop())
        self._session = Session(models_dir / artifact.path, threads)

    def adjust(
        self,
        text_features: ArrayLike,
        start_image_features: ArrayLike,
        end_image_features: ArrayLike,
        segments: ArrayLike,
    ) -> Float32:
        """The adjusted segments, float32 [n, 2], seconds, 0 <= start < end.

        Features [n, dimension] of any norm, segments [n, 2], start and end in seconds, all finite numbers; for one segment
        the leading dimension may be left out, of the result too. UsageError where they are not so, naming what and which row.
        """
        given = (text_features, start_image_features, end_image_features, segments)
        arrays = {name: _numbers(value, name) for name, value in zip((*INPUTS, SEGMENT), given, strict=True)}
        single = all(array.ndim == 1 for array in arrays.values())
        if single:
            arrays = {name: array[np.newaxis] for name, array in arrays.items()}
        self._check_shapes(arrays)
        for name in INPUTS:
            _check_norms(arrays[name], name)
        _check_segments(arrays[SEGMENT])
        adjusted = self._run(arrays)
        return adjusted[0] if single else adjusted

    def _check_shapes(self, arrays: dict[str, Float32]) -> None:
        rows = len(arrays[SEGMENT]) if arrays[SEGMENT].ndim else 0
        for name, array in arrays.items():
            width = 2 if name == SEGMENT else self.dimension
            if array.shape != (rows, width):
                raise UsageError(
                    f"{name}: expected the shape [{rows}, {width}], a row for each segment, got {list(array.shape)}."
                )

    def _run(self, arrays: dict[str, Float32]) -> Float32:
        count = len(arrays[SEGMENT])
        adjusted = np.empty((count, 2), dtype=np.float32)
        for start in range(0, count, BATCH):
            outputs = self._session.run({name: array[start : start + BATCH] for name, array in arrays.items()})
            (adjusted[start : start + BATCH],) = outputs.values()
        return adjusted


def frame_times(segment: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where in the video to take the frames around a segment's start and around its end: seconds, float64 [FRAMES] each.

    Times before the video's beginning become 0; those past its end are for whoever reads the frames to cut off.
    UsageError where `segment` is not a start and an end with 0 <= start < end.
    """
    checked = _numbers(segment, SEGMENT)
    if checked.shape != (2,):
        raise UsageError(f"{SEGMENT}: expected a start and an end, got the shape {list(checked.shape)}.")
    _check_segments(checked[np.newaxis])
    start, end = (float(value) for value in np.asarray(segment, dtype=np.float64))
    offsets = np.linspace(-REACH, REACH, FRAMES) * (end - start)
    return np.maximum(start + offsets, 0.0), np.maximum(end + offsets, 0.0)


def _numbers(values: Any, name: str) -> Float32:
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(np.asarray(values, dtype=np.float64), dtype=np.float32).reshape(
                np.shape(values)
            )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected an array of numbers ({error}).") from error
    for row in np.argwhere(~np.isfinite(array))[:1]:
        raise UsageError(f"{name}{row.tolist()}: expected a finite float32 number, got {array[tuple(row)]}.")
    return array


def _check_norms(vectors: Float32, name: str) -> None:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for row in np.flatnonzero(~((norms >= SMALLEST_NORM) & (norms <= LARGEST_NORM)))[:1]:
        raise UsageError(
            f"{name}[{row}]: expected a vector with a direction (norm {SMALLEST_NORM:g} to {LARGEST_NORM:g}), got norm {norms[row]:g}."
        )


def _check_segments(segments: Float32) -> None:
    valid = (segments[:, 0] >= 0) & (segments[:, 0] < segments[:, 1])
    for row in np.flatnonzero(~valid)[:1]:
        raise UsageError(f"{SEGMENT}[{row}]: expected 0 <= start < end in seconds, got {segments[row].tolist()}.")
