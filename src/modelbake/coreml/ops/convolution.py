"""Convolution and pooling over one to three axes. Sources: conv.py, pool.py and _utils.py of coremltools' ops/defs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modelbake.coreml.ops.registry import Ints, floating, op

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@op()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    floating(x, weight)
    spatial = _spatial(x)
    strides = strides or (1,) * spatial
    dilations = dilations or (1,) * spatial
    padding = _padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    if any(before != after for before, after in padding):
        x = functional.pad(x, _flat(padding))
        padding = [(0, 0)] * spatial
    both = [before for before, _ in padding]
    result: Tensor = _CONV[spatial](x, weight, bias, strides, both, dilations, groups)
    return result


@op()
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    floating(x)
    strides = strides or (1,) * _spatial(x)
    padding = _ceiled(
        _padding(pad_type, pad, x.shape[2:], kernel_sizes, strides), x.shape[2:], kernel_sizes, strides, ceil_mode
    )
    padded = functional.pad(x, _flat(padding), value=-math.inf)
    result: Tensor = _MAX[_spatial(x)](padded, kernel_sizes, strides)
    return result


@op()
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    floating(x)
    strides = strides or (1,) * _spatial(x)
    given = _padding(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    padding = _ceiled(given, x.shape[2:], kernel_sizes, strides, ceil_mode)
    average = _AVERAGE[_spatial(x)]
    result: Tensor = average(functional.pad(x, _flat(padding)), kernel_sizes, strides)
    # What lies past the padding, where the size is rounded up, counts in no case.
    counted = (
        torch.ones_like(x[:1, :1])
        if exclude_padding_from_average
        else functional.pad(torch.ones_like(x[:1, :1]), _flat(given), value=1)
    )
    rest = (
        padding
        if exclude_padding_from_average
        else [(b - g, a - h) for (b, a), (g, h) in zip(padding, given, strict=True)]
    )
    return result / average(functional.pad(counted, _flat(rest)), kernel_sizes, strides)


def _spatial(x: Tensor) -> int:
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"takes a tensor of rank 3 to 5, not {x.ndim}")
    return x.ndim - 2


def _padding(
    pad_type: str,
    pad: Ints | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Ints,
    dilations: Ints | None = None,
) -> list[tuple[int, int]]:
    """How many numbers come before and after each axis."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        if pad is None or len(pad) != 2 * len(sizes):
            raise ValueError(f"the padding {pad} for {len(sizes)} axes")
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"the pad_type {pad_type!r} is not known")
    found = []
    for axis, size in enumerate(sizes):
        reach = (kernel[axis] - 1) * (1 if dilations is None else dilations[axis]) + 1
        total = max((math.ceil(size / strides[axis]) - 1) * strides[axis] + reach - size, 0)
        before = total // 2 if pad_type == "same" else total - total // 2
        found.append((before, total - before))
    return found


def _ceiled(
    padding: list[tuple[int, int]], sizes: Sequence[int], kernel: Ints, strides: Ints, ceil_mode: bool
) -> list[tuple[int, int]]:
    """The padding, and after it what rounding the size up reaches beyond it."""
    if not ceil_mode:
        return padding
    found = []
    for (before, after), size, reach, stride in zip(padding, sizes, kernel, strides, strict=True):
        if before != after:
            raise ValueError("ceil_mode with another padding before than after")
        whole = size + before + after
        count = math.ceil((whole - reach) / stride) + 1
        # The last window starts within the tensor or the padding before it.
        if (count - 1) * stride >= size + before and before + after > 0:
            count -= 1
        found.append((before, after + max(0, (count - 1) * stride + reach - whole)))
    return found


def _flat(padding: list[tuple[int, int]]) -> list[int]:
    """As torch's pad takes it: the last axis first."""
    return [number for pair in reversed(padding) for number in pair]
