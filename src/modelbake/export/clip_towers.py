"""The two towers of an open_clip model as modules to trace: what open_clip computes, arranged for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelbake.export.ort_ops import attention


def text_tower(model: Any) -> Any:
    """A module that takes int64 input_ids [batch, length] and gives open_clip's encode_text(normalize=True), float32.

    Attention is causal and the embedding is read at the first end-of-text token, so nothing behind it has an effect. Hence the
    length is free up to the context's, rows behind a text's end are computed by attention alone (which needs a rectangle), and
    behind the last layer's attention only one row of each text goes on. All of it is exact.
    """
    import torch

    class TextTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # CustomTextCLIP keeps in `text` what CLIP keeps in itself.
            self.text = getattr(model, "text", model)

        def forward(self, input_ids: torch.Tensor) -> Any:
            text = self.text
            batch, length = input_ids.shape
            # The end-of-text token has the highest id, so argmax finds its first position (open_clip's text_global_pool).
            ends = input_ids.argmax(dim=-1)
            column = torch.arange(length).expand(batch, length)
            inside = (column <= ends.unsqueeze(1)).flatten()
            rows = inside.nonzero().squeeze(1)
            # Where each cell of the rectangle finds its row; behind a text's end it is that text's last, which no one sees.
            cells = inside.to(torch.int64).cumsum(0) - 1
            last = torch.arange(batch) * length + ends

            def attend(qkv: Any, heads: int) -> Any:
                rectangle = qkv[cells].reshape(batch, length, qkv.shape[-1])
                query, key, value = rectangle.chunk(3, dim=-1)
                mixed = attention(query, key, value, heads, causal=True)
                return mixed.reshape(batch * length, mixed.shape[-1])

            x = text.token_embedding(input_ids.flatten()[rows]) + text.positional_embedding[column.flatten()[rows]]
            x = _blocks(
                text.transformer.resblocks,
                x,
                attend,
                keep=lambda mixed: mixed[rows],
                pool=(lambda x: x[cells[last]], lambda mixed: mixed[last]),
            )
            embedding: torch.Tensor = _project(text.ln_final(x), text.text_projection)
            return embedding

    return TextTower().eval()


def image_tower(model: Any) -> Any:
    """A module that takes float32 pixel_values [batch, 3, size, size] and gives open_clip's encode_image(normalize=True)."""
    import open_clip
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual

        def forward(self, pixel_values: torch.Tensor) -> Any:
            if isinstance(self.visual, open_clip.transformer.VisionTransformer):
                features = _vision_transformer(self.visual, pixel_values)
            elif isinstance(self.visual, open_clip.modified_resnet.ModifiedResNet):
                features = _resnet(self.visual, pixel_values)
            else:
                features = self.visual(pixel_values)
            return torch.nn.functional.normalize(features, dim=-1)

    return ImageTower().eval()


def _blocks(
    blocks: Any,
    x: Any,
    attend: Callable[[Any, int], Any],
    keep: Callable[[Any], Any],
    pool: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None,
) -> Any:
    """open_clip's ResidualAttentionBlocks on rows `x` [..., width].

    `attend` mixes rows [..., 3 * width] of queries, keys and values; `keep` takes from what it gives the rows that `x` has.
    `pool` takes, from `x` and from what the last block's attention gives, the rows that are read in the end, which are all that
    the rest of that block is computed for.
    """
    import torch

    for index, block in enumerate(blocks):
        weights = block.attn
        qkv = torch.nn.functional.linear(block.ln_1(x), weights.in_proj_weight, weights.in_proj_bias)
        mixed = attend(qkv, weights.num_heads)
        if pool is not None and index == len(blocks) - 1:
            x, mixed = pool[0](x), pool[1](mixed)
        else:
            mixed = keep(mixed)
        x = x + block.ls_1(weights.out_proj(mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def _vision_transformer(visual: Any, pixel_values: Any) -> Any:
    """VisionTransformer.forward; where its class token is read, the last block's rest is computed for that token alone."""

    def attend(qkv: Any, heads: int) -> Any:
        query, key, value = qkv.chunk(3, dim=-1)
        return attention(query, key, value, heads)

    def class_token(x: Any) -> Any:
        return x[:, 0]

    reads_one = visual.pool_type == "tok"
    pool = (class_token, class_token) if reads_one else None
    x = _blocks(visual.transformer.resblocks, visual._embeds(pixel_values), attend, lambda mixed: mixed, pool)
    pooled = visual.ln_post(x) if reads_one else visual._pool(x)[0]
    return pooled @ visual.proj


def _resnet(visual: Any, pixel_values: Any) -> Any:
    """ModifiedResNet.forward; of its AttentionPool2d only the mean's own row is read, so that is the only query."""
    import torch

    x = visual.stem(pixel_values)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool = visual.attnpool
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding
    mixed = attention(pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x), pool.num_heads)
    return pool.c_proj(mixed.squeeze(1))


def _project(x: Any, projection: Any) -> Any:
    """The text's projection, a matrix or a Linear, to unit length."""
    import torch

    projected = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
    return torch.nn.functional.normalize(projected, dim=-1)
