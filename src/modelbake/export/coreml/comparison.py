"""A built Core ML text encoder beside sentence-transformers, sentence by sentence, each from its own tokenizer on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelbake.coreml.runner import Runner
from modelbake.errors import IntegrityError, MachineError, UnknownNameError
from modelbake.export.text_encoder import ROLE, load_reference
from modelbake.files import sha256_of
from modelbake.manifest import Artifact, BundleEntry

PAD = 0


@dataclass(frozen=True)
class Difference:
    """How far an embedding is from the reference's: the largest and the mean absolute difference, and the cosine of the two."""

    sentence: str
    tokens: int
    max_abs: float
    mean_abs: float
    cosine: float


def compare(
    entry: BundleEntry, models: Path, sources: Path, sentences: Sequence[str], precision: str = "fp32"
) -> list[Difference]:
    """What the bundle's package in `models` gives for each sentence, beside the model of the files in `sources`, in float32.

    The package is evaluated by modelbake.coreml, from int32 [1, length] inputs, `length` the shortest of its lengths that holds the
    sentence; the reference gets the sentence itself. IntegrityError where `sources` is not what the bundle was made from.
    """
    import numpy as np

    artifact = entry.artifact(ROLE, precision)
    if artifact.coreml is None or artifact.tokenizer is None:
        raise UnknownNameError(
            f"{entry.name} has no Core ML text encoder; build a bundle of the kind coreml_text_encoder."
        )
    _check_sources(entry, sources)
    reference = load_reference(sources, artifact.tokenizer.max_tokens)
    tokenizer = _tokenizer(models / artifact.tokenizer.path)
    runner = Runner(models / artifact.coreml.package)
    found = []
    try:
        for sentence in sentences:
            inputs = tokenize(tokenizer, sentence, artifact)
            (name,) = runner.output_names
            given = runner.run(inputs)[name].reshape(-1)
            expected = reference.encode([sentence], show_progress_bar=False, convert_to_numpy=True)[0]
            difference = np.abs(given.astype(np.float64) - expected)
            cosine = float(given @ expected / (np.linalg.norm(given) * np.linalg.norm(expected)))
            tokens = int(inputs["attention_mask"].sum())
            found.append(Difference(sentence, tokens, float(difference.max()), float(difference.mean()), cosine))
    finally:
        runner.close()
    return found


def tokenize(tokenizer: Any, sentence: str, artifact: Artifact) -> dict[str, Any]:
    """`input_ids` and `attention_mask`, int32 [1, length], as an app has to make them for the package."""
    import numpy as np

    assert artifact.coreml is not None
    ids = tokenizer.encode(sentence).ids
    length = next((one for one in artifact.coreml.lengths if one >= len(ids)), None)
    if length is None:
        raise IntegrityError(
            f"{artifact.path}: its tokenizer gives {len(ids)} tokens, and it takes {artifact.coreml.lengths}; build the bundle again."
        )
    inputs = {name: np.full((1, length), PAD, np.int32) for name in ("input_ids", "attention_mask")}
    inputs["input_ids"][0, : len(ids)] = ids
    inputs["attention_mask"][0, : len(ids)] = 1
    return inputs


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    # One text is padded to the package's length, and to no other.
    tokenizer.no_padding()
    return tokenizer


def _check_sources(entry: BundleEntry, sources: Path) -> None:
    for ref in entry.source.files:
        path = sources / ref.path
        if not path.is_file():
            raise MachineError(
                f"{path} is not there, so there is no reference to compare with; `modelbake fetch {entry.name}` brings it."
            )
        if sha256_of(path) != ref.sha256:
            raise IntegrityError(
                f"{path} is not the file that {entry.name} was made from; `modelbake fetch {entry.name}` brings it."
            )
