"""Small models of the true architectures, converted, saved, and run here: each gives what torch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelbake.coreml import PROVES
from modelbake.coreml.runner import Runner
from modelbake.errors import IntegrityError
from tests import coreml_packages
from tests.coreml_packages import MASKED

TOKENS = 16


class Decoder(torch.nn.Module):
    """A causal transformer as an encoder of texts: the last hidden state of the last token, of unit length."""

    def __init__(self, model: Any, named_mask: bool) -> None:
        super().__init__()
        self.model = model
        self.named_mask = named_mask
        self.register_buffer("causal", torch.triu(torch.full((TOKENS, TOKENS), MASKED), 1)[None, None])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        padding = ((1.0 - attention_mask.to(torch.float32)) * MASKED)[:, None, None, :]
        mask: Any = torch.maximum(self.causal + padding, torch.tensor(MASKED))
        mask = {"full_attention": mask} if self.named_mask else mask
        hidden = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False)[0]
        return torch.nn.functional.normalize(hidden[:, -1], dim=1)


class Pixels(torch.nn.Module):
    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.tower(pixel_values), dim=1)


class Words(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.model.encode_text(input_ids), dim=1)


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """Weights far from zero, so that nothing vanishes in what is compared."""
    torch.manual_seed(9)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model.eval()


def decoder(family: str) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

    sizes = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
    }
    if family == "qwen3":
        return Decoder(seeded(Qwen3Model(Qwen3Config(**sizes))), True)
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    return Decoder(seeded(LlamaModel(LlamaConfig(**sizes, rope_parameters=scaling))), False)


def open_clip(vision: dict[str, Any]) -> Any:
    from open_clip.model import CLIP

    text = {"context_length": TOKENS, "vocab_size": 100, "width": 32, "heads": 4, "layers": 2}
    return seeded(CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True))


VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}


def subject(name: str) -> tuple[torch.nn.Module, dict[str, np.ndarray[Any, Any]]]:
    """A model and the inputs that it is converted with."""
    random = np.random.default_rng(6)
    ids = random.integers(1, 99, (1, TOKENS)).astype(np.int32)
    mask = (np.arange(TOKENS) >= 5).astype(np.int32)[None]
    if name in ("qwen3", "llama"):
        return decoder(name), {"input_ids": ids, "attention_mask": mask}
    if name in ("bert", "bert-cls"):
        pooling = "cls" if name == "bert-cls" else "mean"
        return coreml_packages.Sentence(coreml_packages.tiny_bert(), pooling), {
            "input_ids": ids,
            "attention_mask": mask[:, ::-1].copy(),
        }
    if name == "clip-text":
        return Words(open_clip(VIT)), {"input_ids": ids}
    size = VIT["image_size"] if name == "clip-vit" else RESNET["image_size"]
    tower = open_clip(VIT if name == "clip-vit" else RESNET).visual
    return Pixels(tower), {"pixel_values": random.normal(size=(1, 3, size, size)).astype(np.float32)}


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", ["bert", "bert-cls", "qwen3", "llama", "clip-text", "clip-vit", "clip-resnet"])
def test_a_model_gives_what_torch_gives(name: str, target: str, tmp_path: Path) -> None:
    import coremltools as ct

    module, inputs = subject(name)
    example = tuple(torch.from_numpy(array) for array in inputs.values())
    kinds = [ct.TensorType(name=key, shape=array.shape, dtype=array.dtype.type) for key, array in inputs.items()]
    with torch.inference_mode():
        wanted = module.eval()(*example).numpy()
    for precision, tolerance in (("fp32", 2e-6), ("fp16", 2e-2)):
        model = coreml_packages.convert(module, example, kinds, ["embeddings"], precision, target)
        path = tmp_path / f"{precision}.mlpackage"
        model.save(str(path))
        runner = Runner(path)
        assert runner.input_names == tuple(inputs)
        assert runner.output_names == ("embeddings",)
        found = runner.run(inputs)["embeddings"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.mark.parametrize("kind", ["enumerated", "range"])
def test_one_package_takes_several_lengths(kind: str, tmp_path: Path) -> None:
    import coremltools as ct

    lengths = (8, 16, 32)
    bert = coreml_packages.tiny_bert()
    shape = (
        ct.EnumeratedShapes([[1, n] for n in lengths], default=[1, 16])
        if kind == "enumerated"
        else (1, ct.RangeDim(4, 32, 16))
    )
    coreml_packages.sentence_package(bert, 16, shape=shape).save(str(tmp_path / "m.mlpackage"))
    runner = Runner(tmp_path / "m.mlpackage")
    module = coreml_packages.Sentence(bert).eval()
    for length in lengths:
        ids = np.random.default_rng(length).integers(1, 99, (1, length)).astype(np.int32)
        mask = (np.arange(length) < length - 2).astype(np.int32)[None]
        with torch.inference_mode():
            wanted = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(
            runner.run({"input_ids": ids, "attention_mask": mask})["embeddings"], wanted, atol=2e-6
        )
    other = np.ones((1, 33 if kind == "range" else 20), np.int32)
    words = r"4 to 32" if kind == "range" else r"\[1, 16\] or \[1, 8\] or \[1, 32\]"
    with pytest.raises(IntegrityError, match=words):
        runner.run({"input_ids": other, "attention_mask": other})


def test_what_it_proves_is_said() -> None:
    assert PROVES == "graph, weights and quantization verified; Apple's runtime not exercised"
