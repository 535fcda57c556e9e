"""The Core ML bundles beside MiniLM's at their true sizes: built as a user builds them, and run from their packages.

No hub is reached here. arctic-embed-xs has MiniLM's architecture, so a local hub gives it MiniLM's real weights with CLS pooling;
CLIP's weights are samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import coremltools
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from modelbake import manifest
from modelbake.bundle import CoremlClipModel, HubSource
from modelbake.catalog import Catalog
from modelbake.coreml.runner import Runner
from modelbake.export import clip
from modelbake.export.coreml import comparison
from modelbake.parity import mean_cosine
from tests.golden.conftest import ROOT, Built, environment, modelbake
from tests.hub import Hub

CATALOG = Catalog(ROOT / "bundles")
ARCTIC, CLIP = "arctic-embed-xs-coreml", "clip-vit-b-32-coreml"
LENGTHS = [32, 64, 128, 256, 512]
RIVER = "The river turns where its bank gives way, and lays down sand where it is slow. "
# Of 4 to more than 512 tokens.
SENTENCES = ["hello world", "Represent this sentence for searching relevant passages: how do rivers meander?"]
SENTENCES += [RIVER * times for times in (2, 5, 10, 40)]
COSINES = {"fp16": 0.99999, "int8": 0.998, "4bit": 0.98}


def features(package: Path) -> dict[str, str]:
    """What an app sees, by coremltools' own reader."""
    description = coremltools.utils.load_spec(str(package)).description
    return {one.name: one.type.WhichOneof("Type") for one in (*description.input, *description.output)}


@pytest.fixture(scope="module")
def arctic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("arctic")
    environ = environment(folder)
    modelbake("fetch", "minilm-l6-v2", "--to", str(folder), "--weights", "pretrained", environ=environ)
    weights = folder / "minilm-l6-v2" / "files"
    bundle = CATALOG.get(ARCTIC)
    source = bundle.sources[0]
    assert isinstance(source, HubSource)
    files: dict[str, bytes | Path] = {pin.path: weights / pin.path for pin in bundle.files}
    pooling = json.loads((weights / "1_Pooling" / "config.json").read_text())
    pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    files["1_Pooling/config.json"] = json.dumps(pooling).encode()
    with Hub() as hub:
        hub.add_repo(source.repository, files)
        environ |= {"HF_ENDPOINT": hub.endpoint}
        modelbake("build", ARCTIC, "--weights", "pretrained", environ=environ)
    return Built(folder / "models", folder / "cache", environ)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("clip")
    environ = environment(folder)
    modelbake("build", CLIP, "--weights", "sample", environ=environ)
    return Built(folder / "models", folder / "cache", environ)


def test_arctic_answers_as_sentence_transformers_at_every_length(arctic: Built) -> None:
    entry = manifest.read(arctic.models).bundle(ARCTIC)
    assert entry.weights == "pretrained"
    artifact = entry.artifact(comparison.ROLE, "fp32")
    assert artifact.coreml is not None
    assert list(artifact.coreml.lengths) == LENGTHS
    assert features(arctic.models / artifact.coreml.package) == dict.fromkeys(
        ("input_ids", "attention_mask", "embeddings"), "multiArrayType"
    )
    differences = comparison.compare(entry, arctic.models, arctic.sources(ARCTIC), SENTENCES)
    assert [next(n for n in LENGTHS if n >= one.tokens) for one in differences] == [32, 32, 64, 128, 256, 512]
    assert max(one.max_abs for one in differences) <= 1e-6
    for precision, cosine in COSINES.items():
        differences = comparison.compare(entry, arctic.models, arctic.sources(ARCTIC), SENTENCES, precision)
        assert min(one.cosine for one in differences) >= cosine
    sizes = [sum(file.size for file in (a, *a.external_data)) for a in entry.artifacts]
    assert all(size <= bound * 1e6 for size, bound in zip(sizes, (93, 47, 24, 16), strict=True))


def test_clip_answers_as_open_clip_from_texts_and_images_on(vit: Built) -> None:
    import open_clip
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    bundle = CATALOG.get(CLIP)
    spec = bundle.model
    assert isinstance(spec, CoremlClipModel)
    model = clip.load_reference(spec, vit.sources(CLIP)).float().eval()
    tokens = open_clip.get_tokenizer(spec.architecture)(["a photograph of a heron", "two boats at night", "x"])
    generator = np.random.default_rng(5)
    images = [
        Image.fromarray(generator.integers(0, 256, (9, 7 + 4 * at, 3), np.uint8)).resize(
            (640, 360), Image.Resampling.BICUBIC
        )
        for at in range(3)
    ]
    cropped = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])
    transform = open_clip.image_transform(224, is_train=False)
    with torch.inference_mode():
        texts = model.encode_text(tokens, normalize=True).numpy()
        pictures = model.encode_image(torch.stack([transform(one) for one in images]), normalize=True).numpy()
    text_inputs = [{"input_ids": row[np.newaxis].astype(np.int32)} for row in tokens.numpy()]
    image_inputs = [{"image": np.asarray(cropped(one)).transpose(2, 0, 1)[np.newaxis]} for one in images]

    entry = manifest.read(vit.models).bundle(CLIP)
    for role, inputs, expected, kind in (
        ("text_encoder", text_inputs, texts, {"input_ids": "multiArrayType", "embeddings": "multiArrayType"}),
        ("image_encoder", image_inputs, pictures, {"image": "imageType", "embeddings": "multiArrayType"}),
    ):
        for precision in ("fp32", "fp16", "int8"):
            artifact = entry.artifact(role, precision)
            assert artifact.coreml is not None
            package = vit.models / artifact.coreml.package
            assert features(package) == kind
            found = run(package, inputs)
            if precision == "fp32":
                assert np.abs(found - expected).max() <= 1e-5
            else:
                assert mean_cosine(found, expected) >= COSINES[precision]


def run(package: Path, inputs: list[dict[str, NDArray[np.generic]]]) -> NDArray[np.generic]:
    runner = Runner(package)
    try:
        return np.concatenate([runner.run(one)["embeddings"] for one in inputs])
    finally:
        runner.close()


def test_swift_is_written_for_both(arctic: Built, vit: Built) -> None:
    for built, name, role in (
        (arctic, ARCTIC, "text_encoder"),
        (vit, CLIP, "text_encoder"),
        (vit, CLIP, "image_encoder"),
    ):
        swift = modelbake("coreml", "swift", name, "--role", role, environ=built.environ).stdout
        assert "import CoreML" in swift
        assert ("CVPixelBuffer" in swift) == (role == "image_encoder")
