"""Parity: a bundle's goldens replayed through the real runtime of each artifact, and held against the gate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from modelbake import goldens
from modelbake.errors import IntegrityError, ParityError
from modelbake.goldens import Arrays, Case
from modelbake.manifest import ImagePreprocessing, Parity, Tokenizer
from modelbake.runtime.image_preprocess import preprocess
from modelbake.runtime.pair_tokenizer import PairTokenizer
from modelbake.runtime.session import Session
from modelbake.runtime.tokenize import load_tokenizer

# The runtime's own image preprocessing against the reference's, per pixel value.
PIXEL_GATE = 1e-6


class Replayable(Protocol):
    """What replaying needs to know of an artifact: a manifest's Artifact, or its draft."""

    @property
    def path(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def preprocessing(self) -> ImagePreprocessing | None: ...


def replay(models_dir: Path, artifact: Replayable, golden: Path, gate: float) -> Parity:
    """Run every golden case of the artifact's role and return the figures.

    Where a case keeps what a user would hand in (texts, images), the runtime's tokenizer and preprocessing must make the very
    inputs from it first. ParityError where an output is further off than `gate`, is not finite, or has another shape;
    IntegrityError where the graph, the tokenizer or the goldens cannot be read, or the goldens have nothing to compare.
    """
    cases = [case for case in goldens.read(golden) if case.role == artifact.role]
    if not cases or not all(case.outputs for case in cases):
        raise IntegrityError(
            f"{golden} has no case with outputs for {artifact.role}, so {artifact.path} cannot be verified; build the bundle again."
        )
    session = Session(models_dir / artifact.path)
    worst = 0.0
    for case in cases:
        _check_raw(models_dir, artifact, case)
        worst = max(worst, _difference(session.run(case.inputs), case, artifact.path))
        if not worst <= gate:
            raise ParityError(
                f"{artifact.path}: case {case.name!r} differs from the reference by {worst:.3g}, the gate is {gate:g}. "
                "The artifact is not what the reference computes; it was not kept."
            )
    return Parity(min(round_up(worst), gate), gate, len(cases))


def round_up(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `value`; 0 for 0."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log10(value))
    return next(
        bound for bound in (float(f"{m}e{e}") for e in (exponent, exponent + 1) for m in (1, 2, 5)) if bound >= value
    )


def _difference(outputs: Arrays, case: Case, path: str) -> float:
    worst = 0.0
    for name, expected in case.outputs.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape:
            shape = None if found is None else found.shape
            raise ParityError(
                f"{path}: case {case.name!r}: output {name!r} has the shape {shape}, the reference gave {expected.shape}."
            )
        difference = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
        if not math.isfinite(difference):
            raise ParityError(f"{path}: case {case.name!r}: output {name!r} is not finite.")
        worst = max(worst, difference)
    return worst


def _check_raw(models_dir: Path, artifact: Replayable, case: Case) -> None:
    if "document" in case.raw and artifact.tokenizer is not None:
        tokenizer = PairTokenizer(artifact.tokenizer, models_dir)
        pairs = [(str(q), str(d)) for q, d in zip(case.raw["query"], case.raw["document"], strict=True)]
        padded = tokenizer.pad(tokenizer.encode(pairs))
        for name, expected in case.inputs.items():
            if not np.array_equal(padded.get(name, ()), expected):
                raise ParityError(
                    f"{artifact.tokenizer.path}: case {case.name!r}: the runtime's {name} are not the reference's."
                )
    if "text" in case.raw and artifact.tokenizer is not None:
        made = load_tokenizer(artifact.tokenizer, models_dir)([str(text) for text in case.raw["text"]])
        for name, expected in case.inputs.items():
            found = made.get(name)
            # The runtime cuts a batch at its longest text; what it cuts off must be padding.
            if (
                found is None
                or not np.array_equal(found, expected[:, : found.shape[1]])
                or np.any(expected[:, found.shape[1] :])
            ):
                raise ParityError(
                    f"{artifact.tokenizer.path}: case {case.name!r}: the runtime's {name} are not the reference's."
                )
    images = sorted(
        (name for name in case.raw if name.startswith("image.")), key=lambda name: int(name.partition(".")[2])
    )
    if images and artifact.preprocessing is not None:
        pixels = np.stack([preprocess(Image.fromarray(case.raw[name]), artifact.preprocessing) for name in images])
        reference = case.inputs["pixel_values"].astype(np.float32)
        if pixels.shape != reference.shape:
            raise ParityError(
                f"{artifact.path}: case {case.name!r}: the runtime's pixels have the shape {pixels.shape}, the reference's "
                f"{reference.shape}."
            )
        difference = float(np.abs(pixels - reference).max())
        if not difference <= PIXEL_GATE:
            raise ParityError(
                f"{artifact.path}: case {case.name!r}: the runtime's pixels differ by {difference:.3g}, the gate is {PIXEL_GATE:g}."
            )
