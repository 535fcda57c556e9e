"""open_clip models as Core ML packages of their text and image encoders, with goldens in the packages' own form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from modelbake import goldens
from modelbake.bundle import Bundle, CoremlClipModel
from modelbake.export import clip, clip_config
from modelbake.export.artifact import Export
from modelbake.export.clip import IMAGE_ROLE, TEXT_ROLE
from modelbake.export.coreml import encoders, variants
from modelbake.export.coreml.sweep import swept
from modelbake.manifest import ImagePreprocessing, Tokenizer
from modelbake.runtime.image_preprocess import denormalize

sample = clip.sample


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Convert the weights in `sources` into `out`: packages of both encoders, the tokenizer's merges, goldens.

    The text package takes int32 `input_ids` [1, context], zeros behind the end of text; the image package an RGB `image` of the
    model's size, 8 bits a channel. Both give float32 `embeddings` [1, dimension] of unit length.
    """
    spec = clip_config.check(bundle)
    assert isinstance(spec, CoremlClipModel)
    model = clip.load_reference(spec, sources)
    preprocessing = clip.preprocessing_of(model)
    merges = Path("tokenizers") / spec.package / "merges.txt"
    clip.write_tokenizer(out / merges)
    # A copy: the packages are converted from the model itself, in single precision.
    double = copy.deepcopy(model)
    cases = _golden_cases(double, spec, preprocessing) + _vocabulary_cases(double)
    if bundle.evaluation:
        cases.append(_evaluation_of_texts(double, spec, bundle.evaluation))
    del double
    tokenizer = Tokenizer("clip-merges", merges.as_posix(), int(model.context_length))
    text = encoders.clip_text_encoder(model)
    drafts, own = variants.make(
        bundle.variants, f"{spec.package}_text", TEXT_ROLE, text, out, cases, tokenizer=tokenizer
    )
    image = encoders.clip_image_encoder(model, preprocessing.mean, preprocessing.std)
    more, others = variants.make(
        bundle.variants, f"{spec.package}_image", IMAGE_ROLE, image, out, cases, preprocessing=preprocessing
    )
    golden = Path("goldens") / f"{bundle.name}.npz"
    goldens.write(out / golden, [*cases, *own, *others])
    return Export((*drafts, *more), golden.as_posix(), (merges.as_posix(),))


def _golden_cases(model: Any, spec: CoremlClipModel, preprocessing: ImagePreprocessing) -> list[goldens.Case]:
    """The ONNX bundle's cases, each item one of its own, in the packages' dtypes."""
    import numpy as np

    cases = []
    for case in clip.golden_cases(model, spec):
        (embeddings,) = case.outputs.values()
        if case.name == goldens.EVALUATION:
            cases.append(goldens.Case(case.role, case.name, {}, {"embeddings": embeddings}, case.raw))
            continue
        if case.name.endswith("-cut"):
            continue
        for index, embedding in enumerate(embeddings):
            inputs: goldens.Arrays
            raw: goldens.Arrays
            if case.role == TEXT_ROLE:
                inputs = {"input_ids": case.inputs["input_ids"][index : index + 1].astype(np.int32)}
                raw = {"text": case.raw["text"][index : index + 1]}
            else:
                pixels = case.inputs["pixel_values"][index].astype(np.float32)
                inputs = {"image": denormalize(pixels, preprocessing)[np.newaxis]}
                raw = {"image.0": case.raw[f"image.{index}"]}
            cases.append(
                goldens.Case(case.role, f"{case.name}-{index}", inputs, {"embeddings": embedding[np.newaxis]}, raw)
            )
    return cases


def _vocabulary_cases(double: Any) -> list[goldens.Case]:
    import numpy as np
    import torch

    context, vocabulary = int(double.context_length), int(double.vocab_size)
    cases = []
    # The two highest ids are the start and the end of a text.
    for index, ids in enumerate(swept(vocabulary - 2, context, vocabulary - 2, vocabulary - 1)):
        padded = np.zeros((1, context), np.int32)
        padded[:, : ids.shape[1]] = ids
        with torch.inference_mode():
            embeddings = double.encode_text(torch.from_numpy(padded).long(), normalize=True).numpy()
        outputs = goldens.as_float32({"embeddings": embeddings})
        cases.append(goldens.Case(TEXT_ROLE, f"vocabulary-{index}", {"input_ids": padded}, outputs))
    return cases


def _evaluation_of_texts(double: Any, spec: CoremlClipModel, texts: tuple[str, ...]) -> goldens.Case:
    import numpy as np
    import open_clip
    import torch

    tokenizer = open_clip.get_tokenizer(spec.architecture)
    with torch.inference_mode():
        rows = [double.encode_text(tokenizer([text]), normalize=True).numpy() for text in texts]
    return goldens.evaluation_of_texts(TEXT_ROLE, texts, goldens.as_float32({"embeddings": np.concatenate(rows)}))
