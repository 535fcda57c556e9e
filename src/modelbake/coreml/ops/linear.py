"""Matrix products and attention. Sources: linear.py and iOS18/transformers.py of coremltools' ops/defs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modelbake.coreml.ops.registry import Tensors, floating, op


@op()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    floating(x, weight)
    return functional.linear(x, weight, bias)


@op()
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    # A vector is not transposed: it becomes a row on the left, a column on the right, and that axis goes again.
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    if x.dtype != y.dtype:
        raise ValueError(f"of {x.dtype} and {y.dtype}")
    return torch.matmul(x, y)


@op()
def einsum(values: Tensors, equation: str) -> Tensor:
    floating(*values)
    return torch.einsum(equation, *values)


@op()
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    # Whole in float32, whatever comes in: what a processor rounds within is its own.
    floating(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)
