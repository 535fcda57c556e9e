"""Operations that reduce axes. Source: reduction.py of coremltools' ops/defs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modelbake.coreml.ops.registry import Ints, axes_of, axis_of, cast_to, floating, op

Reduce = Callable[[Tensor, Ints, bool], Tensor]


def _axes(name: str, function: Reduce) -> None:
    def call(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        return function(x, tuple(range(x.ndim)) if axes is None else axes_of(axes, x.ndim), keep_dims)

    op(name)(call)


def _sum(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    # torch makes int64 of integers, and all axes of none.
    return torch.sum(x, axes, keep, dtype=x.dtype) if axes else x


def _mean(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    floating(x)
    return torch.mean(x, axes, keep) if axes else x


def _product(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _l2(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    floating(x)
    return torch.sqrt(_sum(x * x, axes, keep))


_axes("reduce_l1_norm", lambda x, axes, keep: _sum(torch.abs(x), axes, keep))
_axes("reduce_l2_norm", _l2)
_axes("reduce_log_sum", lambda x, axes, keep: torch.log(_sum(x, axes, keep)))
_axes("reduce_log_sum_exp", lambda x, axes, keep: torch.logsumexp(x, axes, keep))
_axes("reduce_max", lambda x, axes, keep: torch.amax(x, axes, keep))
_axes("reduce_mean", _mean)
_axes("reduce_min", lambda x, axes, keep: torch.amin(x, axes, keep))
_axes("reduce_prod", _product)
_axes("reduce_sum", _sum)
_axes("reduce_sum_square", lambda x, axes, keep: _sum(x * x, axes, keep))


def _index(name: str, function: Callable[[Tensor, int, bool], Tensor]) -> None:
    def call(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
        return cast_to(function(x, axis_of(axis, x.ndim), keep_dims), output_dtype)

    op(name)(call)


_index("reduce_argmax", torch.argmax)
_index("reduce_argmin", torch.argmin)
