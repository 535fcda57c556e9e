"""Operations on shapes: what numbers there are stays as it is, or is a shape or a pattern.

Sources: tensor_transformation.py and tensor_operation.py of coremltools' ops/defs, iOS15 to iOS18.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from modelbake.coreml.ops.registry import Bools, Ints, Tensors, axes_of, axis_of, bounded, op


@op(moves=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    # From iOS17 on, a 0 is the size of the axis at the same place from the right, or 1 where there is none; before, ranks had to
    # be the same, and it comes to the same.
    found = list(shape)
    for index, size in enumerate(shape):
        if size == 0:
            place = x.ndim - len(shape) + index
            found[index] = x.shape[place] if place >= 0 else 1
    return x.reshape(found)


@op(moves=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    for axis in sorted(axes_of(axes, x.ndim + len(axes))):
        x = x.unsqueeze(axis)
    return x


@op(moves=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    found = tuple(axis for axis in range(x.ndim) if x.shape[axis] == 1) if axes is None else axes_of(axes, x.ndim)
    if any(x.shape[axis] != 1 for axis in found):
        raise ValueError(f"axes {list(found)} of {list(x.shape)} are not all of size 1")
    return x.squeeze(found) if found else x


@op(moves=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    if len(perm) != x.ndim:
        raise ValueError(f"perm {list(perm)} for rank {x.ndim}")
    return x.permute(axes_of(perm, x.ndim))


@op(moves=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    if not 0 <= axis <= x.ndim:
        raise ValueError(f"axis {axis} of a tensor of rank {x.ndim}")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op(moves=True)
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    if len({one.dtype for one in values}) != 1:
        raise ValueError("of different types of numbers")
    # Numbers without an axis are joined to a vector, as coremltools makes shapes of sizes.
    values = tuple(one.reshape(1) if one.ndim == 0 else one for one in values)
    axis = axis_of(axis, values[0].ndim)
    if interleave:
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


@op(moves=True)
def stack(values: Tensors, axis: int) -> Tensor:
    if len({one.dtype for one in values}) != 1:
        raise ValueError("of different types of numbers")
    return torch.stack(values, axis_of(axis, values[0].ndim + 1))


@op(moves=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Tensors:
    axis = axis_of(axis, x.ndim)
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"{x.shape[axis]} into {num_splits} of the same size")
        split_sizes = (x.shape[axis] // num_splits,) * num_splits
    if num_splits not in (None, len(split_sizes)):
        raise ValueError(f"{num_splits} parts of the sizes {list(split_sizes)}")
    return tuple(torch.split(x, list(split_sizes), axis))


@op(moves=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    parts = [one for one in (begin, end, stride, begin_mask, end_mask, squeeze_mask) if one is not None]
    if any(len(one) != x.ndim for one in parts):
        raise ValueError(f"a slice of {len(begin)} axes for rank {x.ndim}")
    gone = []
    for axis, size in enumerate(x.shape):
        step = stride[axis] if stride else 1
        if squeeze_mask and squeeze_mask[axis]:
            x = x.narrow(axis, axis_of(begin[axis], size), 1)
            gone.append(axis)
            continue
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        chosen = range(size)[first:last:step]
        if chosen == range(size):
            continue
        places = torch.tensor(list(chosen), dtype=torch.int64)
        x = x.narrow(axis, chosen.start, len(chosen)) if step == 1 else x.index_select(axis, places)
    return x.squeeze(gone) if gone else x


@op(moves=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    if len(begin) != x.ndim or len(size) != x.ndim:
        raise ValueError(f"a slice of {len(begin)} axes for rank {x.ndim}")
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@op(moves=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    if len(reps) != x.ndim:
        raise ValueError(f"reps {list(reps)} for rank {x.ndim}")
    bounded(x.numel() * math.prod(reps))
    return x.repeat(reps)


@op(moves=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.ndim)) if axes is None else axes_of(axes, x.ndim))


@op(moves=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    if len(pad) % 2 or len(pad) > 2 * x.ndim or min(pad, default=0) < 0:
        raise ValueError(f"the padding {list(pad)} for rank {x.ndim}")
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    bounded(math.prod(size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True)))
    if mode == "constant":
        return functional.pad(x, [number for pair in reversed(pairs) for number in pair], value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise ValueError(f"the mode {mode!r} is not known")
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        size = x.shape[axis]
        places = range(-before, size + after)
        if mode == "replicate":
            chosen = [min(max(place, 0), size - 1) for place in places]
        elif max(before, after) > size - 1:
            raise ValueError(f"reflects {max(before, after)} of {size} numbers")
        else:
            chosen = [size - 1 - abs(size - 1 - abs(place)) for place in places]
        x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
    return x


@op()
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op(moves=True)
def fill(shape: Ints, value: Tensor | None = None) -> Tensor:
    bounded(math.prod(shape))
    if value is None:
        return torch.zeros(shape)
    return value.reshape([1] * len(shape)).expand(shape)


@op(moves=True)
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(tuple(ref_tensor.shape), value)  # type: ignore[no-any-return]


@op()
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    if not end.dtype == start.dtype == step.dtype:
        raise ValueError("of different types of numbers")
    bounded((end.item() - start.item()) / step.item())
    return torch.arange(start.item(), end.item(), step.item(), dtype=end.dtype)


@op(moves=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    rows = torch.arange(x.shape[-2])[:, None]
    columns = torch.arange(x.shape[-1])[None, :]
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= rows - columns <= lower
    if upper >= 0:
        kept &= columns - rows <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@op(moves=True)
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=on.dtype) if off_value is None else off_value
    bounded(indices.numel() * one_hot_vector_size)
    found = indices[..., None] == torch.arange(one_hot_vector_size, dtype=indices.dtype)
    return torch.where(found.movedim(-1, axis_of(axis, found.ndim)), on, off)


@op()
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).to(torch.int32)
