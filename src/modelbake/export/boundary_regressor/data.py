"""Training data: reading and checking the JSON that models/regressor/README.md describes, and splitting it by video."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, SourceUnreachableError

SCHEMA_VERSION = 1
FEATURE_DIMENSION = 512

# Outside these bounds a feature vector has no direction that float32 could compute.
SMALLEST_NORM, LARGEST_NORM = 1e-6, 1e18

# One video in this many goes to validation, and as many to the test; never fewer than one each.
HELD_OUT_SHARE = 6
FEWEST_VIDEOS = 3

Float32 = NDArray[np.float32]
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


class _RawHead(_Head, frozen=True, forbid_unknown_fields=True):
    rows: list[msgspec.Raw]


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

    def take(self, rows: list[int]) -> TrainingData:
        """The rows of those indices, in that order."""
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
    """Three parts that share no video: to learn from, to stop at, and to judge by."""

    train: TrainingData
    validation: TrainingData
    test: TrainingData


def read(path: Path) -> TrainingData:
    """The training data of a JSON file.

    SourceUnreachableError where it cannot be read; IntegrityError where it is empty, is no such JSON, or a row is not
    valid: the message names the file, the row by its index from 0, the field and what was expected there.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceUnreachableError(
            f"{path}: the training data cannot be read ({error.strerror}); put the file there."
        ) from error
    return parse(content, str(path))


def parse(content: bytes, where: str) -> TrainingData:
    """The training data of JSON bytes that came from `where`; errors as in read."""
    if not content.strip():
        raise _fault(where, "the file is empty, expected an object with schema_version, feature_dimension and rows")
    try:
        head, decode = _head(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _fault(where, f"not the JSON expected: {error}") from error
    if head.schema_version != SCHEMA_VERSION:
        raise _fault(where, f"schema_version: expected {SCHEMA_VERSION}, got {head.schema_version}")
    if head.feature_dimension != FEATURE_DIMENSION:
        raise _fault(where, f"feature_dimension: expected {FEATURE_DIMENSION}, got {head.feature_dimension}")
    if not head.rows:
        raise _fault(where, "rows: expected at least one row, got none")
    return _collect(head.rows, decode, where)


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
    parts = (videos[2 * held_out :], videos[:held_out], videos[held_out : 2 * held_out])
    return Split(*(_of_videos(data, set(part)) for part in parts))


def _of_videos(data: TrainingData, videos: set[str]) -> TrainingData:
    return data.take([i for i, video in enumerate(data.video_ids) if video in videos])


def _head(content: bytes) -> tuple[_Head, Callable[[Any], Row]]:
    """The document with its rows still undecoded, and what decodes one of them.

    Python's own json writes NaN and Infinity, which are no JSON: then its reader is used, so that the row can be named.
    """
    try:
        return msgspec.json.decode(content, type=_RawHead), msgspec.json.Decoder(Row).decode
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(content), type=_Head), lambda row: msgspec.convert(row, type=Row)


def _collect(rows: Iterable[Any], decode: Callable[[Any], Row], where: str) -> TrainingData:
    videos: list[str] = []
    queries: list[str] = []
    columns: dict[str, list[Float32]] = {name: [] for name in _READERS}
    seen: dict[tuple[str, str], int] = {}
    for index, raw in enumerate(rows):
        place = f"{where}: rows[{index}]"
        try:
            row = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _fault(place, str(error)) from error
        place += f" (video {row.video_id!r})"
        first = seen.setdefault((row.video_id, row.query), index)
        if first != index:
            raise _fault(
                place, f"query: expected one row per video_id and query, got {row.query!r} again after rows[{first}]"
            )
        for name, column in columns.items():
            column.append(_READERS[name](getattr(row, name), place, name))
        videos.append(row.video_id)
        queries.append(row.query)
    return TrainingData(tuple(videos), tuple(queries), *(np.stack(column) for column in columns.values()))


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


_READERS: dict[str, Callable[[Any, str, str], Float32]] = {
    "text_features": _vector,
    "start_image_features": _vector,
    "end_image_features": _vector,
    "segment": _seconds,
    "target": _seconds,
}


def _fault(place: str, problem: str) -> IntegrityError:
    return IntegrityError(f"{place}: {problem}. {_ADVICE}")
