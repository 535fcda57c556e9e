"""Attention as one operator of ONNX Runtime's own in an exported graph; torch computes the same by the formula."""

from __future__ import annotations

import functools
from typing import Any

# The domain of ONNX Runtime's operators (its docs/ContribOperators.md), and its version, as torch.onnx.export's custom_opsets.
CONTRIB_OPSETS = {"com.microsoft": 1}


def attention(query: Any, key: Any, value: Any, heads: int, causal: bool = False) -> Any:
    """softmax(q kᵀ / √d + mask) v over `heads` heads, float [batch, queries, width] of key and value [batch, keys, width].

    `causal` hides the keys behind a query's own position; queries and keys must then be equally many. In a graph this is
    com.microsoft's MultiHeadAttention, whatever the sizes: no length that was seen in tracing stays in it.
    """
    return _function().apply(query, key, value, heads, causal)


@functools.cache
def _function() -> Any:
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, heads: int, causal: bool) -> Any:
            def split(tensor: Any) -> Any:
                return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)

            mixed = torch.nn.functional.scaled_dot_product_attention(
                split(query), split(key), split(value), is_causal=causal
            )
            return mixed.transpose(1, 2).flatten(2)

        @staticmethod
        def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int, causal: bool) -> Any:
            node = g.op(
                "com.microsoft::MultiHeadAttention",
                query,
                key,
                value,
                num_heads_i=heads,
                unidirectional_i=int(causal),
            )
            return node.setType(query.type())

    return Attention
