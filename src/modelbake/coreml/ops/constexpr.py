"""Constants in a compressed form, made whole. Sources: iOS16/constexpr_ops.py and iOS18/compression.py of coremltools' ops/defs.

iOS16's take a shape and packed bytes, iOS18's tensors of few bits each; what has a `shape` is iOS16's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelbake.coreml.dtypes import DTYPES, unpack
from modelbake.coreml.ops.registry import Ints, Tensors, axis_of, op


@op()
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    axis = axis_of(axis, quantized_data.ndim)
    shape = [-1 if other == axis else 1 for other in range(quantized_data.ndim)]
    for one in (zero_point, scale):
        if one.ndim > 1 or (one.ndim and one.shape[0] != quantized_data.shape[axis]):
            raise ValueError(f"scale or zero_point of {list(one.shape)} for {list(quantized_data.shape)} along {axis}")
    offset, factor = (
        one.to(torch.float32).reshape(shape) if one.ndim else one.to(torch.float32) for one in (zero_point, scale)
    )
    return (quantized_data.to(torch.float32) - offset) * factor


@op()
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(f"offset of {list(offset.shape)} and scale of {list(scale.shape)}")
    blocks = _blocks(tuple(data.shape), tuple(scale.shape))
    # Each axis as blocks and what is in one, so that a scale meets its block without being repeated.
    whole = data.to(torch.float32).reshape([size for pair in blocks for size in pair])
    broad = [size for count, _ in blocks for size in (count, 1)]
    if offset is not None:
        whole = whole - offset.to(torch.float32).reshape(broad)
    return (whole * scale.to(torch.float32).reshape(broad)).reshape(data.shape)


@op(moves=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    if shape is not None:
        bits = (len(lut) - 1).bit_length()
        if lut.ndim != 1 or len(lut) not in (2, 4, 16, 64, 256):
            raise ValueError(f"a table of {list(lut.shape)}")
        return lut[_unpacked(indices, bits, shape).to(torch.int64)]
    if lut.ndim != indices.ndim + 2:
        raise ValueError(f"a table of {list(lut.shape)} for indices of {list(indices.shape)}")
    blocks = _blocks(tuple(indices.shape), tuple(lut.shape[:-2]))
    palette, size = lut.shape[-2:]
    if indices.numel() and int(indices.max()) >= palette:
        raise ValueError(f"the index {int(indices.max())} of a table of {palette}")
    # The number of each block's table, along every axis, and within all tables the row that is looked up.
    table = torch.zeros((), dtype=torch.int64)
    for axis, (count, length) in enumerate(blocks):
        place = torch.arange(count).repeat_interleave(length)
        table = table * count + place.reshape([-1 if other == axis else 1 for other in range(indices.ndim)])
    rows = lut.reshape(-1, size)[table * palette + indices.to(torch.int64)]
    if size == 1:
        return rows[..., 0]
    if vector_axis is None:
        raise ValueError("vectors in the table, and no vector_axis")
    axis = axis_of(vector_axis, indices.ndim)
    return rows.movedim(-1, axis + 1).flatten(axis, axis + 1)


@op(moves=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    present = mask if shape is None else _unpacked(mask, 1, shape)
    return _scattered(nonzero_data, present)


@op(moves=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> Tensors:
    dense = constexpr_lut_to_dense(_scattered(indices_nonzero_data, indices_mask), lut, None, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], axis_of(vector_axis, mask.ndim))
    return mask, dense[mask != 0]


@op()
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensors:
    dense = constexpr_blockwise_shift_scale(_scattered(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


@op(moves=True)
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    if output_dtype != "fp32":
        raise ValueError(f"to {output_dtype!r}")
    return source_val


def _blocks(shape: Ints, parts: Ints) -> list[tuple[int, int]]:
    """For each axis, in how many blocks it is, and the length of one."""
    if len(shape) != len(parts) or any(part == 0 or size % part for size, part in zip(shape, parts, strict=True)):
        raise ValueError(f"{list(shape)} in blocks of {list(parts)}")
    return [(part, size // part) for size, part in zip(shape, parts, strict=True)]


def _scattered(data: Tensor, mask: Tensor) -> Tensor:
    present = mask != 0
    if data.ndim != 1 or int(present.sum()) != len(data):
        raise ValueError(f"{list(data.shape)} numbers for {int(present.sum())} places")
    dense = torch.zeros(mask.shape, dtype=data.dtype)
    dense[present] = data
    return dense


def _unpacked(packed: Tensor, bits: int, shape: Ints) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != (count * bits + 7) // 8:
        raise ValueError(f"{list(packed.shape)} bytes for {count} numbers of {bits} bits")
    dtype = DTYPES["uint8"] if bits == 8 else DTYPES[f"uint{bits}"]
    numbers = packed.numpy() if bits == 8 else unpack(packed.numpy(), dtype, count)
    return torch.from_numpy(numbers).reshape(shape)
