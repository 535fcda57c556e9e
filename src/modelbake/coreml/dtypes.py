"""MIL's types of numbers: how each is named, kept in a file, held by numpy, and computed with.

Names are those of MIL's `cast`. Codes: `proto` is MIL.proto's DataType, `blob` is the number in weight.bin's metadata
(mlmodel/src/MILBlob/Blob/BlobDataType.hpp of apple/coremltools).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Dtype:
    """One type: its name, the two codes (blob None: never in weight.bin), bits of one number, and numpy's type that holds it."""

    name: str
    proto: int
    blob: int | None
    bits: int
    numpy: np.dtype[Any]

    @property
    def signed(self) -> bool:
        return not self.name.startswith(("uint", "bool"))

    def bytes_of(self, count: int) -> int:
        """How many bytes `count` numbers take, packed as in a file."""
        return (count * self.bits + 7) // 8


def _dtype(name: str, proto: int, blob: int | None, bits: int, numpy: Any) -> Dtype:
    return Dtype(name, proto, blob, bits, np.dtype(numpy))


DTYPES = {
    one.name: one
    for one in (
        _dtype("bool", 1, None, 8, np.bool_),
        _dtype("fp16", 10, 1, 16, "<f2"),
        _dtype("fp32", 11, 2, 32, "<f4"),
        _dtype("int8", 21, 4, 8, np.int8),
        _dtype("int16", 22, 6, 16, "<i2"),
        _dtype("int32", 23, 14, 32, "<i4"),
        _dtype("int64", 24, None, 64, "<i8"),
        _dtype("int4", 25, 8, 4, np.int8),
        _dtype("uint8", 31, 3, 8, np.uint8),
        _dtype("uint16", 32, 7, 16, "<u2"),
        _dtype("uint32", 33, 15, 32, "<u4"),
        _dtype("uint4", 35, 11, 4, np.uint8),
        _dtype("uint2", 36, 10, 2, np.uint8),
        _dtype("uint1", 37, 9, 1, np.uint8),
        _dtype("uint6", 38, 13, 6, np.uint8),
        _dtype("uint3", 39, 12, 3, np.uint8),
    )
}
BY_PROTO = {one.proto: one for one in DTYPES.values()}
STRING = 2


def unpack(packed: NDArray[np.uint8], dtype: Dtype, count: int) -> Array:
    """`count` numbers of less than eight bits each, out of bytes that hold them from the lowest bit on, one after the other."""
    if dtype.bits in (1, 2, 4):
        # Whole numbers in each byte.
        each = 8 // dtype.bits
        shifts = (np.arange(each, dtype=np.uint8) * dtype.bits).astype(np.uint8)
        numbers = ((packed[:, None] >> shifts) & np.uint8((1 << dtype.bits) - 1)).reshape(-1)[:count]
    else:
        # Three or six bits: eight numbers fill `bits` bytes.
        groups = -(-len(packed) // dtype.bits)
        padded = np.zeros(groups * dtype.bits, np.uint8)
        padded[: len(packed)] = packed
        bits = np.unpackbits(padded.reshape(groups, dtype.bits), axis=1, bitorder="little").reshape(
            groups * 8, dtype.bits
        )
        numbers = np.packbits(bits, axis=1, bitorder="little").reshape(-1)[:count]
    if dtype.signed:
        half = 1 << (dtype.bits - 1)
        return ((numbers ^ half).astype(np.int8) - np.int8(half)).astype(np.int8)
    return numbers
