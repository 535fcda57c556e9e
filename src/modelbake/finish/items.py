"""A bundle's goldens as a package takes them: one text or image at a time, token ids padded to a length that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelbake import goldens
from modelbake.errors import IntegrityError
from modelbake.goldens import Arrays, Case
from modelbake.manifest import Artifact, Tensor
from modelbake.runtime.image_preprocess import denormalize, preprocess
from modelbake.runtime.tokenize import TokenIds, Tokenize, load_tokenizer

IDS = "input_ids"
# The dtype of an input that is an image: RGB, uint8 [1, 3, height, width].
IMAGE = "uint8"


@dataclass(frozen=True)
class Item:
    """One call of a package: its inputs, and the reference's outputs, both [1, …]; `shape` names the length or shape it is run in."""

    name: str
    shape: str
    inputs: Arrays
    expected: Arrays


def own_items(artifact: Artifact, golden: Path) -> list[Item]:
    """What a smaller variant itself gave on Linux when it was made, for the same inputs; none where the goldens do not hold it."""
    role = goldens.own_role(artifact.role, artifact.precision)
    cases = (case for case in goldens.read(golden) if case.role == role and case.inputs)
    return [item for case in cases for item in _plain(artifact, case, golden)]


def items_of(models: Path, artifact: Artifact, golden: Path) -> list[Item]:
    """Every row of every golden case of the artifact's role; the text of fewest tokens once more in each longer length.

    So every length that a package declares is run, and must give what the reference gives. IntegrityError where the goldens
    have nothing for it, or their rows do not fit.
    """
    cases = [case for case in goldens.read(golden) if case.role == artifact.role]
    if not cases or not all(case.outputs for case in cases):
        raise IntegrityError(
            f"{golden} has no case with outputs for {artifact.role}, so {artifact.path} cannot be replayed; build the bundle again."
        )
    if artifact.tokenizer is not None:
        return _texts(models, artifact, cases, golden)
    return [item for case in cases for item in _plain(artifact, case, golden)]


def _texts(models: Path, artifact: Artifact, cases: list[Case], golden: Path) -> list[Item]:
    assert artifact.tokenizer is not None
    tokenize = load_tokenizer(artifact.tokenizer, models)
    lengths = artifact.sequence_lengths
    rows: list[tuple[str, TokenIds, Arrays]] = []
    for case in cases:
        found = _ids(case, tokenize, golden)
        rows += [(f"{case.name}[{i}]", ids, _row(case, i, len(found), golden)) for i, ids in enumerate(found)]
    shortest = min(rows, key=lambda row: len(row[1]))
    made = []
    for row in rows:
        name, ids, expected = row
        fitting = [length for length in lengths if length >= len(ids)]
        if not fitting:
            raise IntegrityError(
                f"{golden}: {name} has {len(ids)} tokens, and {artifact.path} takes {lengths[-1]} at most; build the bundle again."
            )
        for length in fitting if row is shortest else fitting[:1]:
            # The tokenizer's own padding, made to reach that length by a neighbour of it.
            padded = tokenize.pad([ids, np.zeros(length, np.int64)])
            inputs: Arrays = {key: array[:1] for key, array in padded.items()}
            made.append(Item(name, str(length), _as_declared(artifact, inputs, name, golden), expected))
    return made


def _ids(case: Case, tokenize: Tokenize, golden: Path) -> list[TokenIds]:
    """The token ids of each text of the case, without padding."""
    if not case.inputs:
        found = tokenize.encode(goldens.texts_of(case))
    elif "attention_mask" in case.inputs:
        mask = case.inputs["attention_mask"]
        counts = (mask != 0).sum(axis=1)
        if np.any((np.arange(mask.shape[1]) < counts[:, np.newaxis]) != (mask != 0)):
            raise IntegrityError(f"{golden}: {case.name} has padding between its tokens; build the bundle again.")
        found = [row[:count] for row, count in zip(_int64(case.inputs[IDS]), counts, strict=True)]
    else:
        found = [np.trim_zeros(row, "b") for row in _int64(case.inputs[IDS])]
    if not found:
        raise IntegrityError(f"{golden}: {case.name} has neither inputs nor texts; build the bundle again.")
    return found


def _int64(array: NDArray[np.generic]) -> NDArray[np.int64]:
    return array.astype(np.int64)


def _plain(artifact: Artifact, case: Case, golden: Path) -> Iterator[Item]:
    """The rows of a case whose inputs the graph takes as they are, or which are made from images."""
    rows: Sequence[Arrays]
    if case.inputs:
        count = len(next(iter(case.inputs.values())))
        rows = [{name: array[i : i + 1] for name, array in case.inputs.items()} for i in range(count)]
    elif artifact.preprocessing is not None:
        spec, given = artifact.preprocessing, artifact.inputs[0]
        pixels = (preprocess(Image.fromarray(image), spec) for image in goldens.images_of(case))
        # A package that takes images normalises them itself.
        made = (denormalize(one, spec) if given.dtype == IMAGE else one for one in pixels)
        rows = [{given.name: one[np.newaxis]} for one in made]
    else:
        rows = []
    if not rows:
        raise IntegrityError(f"{golden}: {case.name} has nothing to make inputs from; build the bundle again.")
    for i, inputs in enumerate(rows):
        name = f"{case.name}[{i}]"
        declared = _as_declared(artifact, inputs, name, golden)
        shape = "x".join(str(size) for size in next(iter(declared.values())).shape)
        yield Item(name, shape, declared, _row(case, i, len(rows), golden))


def _row(case: Case, index: int, count: int, golden: Path) -> Arrays:
    if any(len(array) != count for array in case.outputs.values()):
        raise IntegrityError(f"{golden}: {case.name} has {count} rows of inputs and others of outputs; build it again.")
    return {name: array[index : index + 1] for name, array in case.outputs.items()}


def _as_declared(artifact: Artifact, inputs: Arrays, name: str, golden: Path) -> Arrays:
    """The inputs in the dtypes that the package declares."""
    declared: dict[str, Tensor] = {tensor.name: tensor for tensor in artifact.inputs}
    if set(declared) != set(inputs):
        raise IntegrityError(
            f"{golden}: {name} has the inputs {', '.join(sorted(inputs))}, and {artifact.path} takes "
            f"{', '.join(sorted(declared))}; build the bundle again."
        )
    cast: Arrays = {}
    for key, array in inputs.items():
        if declared[key].dtype not in ("int32", "float16", "float32", IMAGE):
            raise IntegrityError(
                f"{artifact.path}: its input {key} is {declared[key].dtype}, which no golden can be replayed as."
            )
        cast[key] = array.astype(declared[key].dtype)
        if declared[key].dtype in ("int32", IMAGE) and np.any(cast[key] != array):
            raise IntegrityError(
                f"{golden}: {name} has numbers in {key} that are no {declared[key].dtype}; build the bundle again."
            )
    return cast
