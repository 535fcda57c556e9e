"""Training data: reading and checking the JSON that models/regressor/README.md describes, and splitting it by video.

A file of 50,000 rows has half a gigabyte. It is read as a stream into float32 arrays, which are not copied afterwards.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.export.boundary_regressor.rows import NotRowsError, Rows

SCHEMA_VERSION = 1
FEATURE_DIMENSION = 512

# Outside these bounds a feature vector has no direction that float32 could compute.
SMALLEST_NORM, LARGEST_NORM = 1e-6, 1e18

# One video in this many goes to validation, and as many to the test; never fewer than one each.
HELD_OUT_SHARE = 6
FEWEST_VIDEOS = 3

Float32 = NDArray[np.float32]
Indices = NDArray[np.int64]
_Text = Annotated[str, Meta(min_length=1)]
_ADVICE = "Correct the data; models/regressor/README.md describes the format."


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the file: a proposed `segment` and the true one (`target`), [start, end] in seconds; CLIP features."""

    video_id: _Text
    query: _Text
    text_features: list[float]
    start_image_features: list[float]
    end_image_features: list[float]
    segment: tuple[float, float]
    target: tuple[float, float]


class _Head(Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    feature_dimension: int
    rows: list[Any]
    description: str = ""


class _HeadSoFar(Struct, frozen=True):
    """What stands before the rows: a file of another version is refused by its version, whatever its rows are."""

    schema_version: int | None = None
    feature_dimension: int | None = None


@dataclass(frozen=True)
class TrainingData:
    """The rows as arrays in the file's order: features float32 [n, 512]; segments, targets float32 [n, 2], seconds."""

    video_ids: tuple[str, ...]
    queries: tuple[str, ...]
    text_features: Float32
    start_image_features: Float32
    end_image_features: Float32
    segments: Float32
    targets: Float32

    def __len__(self) -> int:
        return len(self.video_ids)

    def take(self, rows: Sequence[int] | Indices) -> TrainingData:
        """A copy of the rows of those indices, in that order."""
        return TrainingData(
            tuple(self.video_ids[i] for i in rows),
            tuple(self.queries[i] for i in rows),
            self.text_features[rows],
            self.start_image_features[rows],
            self.end_image_features[rows],
            self.segments[rows],
            self.targets[rows],
        )


@dataclass(frozen=True)
class Split:
    """Three parts of `data`, as the indices of their rows, that share no video: to learn from, to stop at, to judge by."""

    data: TrainingData
    train_rows: Indices
    validation_rows: Indices
    test_rows: Indices

    @property
    def train(self) -> TrainingData:
        """A copy of the rows to learn from."""
        return self.data.take(self.train_rows)

    @property
    def validation(self) -> TrainingData:
        """A copy of the rows to stop at."""
        return self.data.take(self.validation_rows)

    @property
    def test(self) -> TrainingData:
        """A copy of the rows to judge by."""
        return self.data.take(self.test_rows)


def read(path: Path) -> TrainingData:
    """The training data of a JSON file.

    SourceUnreachableError where it cannot be read; IntegrityError where it is empty, is no such JSON, or a row is not
    valid: the message names the file, the row by its index from 0, the field and what was expected there.
    """
    try:
        with path.open("rb") as stream:
            return _parse(stream, os.fstat(stream.fileno()).st_size, str(path))
    except OSError as error:
        raise SourceUnreachableError(
            f"{path}: the training data cannot be read ({error.strerror}); put the file there."
        ) from error


def parse(content: bytes, where: str) -> TrainingData:
    """The training data of JSON bytes that came from `where`; errors as in read."""
    return _parse(io.BytesIO(content), len(content), where)


def _parse(stream: BinaryIO, size: int, where: str) -> TrainingData:
    if not size:
        raise _empty(where)
    rows = Rows(stream)
    _check_versions(rows.before, where)
    try:
        data = _collect(rows, size, where)
    except NotRowsError as error:
        if error.row is None:
            raise _fault(where, f"not the JSON expected: {error}") from error
        raise _fault(f"{where}: rows[{error.row}]", f"not the JSON expected: {error}") from error
    if not rows.document.strip():
        raise _empty(where)
    try:
        head = msgspec.json.decode(rows.document, type=_Head)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _fault(where, f"not the JSON expected: {error}") from error
    _check_version(where, head.schema_version, head.feature_dimension)
    if head.rows:
        raise _fault(where, 'rows: expected the key to be written "rows", with no escaped character')
    if not data:
        raise _fault(where, "rows: expected at least one row, got none")
    return data


def _check_versions(before: bytes, where: str) -> None:
    try:
        head = msgspec.json.decode(before, type=_HeadSoFar)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # The whole document's check tells of it.
        return
    _check_version(where, head.schema_version, head.feature_dimension)


def _check_version(where: str, schema_version: int | None, feature_dimension: int | None) -> None:
    if schema_version not in (None, SCHEMA_VERSION):
        raise _fault(where, f"schema_version: expected {SCHEMA_VERSION}, got {schema_version}")
    if feature_dimension not in (None, FEATURE_DIMENSION):
        raise _fault(where, f"feature_dimension: expected {FEATURE_DIMENSION}, got {feature_dimension}")


def split_by_video(data: TrainingData, seed: int, where: str) -> Split:
    """The data in three parts by video, drawn from `seed` whatever the rows' order. IntegrityError: too few videos."""
    videos = sorted(set(data.video_ids))
    if len(videos) < FEWEST_VIDEOS:
        raise _fault(
            where,
            f"rows: expected at least {FEWEST_VIDEOS} different video_id, got {len(videos)};"
            " one each is needed to learn from, to stop at and to judge by",
        )
    random.Random(seed).shuffle(videos)
    held_out = max(1, round(len(videos) / HELD_OUT_SHARE))
    part_of = dict.fromkeys(videos[2 * held_out :], 0)
    part_of |= dict.fromkeys(videos[:held_out], 1) | dict.fromkeys(videos[held_out : 2 * held_out], 2)
    parts = np.fromiter((part_of[video] for video in data.video_ids), dtype=np.int64, count=len(data))
    return Split(data, *(np.flatnonzero(parts == part) for part in range(3)))


class _Columns:
    """The rows' numbers while their count is not known: one array a field, grown where the estimate was too small.

    Memory that was asked for and never written to is not taken from the machine, so a generous estimate costs nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._arrays: dict[str, Float32] = {}

    def append(self, row: Row, place: str, estimate: int) -> None:
        for name, (reader, width) in _READERS.items():
            values = reader(getattr(row, name), place, name)
            array = self._arrays.get(name)
            if array is None or self.count == len(array):
                larger = np.empty((max(estimate, self.count + self.count // 4 + 16), width), dtype=np.float32)
                larger[: self.count] = 0 if array is None else array
                self._arrays[name] = array = larger
            array[self.count] = values
        self.count += 1

    def arrays(self) -> list[Float32]:
        empty = np.empty((0, 0), dtype=np.float32)
        return [self._arrays.get(name, empty)[: self.count] for name in _READERS]


def _collect(rows: Iterable[bytes], size: int, where: str) -> TrainingData:
    videos: list[str] = []
    queries: list[str] = []
    columns = _Columns()
    seen: dict[tuple[str, str], int] = {}
    decode = msgspec.json.Decoder(Row).decode
    for index, raw in enumerate(rows):
        place = f"{where}: rows[{index}]"
        try:
            row = _decoded(raw, decode)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _fault(place, str(error)) from error
        place += f" (video {row.video_id!r})"
        first = seen.setdefault((row.video_id, row.query), index)
        if first != index:
            raise _fault(
                place, f"query: expected one row per video_id and query, got {row.query!r} again after rows[{first}]"
            )
        columns.append(row, place, estimate=size // len(raw) + size // len(raw) // 8 + 1)
        videos.append(row.video_id)
        queries.append(row.query)
    return TrainingData(tuple(videos), tuple(queries), *columns.arrays())


def _decoded(raw: bytes, decode: Callable[[bytes], Row]) -> Row:
    """One row; Python's own json writes NaN and Infinity, which are no JSON, so its reader is used to name their place."""
    try:
        return decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(raw), type=Row)


