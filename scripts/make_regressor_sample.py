#!/usr/bin/env python3
"""Write the boundary regressor's sample training data: a made-up world, the same bytes at every run.

No video and no CLIP model stands behind it. Each vector is a sum of random directions, weighted so that norms and
cosines are of the size that CLIP's have: what all texts share, what all images share, the video's scene, and the
query's subject, which is in a frame only while the event lasts. A proposed boundary is off by up to a quarter of the
segment's length; the features at a boundary are the mean of eight frames within a quarter of the length around it. So
the cosine of query and frames shows on which side of the true boundary most of these frames lie.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 20240607
DIMENSION = 512
VIDEOS = 24
SEGMENTS = 4
FRAMES = 8
REACH = 0.25
NORM = 10.0
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "models" / "regressor" / "sample_training_data.json"

ACTORS = ("a man", "a woman", "a child", "two friends")
ACTIONS = (
    "opens a window",
    "rides a bicycle",
    "pours tea",
    "throws a ball",
    "climbs a ladder",
    "feeds a cat",
    "ties a shoe",
    "plays the violin",
)

Vector = NDArray[np.float64]


class World:
    """The directions that everything is made of."""

    def __init__(self, seed: int) -> None:
        # RandomState and not a Generator: its stream is frozen, the same in every version of NumPy.
        self.random = np.random.RandomState(seed)
        self.text_cone = self.direction()
        self.image_cone = unit(0.2 * self.text_cone + self.direction())
        self.subjects = {f"{actor} {action}": self.direction() for actor in ACTORS for action in ACTIONS}

    def direction(self) -> Vector:
        return unit(self.random.standard_normal(DIMENSION))

    def text(self, query: str) -> Vector:
        return NORM * unit(0.8 * self.text_cone + 0.6 * self.subjects[query])

    def frames_around(
        self, boundary: float, length: float, event: tuple[float, float], scene: Vector, subject: Vector
    ) -> Vector:
        """The mean of the frames within REACH x `length` seconds of `boundary`; the subject is seen during `event`."""
        mean = np.zeros(DIMENSION)
        for offset in np.linspace(-REACH * length, REACH * length, FRAMES):
            seen = event[0] <= boundary + offset <= event[1]
            frame = 0.75 * self.image_cone + 0.5 * scene + 0.3 * self.direction()
            mean += NORM * unit(frame + subject if seen else frame) / FRAMES
        return mean


def unit(vector: Vector) -> Vector:
    scaled: Vector = vector / np.sqrt(np.square(vector).sum())
    return scaled


def rows(world: World, videos: int) -> Iterator[dict[str, object]]:
    """`videos` times SEGMENTS rows, no query twice in a video. Videos are under a minute long."""
    queries = list(world.subjects)
    for video in range(videos):
        scene = world.direction()
        duration = world.random.uniform(30, 60)
        for choice in world.random.permutation(len(queries))[:SEGMENTS]:
            query = queries[choice]
            length = world.random.uniform(4, 16)
            start = world.random.uniform(REACH * length, duration - (1 + REACH) * length)
            end = start + length
            off = world.random.uniform(-REACH, REACH, size=2) * length
            event = (start + off[0], end + off[1])
            subject = world.random.uniform(0.35, 0.5) * world.subjects[query]
            yield {
                "video_id": f"sample-{video:02d}",
                "query": query,
                "text_features": rounded(world.text(query)),
                "start_image_features": rounded(world.frames_around(start, length, event, scene, subject)),
                "end_image_features": rounded(world.frames_around(end, length, event, scene, subject)),
                "segment": rounded(np.array([start, end])),
                "target": rounded(np.array(event)),
            }


def rounded(values: Vector) -> list[float]:
    return [round(float(value), 3) + 0.0 for value in values]


def document(videos: int) -> Iterator[str]:
    """The file's text in pieces: compact JSON, one row a line."""
    head = {
        "schema_version": 1,
        "description": "Synthetic: made by scripts/make_regressor_sample.py from random directions, from no video.",
        "feature_dimension": DIMENSION,
    }
    yield json.dumps(head, separators=(",", ":"))[:-1] + ',"rows":['
    for index, row in enumerate(rows(World(SEED), videos)):
        yield (",\n" if index else "\n") + json.dumps(row, separators=(",", ":"))
    yield "\n]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "out", nargs="?", type=Path, default=DEFAULT_OUT, help="the file (default: the sample in models/)"
    )
    parser.add_argument("--videos", type=int, default=VIDEOS, help=f"of {SEGMENTS} rows each (default: {VIDEOS})")
    arguments = parser.parse_args()
    with arguments.out.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(document(arguments.videos))
    print(f"{arguments.out}: {arguments.videos * SEGMENTS} rows, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
