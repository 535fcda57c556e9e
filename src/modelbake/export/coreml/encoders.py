"""Text and image encoders as modules that convert to small ML Programs: what the reference computes, for a batch of one.

Batch and width stand in the graph as numbers, and the length of a text is never asked for but once, so that a program of many
lengths has hardly an operator more than one of a single length. Attention is written out: products, a softmax, nothing that a
converter would have to guess at. Masks are additive; -3e4 is finite in float16, and exp of it is 0 in float32 and float16 alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelbake.errors import UsageError
from modelbake.export.coreml.convert import Input

EMBEDDINGS = "embeddings"
MASKED = -3e4


@dataclass(frozen=True)
class Encoder:
    """A module to convert (eval mode, float32), its inputs, its one output's name, and how long an embedding it gives [1, dimension]."""

    module: Any
    inputs: tuple[Input, ...]
    dimension: int
    output: str = EMBEDDINGS


def text_encoder(reference: Any, lengths: tuple[int, ...] = (128,)) -> Encoder:
    """A sentence-transformers model made of a BERT, mean or CLS pooling, and perhaps normalisation.

    Inputs `input_ids` and `attention_mask`, int32 [1, length], 1 where a token is; any of `lengths`, the first being the default.
    Output `embeddings` float32 [1, dimension]. UsageError where the model is another.
    """
    import torch

    bert, pooling, normalized = _modules(reference)
    table = bert.embeddings.position_embeddings.weight
    if max(lengths) > len(table):
        raise UsageError(f"The model has {len(table)} positions; a length of {max(lengths)} is too long.")
    heads = int(bert.config.num_attention_heads)

    class TextEncoder(torch.nn.Module):
        positions: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.words = bert.embeddings.word_embeddings
            self.norm = bert.embeddings.LayerNorm
            self.layers = bert.encoder.layer
            positions = table.detach() + bert.embeddings.token_type_embeddings.weight.detach()[0]
            self.register_buffer("positions", positions[: max(lengths)].clone())

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            mask = attention_mask.to(self.positions.dtype)
            bias = ((1.0 - mask) * MASKED).reshape(1, 1, 1, -1)
            x = self.norm(self.words(input_ids) + self.positions[: input_ids.shape[1]].unsqueeze(0))
            for layer in self.layers:
                own = layer.attention.self
                mixed = _attention(own.query(x), own.key(x), own.value(x), heads, bias)
                out = layer.attention.output
                x = out.LayerNorm(out.dense(mixed) + x)
                inner = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
                x = layer.output.LayerNorm(layer.output.dense(inner) + x)
            if pooling == "cls":
                pooled = x[:, 0]
            else:
                # As a product, a text's mean stays within float16's range at any length.
                shares = (mask / mask.sum(dim=1, keepdim=True).clamp_min(1.0)).unsqueeze(1)
                pooled = (shares @ x).squeeze(1)
            return _unit(pooled) if normalized else pooled

    shapes = tuple((1, length) for length in lengths)
    inputs = (Input("input_ids", "int32", shapes), Input("attention_mask", "int32", shapes))
    return Encoder(TextEncoder().eval(), inputs, int(bert.config.hidden_size))


def clip_text_encoder(model: Any) -> Encoder:
    """open_clip's encode_text(normalize=True) of a causal text tower that is read at its end of text.

    Input `input_ids` int32 [1, context], with zeros behind the end of text; output `embeddings` float32 [1, dimension].
    """
    import torch

    text = getattr(model, "text", model)
    context = int(model.context_length)

    class TextEncoder(torch.nn.Module):
        positions: torch.Tensor
        causal: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.tokens = text.token_embedding
            self.blocks = text.transformer.resblocks
            self.norm = text.ln_final
            self.projection = text.text_projection
            self.register_buffer("positions", text.positional_embedding.detach().clone())
            self.register_buffer("causal", torch.full((1, 1, context, context), MASKED).triu(1))

        def forward(self, input_ids: torch.Tensor) -> Any:
            # The end-of-text token has the highest id: argmax finds its first position (open_clip's text_global_pool).
            end = input_ids.argmax(dim=-1)
            x = self.tokens(input_ids) + self.positions
            x = _blocks(self.blocks, x, self.causal, lambda x: torch.index_select(x, 1, end))
            x = self.norm(x).squeeze(1)
            x = self.projection(x) if isinstance(self.projection, torch.nn.Linear) else x @ self.projection
            return _unit(x)

    inputs = (Input("input_ids", "int32", ((1, context),)),)
    return Encoder(TextEncoder().eval(), inputs, _dimension(text.text_projection))


