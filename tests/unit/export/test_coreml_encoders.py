"""Converted encoders, run from their packages, against what the reference frameworks compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelbake.coreml.runner import Runner
from modelbake.coreml.session import CoremlSession
from modelbake.errors import UsageError
from modelbake.export.coreml import encoders, package
from modelbake.export.coreml.convert import convert
from modelbake.manifest import ImagePreprocessing
from tests.unit.export import coreml_tiny

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def runner(encoder: encoders.Encoder, folder: Path, precision: Any = "fp32") -> Runner:
    path = folder / f"{precision}.mlpackage"
    convert(encoder.module, encoder.inputs, encoder.output, path, precision)
    return Runner(path)


def reference(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    count = int(mask.sum())
    with torch.inference_mode():
        features = model({"input_ids": ids[:, :count].long(), "attention_mask": mask[:, :count].long()})
    return features["sentence_embedding"].numpy()


@pytest.mark.parametrize(
    ("pooling", "normalized"), [("mean", True), ("cls", True), ("mean", False)], ids=["mean", "cls", "not normalised"]
)
def test_a_text_encoder_answers_as_sentence_transformers_does_at_every_length(
    tmp_path: Path, pooling: str, normalized: bool
) -> None:
    model = coreml_tiny.sentence_model(tmp_path, pooling, normalized)
    encoder = encoders.text_encoder(model, (32, 16, 64))
    run = runner(encoder, tmp_path)
    for length in (32, 16, 64):
        for tokens in (1, 2, length // 2, length):
            ids, mask = coreml_tiny.text(length, tokens, seed=tokens)
            found = run.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})["embeddings"]
            assert found.shape == (1, encoder.dimension) == (1, coreml_tiny.DIMENSION)
            np.testing.assert_allclose(found, reference(model, ids, mask), atol=1e-6, rtol=1e-6)


def test_in_fp16_a_text_encoder_is_near(tmp_path: Path) -> None:
    model = coreml_tiny.sentence_model(tmp_path)
    run = runner(encoders.text_encoder(model, (16,)), tmp_path, "fp16")
    ids, mask = coreml_tiny.text(16, 9)
    found = run.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})["embeddings"]
    assert (found * reference(model, ids, mask)).sum() >= 0.9999


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64 positions; a length of 65"):
        encoders.text_encoder(coreml_tiny.sentence_model(tmp_path), (65,))


def test_pooling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'max' pooling"):
        encoders.text_encoder(coreml_tiny.sentence_model(tmp_path, "max"))


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("fp16", 1e-2)])
def test_a_clip_text_encoder_answers_as_open_clip_does(tmp_path: Path, precision: str, bound: float) -> None:
    model = coreml_tiny.clip()
    run = runner(encoders.clip_text_encoder(model), tmp_path, precision)
    for end in (1, 5, 11):
        ids = torch.randint(1, 98, (1, 12), generator=torch.Generator().manual_seed(end))
        # Two ids that float16 could not tell apart, were they large: the end is the highest, and padding is 0.
        ids[0, 0], ids[0, end], ids[0, end + 1 :] = 98, 99, 0
        with torch.inference_mode():
            expected = model.encode_text(ids, normalize=True).numpy()
        found = run.run({"input_ids": ids.to(torch.int32).numpy()})["embeddings"]
        np.testing.assert_allclose(found, expected, atol=bound)


@pytest.mark.parametrize("image", ["vit", "resnet"])
def test_a_clip_image_encoder_answers_as_open_clip_does(tmp_path: Path, image: str) -> None:
    """From the image's bytes and, as parity replays it, from normalised pixels."""
    model = coreml_tiny.clip(image)
    encoder = encoders.clip_image_encoder(model, MEAN, STD)
    path = tmp_path / "image.mlpackage"
    convert(encoder.module, encoder.inputs, encoder.output, path)
    images = np.random.default_rng(3).integers(0, 256, (3, 3, 32, 32), np.uint8)
    mean, std = (np.array(of, np.float32).reshape(1, 3, 1, 1) for of in (MEAN, STD))
    normalised = (images.astype(np.float32) / 255 - mean) / std
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(normalised), normalize=True).numpy()

    with package.reading(path) as (spec, _):
        (given,) = spec.description.input
        assert (given.name, given.type.imageType.width, given.type.imageType.height) == ("image", 32, 32)
        assert given.type.imageType.colorSpace == given.type.imageType.RGB
    np.testing.assert_allclose(Runner(path).run({"image": images[:1]})["embeddings"], expected[:1], atol=2e-6)
    preprocessing = ImagePreprocessing(32, "bicubic", MEAN, STD)
    session = CoremlSession(path, preprocessing)
    for pixels in (images, normalised):
        np.testing.assert_allclose(session.run({"image": pixels})["embeddings"], expected, atol=5e-6)
