"""sentence-transformers models as Core ML packages: fp32, the bundle's smaller variants, goldens in the packages' own form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from modelbake import goldens
from modelbake.bundle import Bundle, CoremlTextEncoderModel
from modelbake.export import text_encoder
from modelbake.export.artifact import Export
from modelbake.export.coreml import variants
from modelbake.export.coreml.calibrate import Inputs, word_salad
from modelbake.export.coreml.encoders import text_encoder as encoder_of
from modelbake.export.coreml.sweep import swept
from modelbake.export.text_encoder import ROLE
from modelbake.manifest import Tokenizer

sample = text_encoder.sample


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Convert the sentence-transformers folder `sources` into `out`: packages, tokenizer, goldens.

    A package takes int32 `input_ids` and `attention_mask`, both [1, length] for each of the bundle's lengths, and gives float32
    `embeddings` [1, dimension].
    """
    model = bundle.model
    assert isinstance(model, CoremlTextEncoderModel)
    longest = model.lengths[-1]
    reference = text_encoder.load_reference(sources, longest)
    encoder = encoder_of(reference, model.lengths)
    tokenizer = Path("tokenizers") / model.package / "tokenizer.json"
    text_encoder.write_tokenizer(reference, longest, out / tokenizer)
    cases = _golden_cases(bundle, model, reference)
    own_tokens = reference.tokenizer

    def calibration() -> list[Inputs]:
        vocabulary = len(encoder.module.words.weight)
        # In BERT's vocabularies the first thousand are special tokens and single characters.
        return word_salad(vocabulary, own_tokens.cls_token_id, own_tokens.sep_token_id, min(1000, vocabulary // 2))

    drafts, own = variants.make(
        bundle.variants,
        model.package,
        ROLE,
        encoder,
        out,
        cases,
        tokenizer=Tokenizer("tokenizer.json", tokenizer.as_posix(), longest),
        calibration=calibration,
    )
    golden = Path("goldens") / f"{bundle.name}.npz"
    goldens.write(out / golden, [*cases, *own])
    return Export(tuple(drafts), golden.as_posix(), (tokenizer.as_posix(),))


def _golden_cases(bundle: Bundle, model: CoremlTextEncoderModel, reference: Any) -> list[goldens.Case]:
    """Each text a case, padded to the shortest length that it fits; the reference computes in double precision."""
    import numpy as np
    import torch

    # A copy: the packages are converted from the reference itself, in single precision.
    double = copy.deepcopy(reference).double()
    cases = []
    for name, texts in text_encoder.GOLDEN_TEXTS.items():
        for index, text in enumerate(texts):
            features = text_encoder.tokenize(reference, [text])
            fitting = [length for length in model.lengths if length >= features["input_ids"].shape[1]]
            cases.append(_case(f"{name}-{index}", double, features, fitting[0], {"text": np.array([text])}))
            if not index and name == "single":
                # Every length that the package has is run.
                more = {f"{name}-{index}-in-{length}": length for length in fitting[1:]}
                cases += [_case(other, double, features, length) for other, length in more.items()]
    tokens = reference.tokenizer
    vocabulary = len(reference[0].auto_model.embeddings.word_embeddings.weight)
    for index, ids in enumerate(swept(vocabulary, model.lengths[-1], tokens.cls_token_id, tokens.sep_token_id)):
        given = torch.from_numpy(ids).long()
        features = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        cases.append(_case(f"vocabulary-{index}", double, features, model.lengths[-1]))
    if bundle.evaluation:
        rows = [_embeddings(double, text_encoder.tokenize(reference, [text])) for text in bundle.evaluation]
        outputs = goldens.as_float32({"embeddings": np.concatenate(rows)})
        cases.append(goldens.evaluation_of_texts(ROLE, bundle.evaluation, outputs))
    return cases


def _case(
    name: str, double: Any, features: dict[str, Any], length: int, raw: goldens.Arrays | None = None
) -> goldens.Case:
    """The text of those features, padded to the length, and what the reference gives for it."""
    import numpy as np

    inputs: goldens.Arrays = {}
    for key, value in features.items():
        inputs[key] = np.zeros((1, length), np.int32)
        inputs[key][:, : value.shape[1]] = value.numpy()
    outputs = goldens.as_float32({"embeddings": _embeddings(double, features)})
    return goldens.Case(ROLE, name, inputs, outputs, raw or {})


def _embeddings(reference: Any, features: dict[str, Any]) -> Any:
    import torch

    with torch.inference_mode():
        return reference(dict(features))["sentence_embedding"].numpy()
