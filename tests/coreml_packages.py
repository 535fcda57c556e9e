"""Core ML packages for the tests: small conversions with coremltools, by torch.jit.trace, eager attention and a ready-made mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelbake.export.coreml import patches

# Largest in float16 with room to add: what stands for minus infinity in a ready-made mask.
MASKED = -3e4


class Sentence(torch.nn.Module):
    """A BERT with its mask made by hand and its pooling: int32 ids and mask [n, tokens] to unit vectors [n, dimension]."""

    def __init__(self, bert: torch.nn.Module, pooling: str = "mean") -> None:
        super().__init__()
        self.bert = bert
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.to(torch.float32)
        additive = ((1.0 - mask) * MASKED)[:, None, None, :]
        hidden = self.bert(input_ids=input_ids, attention_mask=additive)[0]
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = mask[..., None]
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


def convert(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[Any],
    outputs: list[str],
    precision: str = "fp32",
    target: str = "iOS18",
) -> Any:
    """coremltools' MLModel of the traced module."""
    import coremltools as ct

    # torch's fused attention, which no converter knows, is for towers without a mask.
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), patches.scalar_casts():
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
        return ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=inputs,
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            compute_units=ct.ComputeUnit.CPU_ONLY,
            skip_model_load=True,
        )


def sentence_package(
    bert: torch.nn.Module,
    tokens: int = 128,
    precision: str = "fp32",
    target: str = "iOS18",
    pooling: str = "mean",
    shape: Any = None,
) -> Any:
    """A BERT as a Core ML sentence encoder: `input_ids`, `attention_mask` int32 [1, tokens] to `embeddings` float32."""
    import coremltools as ct

    shape = (1, tokens) if shape is None else shape
    ids = torch.ones(1, tokens, dtype=torch.int32)
    kinds = [ct.TensorType(name=name, shape=shape, dtype=np.int32) for name in ("input_ids", "attention_mask")]
    return convert(Sentence(bert, pooling), (ids, ids), kinds, ["embeddings"], precision, target)


def tiny_bert(layers: int = 2, seed: int = 5) -> torch.nn.Module:
    """A BERT of 32 numbers, 4 heads and 100 words, weights drawn from the seed and far from zero."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    return model


def minilm(folder: Path) -> torch.nn.Module:
    """all-MiniLM-L6-v2's BERT from the files of its bundle."""
    from transformers import BertModel

    return BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()


def packages(bert: Any, folder: Path, tokens: int, threshold: int) -> dict[str, Path]:
    """The BERT in the precisions that damages are tried on."""
    from coremltools.optimize import coreml as c

    full, old = (sentence_package(bert, tokens, target=target) for target in ("iOS18", "iOS16"))
    linear = lambda mode: c.OptimizationConfig(c.OpLinearQuantizerConfig(mode=mode, weight_threshold=threshold))  # noqa: E731
    palette = c.OpPalettizerConfig(
        mode="uniform", nbits=4, weight_threshold=threshold, granularity="per_grouped_channel", group_size=16
    )
    made = {
        "fp32": full,
        "int8": c.linear_quantize_weights(full, linear("linear_symmetric")),
        "int8-ios16": c.linear_quantize_weights(old, linear("linear")),
        "palette": c.palettize_weights(full, c.OptimizationConfig(palette)),
    }
    for name, model in made.items():
        model.save(str(folder / f"{name}.mlpackage"))
    return {name: folder / f"{name}.mlpackage" for name in made}
