"""Taking numbers by index. Source: scatter_gather.py of coremltools' ops/defs, iOS15 to iOS17.

iOS15 and iOS16 count negative indices from the end, and so does this; what lies further out is refused. iOS17 leaves negative ones
undefined too, and programs made for it add the size first: evaluate.py refuses them there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelbake.coreml.ops.registry import axis_of, op


@op(moves=True)
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    axis = axis_of(axis, x.ndim)
    if not 0 <= batch_dims <= min(axis, indices.ndim) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"{batch_dims} axes of batches, of {list(x.shape)} and {list(indices.shape)}")
    places = places_of(indices, x.shape[axis])
    if batch_dims == 0:
        if axis == 0:
            return x[places]
        return x.index_select(axis, places.reshape(-1)).reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    batches = x.shape[:batch_dims]
    flat_x = x.reshape(-1, *x.shape[batch_dims:])
    flat_places = places.reshape(len(flat_x), -1)
    each = [one.index_select(axis - batch_dims, at) for one, at in zip(flat_x, flat_places, strict=True)]
    shape = (*batches, *x.shape[batch_dims:axis], *places.shape[batch_dims:], *x.shape[axis + 1 :])
    return torch.stack(each).reshape(shape)


@op(moves=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    axis = axis_of(axis, x.ndim)
    same = [a == b for other, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if other != axis]
    if not all(same):
        raise ValueError(f"indices {list(indices.shape)} for {list(x.shape)}")
    return torch.gather(x, axis, places_of(indices, x.shape[axis]))


@op(moves=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    depth = indices.shape[-1]
    if batch_dims + depth > x.ndim or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"{batch_dims} axes of batches, of {list(x.shape)} and {list(indices.shape)}")
    at = [
        torch.arange(size).reshape([1] * axis + [size] + [1] * (indices.ndim - 2 - axis))
        for axis, size in enumerate(x.shape[:batch_dims])
    ]
    at += [places_of(indices[..., one], x.shape[batch_dims + one]) for one in range(depth)]
    return x[tuple(at)]


def places_of(indices: Tensor, size: int) -> Tensor:
    """The indices counted from the front, int64; ValueError where one is outside `size`."""
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"indices of {indices.dtype}")
    places = indices.to(torch.int64)
    if places.numel():
        low, high = int(places.min()), int(places.max())
        if low < -size or high >= size:
            raise ValueError(f"the index {high if high >= size else low} of {size}")
        if low < 0:
            places = torch.where(places < 0, places + size, places)
    return places
