"""Every shape of open_clip model that can be exported, small: parity, what parity notices, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from modelbake import parity
from modelbake.bundle import Bundle, ClipModel, FilePin, HubSource, SampleSource
from modelbake.catalog import Catalog
from modelbake.errors import ParityError, UsageError
from modelbake.export import clip, clip_config
from modelbake.export.artifact import Draft, Export
from modelbake.runtime.session import Session
from tests.golden.conftest import ROOT

GATE = 1e-5
TEXT = {"width": 32, "heads": 4, "layers": 2}
VISION = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "gelu": {},
    "quickgelu": {"quick_gelu": True},
    "average": {"vision_cfg": {**VISION, "pool_type": "avg", "no_ln_pre": True}},
    "average-ln-after": {"vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True}},
    "layer-scale": {
        "vision_cfg": {**VISION, "ls_init_value": 1e-4},
        "text_cfg": {**TEXT, "ls_init_value": 1e-4, "norm_kwargs": {"eps": 1e-3}},
    },
    "tanh": {"text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}}},
    "custom-text": {"custom_text": True, "text_cfg": {**TEXT, "proj_bias": True, "context_length": 20}},
    "resnet": {"vision_cfg": RESNET, "quick_gelu": True},
}


def bundle(architecture: str, pretrained: str | None = None) -> Bundle:
    return Bundle(
        schema_version=1,
        name="small",
        version="1.0.0",
        description="made for a test",
        licence="MIT",
        model=ClipModel(architecture, architecture, pretrained),
        sources=(SampleSource(1),),
        files=(FilePin("open_clip_model.safetensors"),),
        pinned=False,
    )


@dataclass(frozen=True)
class Made:
    sources: Path
    models: Path
    export: Export

    @property
    def golden(self) -> Path:
        return self.models / self.export.goldens

    def draft(self, role: str) -> Draft:
        return next(draft for draft in self.export.drafts if draft.role == role)


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The small configurations, known to open_clip under `small-<shape>` for these tests."""
    clip_config.declare_missing_ops()
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    for name, changes in SHAPES.items():
        config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT} | changes
        (folder / f"small-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    for name in SHAPES:
        del open_clip.factory._MODEL_CONFIGS[f"small-{name}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in SHAPES}


def make(shape: str, folder: Path) -> Made:
    sources, models = folder / "sources", folder / "models"
    sources.mkdir()
    one = bundle(f"small-{shape}")
    clip.sample(one, sources, 1)
    return Made(sources, models, clip.export(one, sources, models))


@pytest.mark.parametrize("shape", SHAPES)
def test_both_encoders_keep_the_gate(made: dict[str, Made], shape: str) -> None:
    one = made[shape]
    for draft in one.export.drafts:
        assert parity.replay(one.models, draft, one.golden, GATE).max_abs_diff <= 1e-6


@pytest.mark.parametrize("shape", ["gelu", "quickgelu", "custom-text"])
def test_texts_of_every_length_give_open_clip_s_embeddings_however_they_are_batched(
    made: dict[str, Made], shape: str
) -> None:
    import torch

    one = made[shape]
    spec = clip_config.check(bundle(f"small-{shape}"))
    model = clip.load_reference(spec, one.sources)
    context = int(model.context_length)
    generator = np.random.default_rng(0)
    lengths = [2, context, 3, 9, context - 1, 5, 17]
    whole = np.zeros((len(lengths), context), dtype=np.int64)
    for row, length in zip(whole, lengths, strict=True):
        row[:length] = [49406, *generator.integers(0, 49406, length - 2), 49407]
    with torch.inference_mode():
        expected = model.encode_text(torch.from_numpy(whole), normalize=True).numpy()
    session = Session(one.models / one.draft("text_encoder").path)
    for rows in (list(range(len(lengths))), [0], [1], [3, 5], [0, 2, 6]):
        cut = whole[rows][:, : max(lengths[row] for row in rows)]
        found = session.run({"input_ids": cut})["text_embedding"]
        assert np.abs(found - expected[rows]).max() <= 1e-6


@pytest.mark.parametrize("shape", ["gelu", "resnet"])
def test_attention_is_one_operator_a_layer_and_no_tracing_of_its_own_is_left(made: dict[str, Made], shape: str) -> None:
    layers = {"text_encoder": 2, "image_encoder": 1 if shape == "resnet" else 2}
    for role, count in layers.items():
        graph = onnx.load(str(made[shape].models / made[shape].draft(role).path), load_external_data=False).graph
        operators = [node.op_type for node in graph.node]
        assert operators.count("MultiHeadAttention") == count
        assert "Softmax" not in operators


@pytest.mark.parametrize("shape", ["quickgelu", "resnet"])
@pytest.mark.parametrize("role", ["text_encoder", "image_encoder"])
def test_any_weight_that_is_ten_percent_off_misses_the_gate(
    made: dict[str, Made], tmp_path: Path, shape: str, role: str
) -> None:
    """Sample weights must not hide a layer: open_clip's own initialisation lets whole ResNet blocks give 0."""
    import shutil

    one = made[shape]
    models = tmp_path / "models"
    shutil.copytree(one.models, models)
    draft = one.draft(role)
    path = models / draft.path
    whole = onnx.load(str(path))
    weights = [
        tensor for tensor in whole.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    ]
    assert len(weights) >= 20
    unnoticed = set()
    for tensor in weights:
        kept = onnx.TensorProto()
        kept.CopyFrom(tensor)
        tensor.CopyFrom(numpy_helper.from_array(noisy(numpy_helper.to_array(kept)), kept.name))
        onnx.save_model(whole, str(path))
        try:
            parity.replay(models, draft, models / one.export.goldens, GATE)
            unnoticed.add(kept.name)
        except ParityError:
            pass
        tensor.CopyFrom(kept)
    # What is added to every key shifts all scores of a query alike, which softmax does not see; the pool's one query is all but
    # independent of its bias.
    assert unnoticed <= {"visual.attnpool.k_proj.bias", "visual.attnpool.q_proj.bias"}


def noisy(array: Any) -> Any:
    """The array with noise of a tenth of its own size."""
    noise = np.random.default_rng(0).normal(0, 0.1 * float(np.sqrt(np.mean(array**2))), array.shape)
    return (array + noise).astype(np.float32)


def test_the_other_activation_misses_the_gate(made: dict[str, Made]) -> None:
    gelu, quick = made["gelu"], made["quickgelu"]
    assert (gelu.sources / "open_clip_model.safetensors").read_bytes() == (
        quick.sources / "open_clip_model.safetensors"
    ).read_bytes()
    for role in ("text_encoder", "image_encoder"):
        case = next(c for c in parity.goldens.read(quick.golden) if c.role == role and c.inputs)
        found = Session(gelu.models / gelu.draft(role).path).run(case.inputs)
        assert parity._difference(found, case, "x") > GATE


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("ViT-B-16-SigLIP", "text_cfg.hf_tokenizer_name is 'timm/ViT-B-16-SigLIP'"),
        ("coca_ViT-B-32", "it has a multimodal_cfg"),
        ("roberta-ViT-B-32", "text_cfg.hf_model_name is 'roberta-base'"),
        ("ViT-H-14-CLIPA", "text_cfg.pool_type is 'last'"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_made(
    tmp_path: Path, architecture: str, reason: str
) -> None:
    with pytest.raises(UsageError, match="not SigLIP, CoCa or text encoders of transformers") as caught:
        clip.sample(bundle(architecture), tmp_path, 1)
    assert f"{architecture} cannot be exported" in str(caught.value)
    assert reason in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "pretrained", "words"),
    [
        ("ViT-B-33", None, "open_clip has no architecture 'ViT-B-33'"),
        ("hf-hub:o/r", None, "open_clip has no architecture 'hf-hub:o/r'"),
        ("RN50-quickgelu", "laion", "no weights 'laion' of RN50-quickgelu; it knows: openai, yfcc15m, cc12m"),
        ("ViT-B-32", "openai", "trained with QuickGELU; take the architecture ViT-B-32-quickgelu"),
    ],
)
def test_a_name_that_open_clip_does_not_know_is_told(architecture: str, pretrained: str | None, words: str) -> None:
    with pytest.raises(UsageError, match="small: ") as caught:
        clip_config.check(bundle(architecture, pretrained))
    assert words in str(caught.value)


def test_the_named_weights_bring_their_image_preprocessing() -> None:
    spec = clip_config.check(bundle("ViT-L-14", "laion2b_s32b_b82k"))
    assert clip_config.preprocessing(spec)["mean"] == (0.5, 0.5, 0.5)
    assert clip_config.preprocessing(clip_config.check(bundle("ViT-L-14"))) == {}


def test_the_bundles_take_the_repositories_that_open_clip_names() -> None:
    import open_clip

    bundles = [one for one in Catalog(ROOT / "bundles").select(()) if isinstance(one.model, ClipModel)]
    assert {one.model.model for one in bundles} >= {"ViT-B/32", "ViT-B/16", "RN50"}
    for one in bundles:
        spec = clip_config.check(one)
        entry = open_clip.get_pretrained_cfg(spec.architecture, spec.pretrained)
        assert [s.repository for s in one.sources if isinstance(s, HubSource)] == [entry["hf_hub"].strip("/")]
