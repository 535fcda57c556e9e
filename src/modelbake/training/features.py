"""From annotated proposals and frames of their videos to training data, with the CLIP encoders of a models folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, SourceUnreachableError, UsageError
from modelbake.files import writing_atomically
from modelbake.output import out
from modelbake.runtime.boundary import frame_times

COLUMNS = ("video_id", "query", "start", "end", "target_start", "target_end")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Rows whose frames are embedded before they are written: neighbours share frames, and memory stays bounded.
GROUP = 64

Embeddings = NDArray[np.float32]


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the annotations: a proposed segment and the true one, in seconds."""

    video_id: str
    query: str
    start: float
    end: float
    target_start: float
    target_end: float


def read_annotations(path: Path) -> list[Proposal]:
    """The proposals of a CSV file with the columns COLUMNS; IntegrityError names the line and what was expected there."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if sorted(reader.fieldnames or ()) != sorted(COLUMNS):
                raise IntegrityError(
                    f"{path}: expected the columns {', '.join(COLUMNS)}, got {reader.fieldnames}; correct the first line."
                )
            return [_proposal(line, f"{path}, line {reader.line_num}") for line in reader]
    except OSError as error:
        raise SourceUnreachableError(f"{path}: the annotations cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise IntegrityError(f"{path} is no CSV file in UTF-8 ({error}); save it as such.") from error


def write_rows(
    proposals: Sequence[Proposal],
    frames: Path,
    frames_per_second: float,
    embed_texts: Callable[[Sequence[str]], Embeddings],
    embed_images: Callable[[Sequence[Path]], Embeddings],
    target: Path,
) -> int:
    """Write the training data of the proposals to `target`, whole or not at all; the number of rows.

    Frames are `frames`/<video_id>/<number>.<suffix>, taken at regular times from 0 s on, so that in the order of their names
    the i-th (from 0) shows the time i / `frames_per_second`. The nearest frame to each of runtime.boundary.frame_times is
    taken; times past the last frame count as the last. IntegrityError where a video has no frames.
    """
    with writing_atomically(target) as file, closing(out.progress(len(proposals), "embedding", "row")) as progress:
        file.write(b'{"schema_version":1,"feature_dimension":512,"rows":[')
        separator = b"\n"
        for first in range(0, len(proposals), GROUP):
            group = proposals[first : first + GROUP]
            for row in _rows(group, frames, frames_per_second, embed_texts, embed_images):
                file.write(separator + msgspec.json.encode(row))
                separator = b",\n"
            progress.update(len(group))
        file.write(b"\n]}\n")
    return len(proposals)


def _rows(
    group: Sequence[Proposal],
    frames: Path,
    frames_per_second: float,
    embed_texts: Callable[[Sequence[str]], Embeddings],
    embed_images: Callable[[Sequence[Path]], Embeddings],
) -> Iterable[dict[str, object]]:
    around = [
        [_frames_at(times, frames, p.video_id, frames_per_second) for times in frame_times((p.start, p.end))]
        for p in group
    ]
    needed = sorted({path for pair in around for paths in pair for path in paths})
    place = {path: i for i, path in enumerate(needed)}
    images, texts = embed_images(needed), embed_texts([p.query for p in group])
    for proposal, (starts, ends), text in zip(group, around, texts, strict=True):
        start, end = (images[[place[path] for path in paths]].mean(axis=0) for paths in (starts, ends))
        yield {
            "video_id": proposal.video_id,
            "query": proposal.query,
            "text_features": _rounded(text),
            "start_image_features": _rounded(start),
            "end_image_features": _rounded(end),
            "segment": (proposal.start, proposal.end),
            "target": (proposal.target_start, proposal.target_end),
        }


def _frames_at(times: NDArray[np.float64], frames: Path, video: str, frames_per_second: float) -> list[Path]:
    folder = frames / video
    if Path(video).name != video or video in (".", ".."):
        raise UsageError(f"{video!r}: a video_id is the name of a folder of frames; name it without '/'.")
    there = sorted(path for path in folder.glob("*") if path.suffix.lower() in FRAME_SUFFIXES)
    if not there:
        raise IntegrityError(f"{folder} has no frames ({', '.join(FRAME_SUFFIXES)}); put the video's frames there.")
    numbers = np.clip(np.rint(times * frames_per_second).astype(int), 0, len(there) - 1)
    return [there[number] for number in numbers]


def _rounded(vector: Embeddings) -> list[float]:
    # Six decimals of numbers of unit vectors: what is cut off is a thousandth of the noise between two encodings of a frame.
    return [round(value, 6) for value in vector.tolist()]


def _proposal(line: dict[str, str], place: str) -> Proposal:
    try:
        proposal = msgspec.convert(line, type=Proposal, strict=False)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"{place}: {error}. Correct the line; the columns are {', '.join(COLUMNS)}.") from error
    for what, start, end in (
        ("start, end", proposal.start, proposal.end),
        ("target_start, target_end", proposal.target_start, proposal.target_end),
    ):
        if not 0 <= start < end < float("inf"):
            raise IntegrityError(
                f"{place}: {what}: expected 0 <= start < end in seconds, got {start:g}, {end:g}. Correct the line."
            )
    return proposal
