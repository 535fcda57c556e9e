"""Normalisations. Source: normalization.py of coremltools' ops/defs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modelbake.coreml.ops.registry import Ints, axes_of, floating, op


@op()
def layer_norm(
    x: Tensor, axes: Ints | None = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    floating(x)
    over = tuple(range(x.ndim)) if axes is None else tuple(sorted(axes_of(axes, x.ndim)))
    shape = [x.shape[axis] for axis in over]
    for one in (gamma, beta):
        if one is not None and list(one.shape) != shape:
            raise ValueError(f"gamma or beta of shape {list(one.shape)} where the axes are {shape}")
    if over and over == tuple(range(x.ndim - len(over), x.ndim)):
        return functional.layer_norm(x, shape, gamma, beta, epsilon)
    broad = [x.shape[axis] if axis in over else 1 for axis in range(x.ndim)]
    centred = x - x.mean(over, True)
    scaled = centred / torch.sqrt((centred * centred).mean(over, True) + epsilon)
    scaled = scaled if gamma is None else scaled * gamma.reshape(broad)
    return scaled if beta is None else scaled + beta.reshape(broad)


@op()
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    floating(x)
    if x.ndim < 3:
        raise ValueError(f"takes a tensor of rank 3 or more, not {x.ndim}")
    return x / torch.sqrt((x * x).sum((-3, -2, -1), True) + epsilon)


@op()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    floating(x)
    return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@op()
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    floating(x)
    if x.ndim < 3:
        raise ValueError(f"takes a tensor of rank 3 or more, not {x.ndim}")
    over = tuple(range(2, x.ndim))
    centred = x - x.mean(over, True)
    scaled = centred / torch.sqrt((centred * centred).mean(over, True) + epsilon)
    broad = [1, -1] + [1] * (x.ndim - 2)
    scaled = scaled if gamma is None else scaled * gamma.reshape(broad)
    return scaled if beta is None else scaled + beta.reshape(broad)