def clip_image_encoder(model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """open_clip's encode_image(normalize=True), of an image of the model's own size.

    Input `image`, RGB of 8 bits a channel [size, size], which Swift hands over as a CGImage or CVPixelBuffer. It loses nothing, since
    the reference's own resizing gives 8 bits as well; scale, `mean` and `std` are operators of the graph, because a Core ML image input
    has a bias per channel but one scale for all. Output `embeddings` float32 [1, dimension].
    """
    import open_clip
    import torch

    visual = model.visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else visual.image_size

    class ImageEncoder(torch.nn.Module):
        scale: torch.Tensor
        offset: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.visual = visual
            of_std = torch.tensor(std, dtype=torch.float64).reshape(1, 3, 1, 1)
            of_mean = torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
            self.register_buffer("scale", (1 / (255 * of_std)).float())
            self.register_buffer("offset", (-of_mean / of_std).float())

        def forward(self, image: torch.Tensor) -> Any:
            x = image * self.scale + self.offset
            if isinstance(self.visual, open_clip.transformer.VisionTransformer) and self.visual.pool_type == "tok":
                x = _blocks(self.visual.transformer.resblocks, self.visual._embeds(x), None, lambda x: x[:, :1])
                features = self.visual.ln_post(x.squeeze(1)) @ self.visual.proj
            elif isinstance(self.visual, open_clip.modified_resnet.ModifiedResNet):
                features = _resnet(self.visual, x)
            else:
                features = self.visual(x)
            return _unit(features)

    shape = (1, 3, size, size)
    encoder = ImageEncoder().eval()
    with torch.inference_mode():
        dimension = encoder(torch.zeros(shape)).shape[-1]
    return Encoder(encoder, (Input("image", "image", (shape,)),), int(dimension))


def _modules(reference: Any) -> tuple[Any, str, bool]:
    """The BERT, the pooling's mode, and whether what it gives is normalised."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertModel

    parts = list(reference.children())
    known = len(parts) in (2, 3) and isinstance(parts[0], Transformer) and isinstance(parts[1], Pooling)
    known = known and all(isinstance(part, Normalize) for part in parts[2:])
    if not known:
        names = ", ".join(type(part).__name__ for part in parts)
        raise UsageError(
            f"The model's modules are {names}; Core ML conversion knows Transformer, Pooling and Normalize."
        )
    bert, mode = getattr(parts[0], "model", None) or parts[0].auto_model, parts[1].pooling_mode
    if not isinstance(bert, BertModel) or mode not in ("mean", "cls"):
        raise UsageError(
            f"The model is a {type(bert).__name__} with {mode!r} pooling; Core ML conversion knows BertModel, mean and cls."
        )
    return bert, str(mode), len(parts) == 3


def _attention(query: Any, key: Any, value: Any, heads: int, bias: Any | None) -> Any:
    """Softmax attention of rows [1, length, width]; queries may be fewer than keys."""
    width = query.shape[-1] // heads

    def by_head(x: Any) -> Any:
        return x.reshape(1, -1, heads, width).transpose(1, 2)

    scores = by_head(query * (1 / math.sqrt(width))) @ by_head(key).transpose(2, 3)
    if bias is not None:
        scores = scores + bias
    mixed = scores.softmax(dim=-1) @ by_head(value)
    return mixed.transpose(1, 2).reshape(1, -1, heads * width)


def _blocks(blocks: Any, x: Any, bias: Any | None, pool: Callable[[Any], Any]) -> Any:
    """open_clip's ResidualAttentionBlocks on rows `x` [1, length, width].

    The last one's attention is asked only for the row that `pool` takes, and that row alone goes on.
    """
    import torch

    for index, block in enumerate(blocks):
        weights = block.attn
        qkv = torch.nn.functional.linear(block.ln_1(x), weights.in_proj_weight, weights.in_proj_bias)
        query, key, value = qkv.chunk(3, dim=-1)
        if index == len(blocks) - 1:
            x, query = pool(x), pool(query)
            bias = None if bias is None else pool(bias.squeeze(0)).unsqueeze(0)
        x = x + block.ls_1(weights.out_proj(_attention(query, key, value, weights.num_heads, bias)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def _resnet(visual: Any, x: Any) -> Any:
    """ModifiedResNet.forward; of its AttentionPool2d only the mean's own row is read, so that is the only query."""
    import torch

    x = visual.stem(x)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool = visual.attnpool
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding
    mixed = _attention(pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x), pool.num_heads, None)
    return pool.c_proj(mixed.squeeze(1))


def _unit(x: Any) -> Any:
    """torch.nn.functional.normalize(x, dim=-1) of rows [1, dimension], in operators that need no shape."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _dimension(projection: Any) -> int:
    return int(getattr(projection, "out_features", None) or projection.shape[1])
