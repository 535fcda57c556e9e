"""What is said of a trained regressor: its scores on videos it never saw, beside those of no adjustment and of random weights."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from modelbake.manifest import FileRef, Parity

SCHEMA_VERSION = 1

# Digits after the point. Scores are computed in float32, whose last bits depend on the processor.
_DIGITS = 4


class Scores(Struct, frozen=True):
    """Mean absolute error of both boundaries in seconds, and mean temporal IoU of adjusted and true segment."""

    mean_absolute_error: float
    mean_iou: float

    def better_than(self, other: Scores) -> bool:
        """Nearer to the truth by both measures."""
        return self.mean_absolute_error < other.mean_absolute_error and self.mean_iou > other.mean_iou


class Part(Struct, frozen=True):
    """How many videos and rows of the data serve one purpose."""

    videos: int
    rows: int


class Data(Struct, frozen=True):
    """The training data: its bytes, and how it was split by video with the seed."""

    sha256: str
    size: int
    train: Part
    validation: Part
    held_out: Part


class Training(Struct, frozen=True):
    """How it was trained, and the mean loss of every epoch on the training and on the validation rows."""

    seed: int
    most_epochs: int
    best_epoch: int
    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]


class HeldOut(Struct, frozen=True):
    """Scores on the held-out videos; those of random weights are the mean of `random_networks` networks before training."""

    trained: Scores
    no_adjustment: Scores
    random_weights: Scores
    random_networks: int
    gain_mean_absolute_error: float
    gain_mean_iou: float
    better_than_no_adjustment: bool
    better_than_random_weights: bool


class Metrics(Struct, frozen=True):
    """The metrics file. No time stamps and no timings: same data, seed and versions, same bytes.

    `files` are the files beside it with their digests, so that a file of another training is found out.
    """

    schema_version: int
    data: Data
    training: Training
    held_out: HeldOut
    parity: Parity
    files: tuple[FileRef, ...]
    tools: dict[str, str]


def held_out(trained: Scores, no_adjustment: Scores, random_weights: list[Scores]) -> HeldOut:
    """The scores side by side; a gain is positive where the trained weights are better than no adjustment."""
    count = len(random_weights)
    mean = Scores(
        sum(one.mean_absolute_error for one in random_weights) / count,
        sum(one.mean_iou for one in random_weights) / count,
    )
    return HeldOut(
        trained=_rounded(trained),
        no_adjustment=_rounded(no_adjustment),
        random_weights=_rounded(mean),
        random_networks=count,
        gain_mean_absolute_error=round(no_adjustment.mean_absolute_error - trained.mean_absolute_error, _DIGITS),
        gain_mean_iou=round(trained.mean_iou - no_adjustment.mean_iou, _DIGITS),
        better_than_no_adjustment=trained.better_than(no_adjustment),
        better_than_random_weights=trained.better_than(mean),
    )


def encode(metrics: Metrics) -> bytes:
    """The metrics file's bytes: JSON, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n"


def _rounded(scores: Scores) -> Scores:
    return Scores(round(scores.mean_absolute_error, _DIGITS), round(scores.mean_iou, _DIGITS))