def _finite(values: Iterable[float], place: str, field: str) -> Float32:
    with np.errstate(over="ignore"):
        array = np.asarray(values, dtype=np.float64).astype(np.float32)
    for i in np.flatnonzero(~np.isfinite(array))[:1]:
        raise _fault(place, f"{field}[{i}]: expected a finite float32 number, got {list(values)[i]!r}")
    return array


def _vector(values: list[float], place: str, field: str) -> Float32:
    if len(values) != FEATURE_DIMENSION:
        raise _fault(place, f"{field}: expected {FEATURE_DIMENSION} numbers, got {len(values)}")
    vector = _finite(values, place, field)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not SMALLEST_NORM <= norm <= LARGEST_NORM:
        expected = f"a vector with a direction (norm {SMALLEST_NORM:g} to {LARGEST_NORM:g})"
        raise _fault(place, f"{field}: expected {expected}, got norm {norm:g}")
    return vector


def _seconds(values: tuple[float, float], place: str, field: str) -> Float32:
    segment = _finite(values, place, field)
    if not 0 <= segment[0] < segment[1]:
        raise _fault(place, f"{field}: expected 0 <= start < end in seconds, got [{values[0]:g}, {values[1]:g}]")
    return segment


_READERS: dict[str, tuple[Callable[[Any, str, str], Float32], int]] = {
    "text_features": (_vector, FEATURE_DIMENSION),
    "start_image_features": (_vector, FEATURE_DIMENSION),
    "end_image_features": (_vector, FEATURE_DIMENSION),
    "segment": (_seconds, 2),
    "target": (_seconds, 2),
}


def _fault(place: str, problem: str) -> IntegrityError:
    return IntegrityError(f"{place}: {problem}. {_ADVICE}")


def _empty(where: str) -> IntegrityError:
    return _fault(where, "the file is empty, expected an object with schema_version, feature_dimension and rows")
