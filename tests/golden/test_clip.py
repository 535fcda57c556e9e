"""CLIP ViT-B/32: what the runtime answers against what open_clip answers on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelbake import manifest
from modelbake.export.clip import golden_image
from modelbake.runtime.encoder import ImageEncoder, TextEncoder
from tests.golden.conftest import Built

ARCHITECTURE = "ViT-B-32-quickgelu"
TEXTS = ["a photo of a cat", "", "two dogs &amp; a 🐈 on naïve sofas", "caption " * 100, "x"]


@pytest.fixture(scope="module")
def reference(built: Built) -> Any:
    """open_clip's model with the bundle's weights, its tokenizer and its eval transform."""
    import open_clip
    from safetensors.torch import load_file

    model, _, transform = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=None)
    model.load_state_dict(load_file(str(built.sources("clip-vit-b-32") / "open_clip_model.safetensors")))
    return model.eval(), open_clip.get_tokenizer(ARCHITECTURE), transform


@pytest.mark.parametrize("count", [1, 3, 5])
def test_text_embeddings_are_those_of_open_clip(built: Built, reference: Any, count: int) -> None:
    import torch

    model, tokenizer, _ = reference
    encoder = TextEncoder(manifest.read(built.models).bundle("clip-vit-b-32"), built.models)
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(TEXTS[:count]), normalize=True).numpy()
    assert np.abs(encoder.embed(TEXTS[:count]) - expected).max() <= 1e-5


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_image_embeddings_are_those_of_open_clip(built: Built, reference: Any, mode: str) -> None:
    import torch

    model, _, transform = reference
    encoder = ImageEncoder(manifest.read(built.models).bundle("clip-vit-b-32"), built.models)
    images = [
        Image.fromarray(golden_image(*size, seed=7)).convert(mode) for size in ((240, 320), (500, 90), (224, 224))
    ]
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True).numpy()
    assert np.abs(encoder.embed(images) - expected).max() <= 1e-5
