"""CLIP ViT-B/32: what the runtime answers against what open_clip answers on the same weights, and the weights from a hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelbake import manifest
from modelbake.bundle import Catalog, HubSource
from modelbake.export.clip import golden_image
from modelbake.runtime.encoder import ImageEncoder, TextEncoder
from tests.golden.conftest import ROOT, Built, environment
from tests.hub import Hub

ARCHITECTURE = "ViT-B-32-quickgelu"
CLIPS = ("clip-rn50", "clip-vit-b-16", "clip-vit-b-32")
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


def test_download_models_takes_the_weights_that_a_hub_has(built: Built, hub: Hub, tmp_path: Path) -> None:
    repos, sizes = {}, 0
    for name in CLIPS:
        spec = Catalog(ROOT / "bundles").get(name).sources[0]
        assert isinstance(spec, HubSource)
        weights = built.sources(name) / "open_clip_model.safetensors"
        sizes += weights.stat().st_size
        files = {"open_clip_model.safetensors": weights, "open_clip_config.json": b"{}"}
        repos[name] = hub.add_repo(spec.repository, files)
    hub.faults.add("*.safetensors", kind="cut", after=200_000_000, endpoint="cdn")
    environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint, WEIGHTS="pretrained")
    done = subprocess.run(
        [sys.executable, "scripts/download_models.py", "--clip-only"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Cut and resumed: no byte twice, but for what was on the wire when the connection broke.
    assert sizes <= hub.log.sent("*.safetensors") < sizes + 20_000_000 * len(CLIPS)
    for name in CLIPS:
        entry = manifest.read(tmp_path / "models").bundle(name)
        assert (entry.weights, entry.source.commit) == ("pretrained", repos[name].branches["main"])
        assert entry.digest == manifest.read(built.models).bundle(name).digest
