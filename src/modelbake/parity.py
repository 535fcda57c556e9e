"""Parity and quality: a bundle's goldens replayed through the real runtime of each artifact, and held against its gates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelbake import goldens
from modelbake.bundle import QualityGates
from modelbake.errors import IntegrityError, MachineError, ParityError
from modelbake.goldens import Arrays, Case
from modelbake.manifest import CoremlPackage, ImagePreprocessing, Parity, Precision, Quality, Tokenizer
from modelbake.runtime.image_preprocess import normalize, preprocess
from modelbake.runtime.pair_tokenizer import PairTokenizer
from modelbake.runtime.session import Session
from modelbake.runtime.tokenize import load_tokenizer

# The runtime's own image preprocessing against the reference's, per pixel value.
PIXEL_GATE = 1e-6
NEIGHBOURS = 10
# A variant's outputs against those that it gave when it was made, both without float16's roundings: the order of sums differs among
# processors, nothing else.
OWN_GATE = 1e-5
# Items of an evaluation set that go through the graph at once.
BATCH = 16
# Cosines are not told apart nearer to 1 than this: below lies what float32 embeddings themselves leave open.
FINEST_COSINE = 1e-6


class Replayable(Protocol):
    """What replaying needs to know of an artifact: a manifest's Artifact, or its draft."""

    @property
    def path(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def coreml(self) -> CoremlPackage | None: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def preprocessing(self) -> ImagePreprocessing | None: ...


class Runs(Protocol):
    """What an artifact is run in."""

    @property
    def input_names(self) -> tuple[str, ...]: ...
    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """All outputs by name, for one array per input, a row for each item."""


def open_session(models_dir: Path, artifact: Replayable, rounded: bool = True) -> Runs:
    """The artifact in what runs it on this machine: ONNX Runtime, or the interpreter of Core ML packages, whose `rounded` that is."""
    if artifact.coreml is None:
        return Session(models_dir / artifact.path)
    try:
        from modelbake.coreml.session import CoremlSession
    except ModuleNotFoundError as error:
        raise MachineError(
            f"{artifact.coreml.package}: a Core ML package is verified with torch and coremltools, and this machine lacks {error.name}. "
            "Install them (pip install '.[convert]', torch first), or verify in the converter image."
        ) from error

    return CoremlSession(models_dir / artifact.coreml.package, artifact.preprocessing, rounded)


def replay(models_dir: Path, artifact: Replayable, golden: Path, gate: float) -> Parity:
    """Run every golden case of the artifact's role and return the figures.

    Where a case keeps what a user would hand in (texts, images), the runtime's tokenizer and preprocessing must make the very
    inputs from it first. ParityError where an output is further off than `gate`, is not finite, or has another shape;
    IntegrityError where the graph, the tokenizer or the goldens cannot be read, or the goldens have nothing to compare.
    """
    cases = _cases(artifact, golden, list(goldens.read(golden)))
    session = open_session(models_dir, artifact)
    worst = 0.0
    for case in cases:
        _check_raw(models_dir, artifact, case)
        worst = max(worst, _difference(_outputs(session, models_dir, artifact, case), case, artifact.path))
        if not worst <= gate:
            raise ParityError(
                f"{artifact.path}: case {case.name!r} differs from the reference by {worst:.3g}, the gate is {gate:g}. "
                "The artifact is not what the reference computes; it was not kept."
            )
    return Parity(min(round_up(worst), gate), gate, len(cases))


def appraise(models_dir: Path, artifact: Replayable, golden: Path, gates: QualityGates) -> Quality:
    """Run the artifact on its role's goldens, measure it on the evaluation case among them, and return the figures.

    ParityError where a mean is below its gate, or an output is not finite or has another shape; IntegrityError as `replay`, and
    where there is no evaluation case or it has too few items for ten nearest others to mean anything.
    """
    every = list(goldens.read(golden))
    cases = _cases(artifact, golden, every)
    session = open_session(models_dir, artifact)
    quality = None
    for case in cases:
        _check_raw(models_dir, artifact, case)
        outputs = _outputs(session, models_dir, artifact, case)
        # Not held to a bound on any single number, but it must be finite and of the reference's shape.
        _difference(outputs, case, artifact.path)
        if case.name == goldens.EVALUATION:
            (name, expected), *more = case.outputs.items()
            if more or expected.ndim != 2 or len(expected) < 2 * NEIGHBOURS:
                raise IntegrityError(
                    f"{golden}: an evaluation case has one output of at least {2 * NEIGHBOURS} embeddings; build the bundle again."
                )
            quality = _quality(outputs[name], expected, gates, artifact.path)
    _compare_own(models_dir, artifact, golden, every)
    if quality is None:
        raise IntegrityError(
            f"{golden} has no evaluation case for {artifact.role}, so {artifact.path} cannot be measured. "
            "Put an evaluation.txt beside the bundle.toml, or take the role out of its variants."
        )
    return quality


def _compare_own(models_dir: Path, artifact: Replayable, golden: Path, every: list[Case]) -> None:
    """A Core ML variant may differ from the reference, but not from itself: against its own outputs one changed weight shows."""
    if artifact.coreml is None:
        return
    role = goldens.own_role(artifact.role, artifact.precision)
    cases = [case for case in every if case.role == role]
    if not cases:
        raise IntegrityError(
            f"{golden} has nothing of what {artifact.path} gave when it was made; build the bundle again."
        )
    session = open_session(models_dir, artifact, rounded=False)
    for case in cases:
        difference = _difference(_outputs(session, models_dir, artifact, case), case, artifact.path)
        if not difference <= OWN_GATE:
            raise ParityError(
                f"{artifact.path}: case {case.name!r} differs by {difference:.3g} from what it gave when it was made, the bound is "
                f"{OWN_GATE:g}. It was changed or damaged; build or copy the bundle again."
            )


def mean_cosine(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """The mean cosine of each row of `found` with that of `expected`, both [items, dimension]."""
    a, b = _unit(found), _unit(expected)
    return float(np.mean(np.sum(a * b, axis=1)))


def top_overlap(found: NDArray[np.generic], expected: NDArray[np.generic], count: int = NEIGHBOURS) -> float:
    """The mean share of each row's `count` nearest others by cosine in `found` [items, dimension] that are so in `expected` too."""
    nearest = []
    for vectors in (_unit(found), _unit(expected)):
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(np.argsort(-similarity, axis=1, kind="stable")[:, :count])
    shares = [len(set(a) & set(b)) / count for a, b in zip(*nearest, strict=True)]
    return float(np.mean(shares))


def _unit(vectors: Any) -> NDArray[np.float64]:
    double: NDArray[np.float64] = np.asarray(vectors, np.float64)
    unit: NDArray[np.float64] = double / np.maximum(np.linalg.norm(double, axis=1, keepdims=True), 1e-300)
    return unit


def _quality(found: NDArray[np.generic], expected: NDArray[np.generic], gates: QualityGates, path: str) -> Quality:
    cosine, overlap = mean_cosine(found, expected), top_overlap(found, expected)
    if not (cosine >= gates.mean_cosine and overlap >= gates.top10_overlap):
        raise ParityError(
            f"{path}: on {len(expected)} items its mean cosine is {cosine:.6f} (gate {gates.mean_cosine:g}) and its top-10 "
            f"overlap {overlap:.4f} (gate {gates.top10_overlap:g}). It was not kept; choose another recipe for this variant in "
            "its bundle.toml, as docs/variants.md shows."
        )
    rounded_cosine = 1 - round_up(max(1 - cosine, FINEST_COSINE))
    rounded_overlap = math.floor(overlap * 100) / 100
    return Quality(
        # Rounding to the decimals that it has takes away what 1 - x leaves behind the last.
        mean_cosine=max(round(rounded_cosine, 9), gates.mean_cosine),
        mean_cosine_gate=gates.mean_cosine,
        top10_overlap=max(rounded_overlap, gates.top10_overlap),
        top10_overlap_gate=gates.top10_overlap,
        items=len(expected),
    )


def _cases(artifact: Replayable, golden: Path, every: list[Case]) -> list[Case]:
    cases = [case for case in every if case.role == artifact.role]
    if not cases or not all(case.outputs for case in cases):
        raise IntegrityError(
            f"{golden} has no case with outputs for {artifact.role}, so {artifact.path} cannot be verified; build the bundle again."
        )
    return cases


def _outputs(session: Runs, models_dir: Path, artifact: Replayable, case: Case) -> Arrays:
    """What the graph gives for the case; its inputs are made by the runtime, in batches, where the case has none."""
    if case.inputs:
        return session.run(case.inputs)
    parts = [session.run(inputs) for inputs in _made_inputs(session, models_dir, artifact, case)]
    if not parts:
        raise IntegrityError(
            f"{artifact.path}: the golden case {case.name!r} has nothing to make its inputs from; build the bundle again."
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _made_inputs(session: Runs, models_dir: Path, artifact: Replayable, case: Case) -> Iterator[Arrays]:
    texts, images = goldens.texts_of(case), goldens.images_of(case)
    if texts and artifact.tokenizer is not None:
        tokenize = load_tokenizer(artifact.tokenizer, models_dir)
        for start in range(0, len(texts), BATCH):
            yield {**tokenize(texts[start : start + BATCH])}
    elif images and artifact.preprocessing is not None:
        for start in range(0, len(images), BATCH):
            batch = (Image.fromarray(image) for image in images[start : start + BATCH])
            yield {session.input_names[0]: np.stack([preprocess(image, artifact.preprocessing) for image in batch])}


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
    images = goldens.images_of(case)
    # Without inputs there is nothing to compare: the runtime's own are taken.
    if case.inputs and images and artifact.preprocessing is not None:
        spec = artifact.preprocessing
        pixels = np.stack([preprocess(Image.fromarray(image), spec) for image in images])
        given = case.inputs.get("image")
        reference = (
            case.inputs["pixel_values"].astype(np.float32)
            if given is None
            else np.stack([normalize(one.astype(np.uint8), spec) for one in given])
        )
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
