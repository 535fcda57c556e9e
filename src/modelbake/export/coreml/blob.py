"""weight.bin: the file of tensors beside an ML Program, read and written entry by entry.

The format is MILBlob's storage format (coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp), version 2: a header of 64 bytes
(u32 count, u32 version, zeros), then for each tensor, at a multiple of 64, 64 bytes of metadata (u32 0xDEADBEEF, u32 type, u64 bytes
of data, u64 offset of data, u64 bits of padding, zeros) and, at the next multiple of 64, the data, little-endian. Numbers of fewer
than 8 bits lie one behind the other, lowest bits first; what is left of the last byte is padding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from modelbake.coreml import dtypes
from modelbake.coreml.dtypes import DTYPES
from modelbake.errors import IntegrityError

ALIGNMENT = 64
_HEADER = struct.Struct("<II56x")
_METADATA = struct.Struct("<IIQQQ32x")
_SENTINEL = 0xDEADBEEF
_VERSION = 2

# By MIL.proto's names, in small letters, which two of the runner's own differ from.
_MIL = {"fp16": "float16", "fp32": "float32"}
KINDS = {_MIL.get(name, name): dtype for name, dtype in DTYPES.items() if dtype.blob is not None}
_NAMES = {dtype.blob: name for name, dtype in KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor's place in the file: the name of its kind, where its data begins, bytes of it, bits of padding at its end."""

    kind: str
    start: int
    size: int
    padding: int

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return (self.size * 8 - self.padding) // KINDS[self.kind].bits


def pack(values: NDArray[np.generic], kind: str) -> bytes:
    """The numbers, in C order, as the file has them; those of fewer than 8 bits packed, lowest bits first."""
    known = KINDS[kind]
    flat = np.ascontiguousarray(values).reshape(-1).astype(known.numpy, copy=False)
    if known.bits >= 8:
        return flat.tobytes()
    bits = np.unpackbits(flat.view(np.uint8)[:, None], axis=1, count=known.bits, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def unpack(data: bytes, kind: str, count: int) -> NDArray[np.generic]:
    """The first `count` numbers of `data`; the inverse of `pack`."""
    known = KINDS[kind]
    if known.bits >= 8:
        return np.frombuffer(data, known.numpy, count)
    return dtypes.unpack(np.frombuffer(data, np.uint8), known, count)


class Reader:
    """Tensors of an open weight.bin, each read when it is asked for; IntegrityError where the file does not hold what it says."""

    def __init__(self, file: IO[bytes], name: str | Path) -> None:
        self._file = file
        self._name = name
        head = self._read(0, _HEADER.size)
        if _HEADER.unpack(head)[1] != _VERSION:
            raise self._damaged("it is no weight file of version 2")

    def entry(self, offset: int) -> Entry:
        """The tensor whose metadata lie at `offset`, which is what a program names."""
        sentinel, code, size, start, padding = _METADATA.unpack(self._read(offset, _METADATA.size))
        if sentinel != _SENTINEL or code not in _NAMES or padding >= 8 or padding > size * 8:
            raise self._damaged(f"at {offset} begins no tensor")
        return Entry(_NAMES[code], start, size, padding)

    def array(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """The tensor at `offset`, of this shape; read-only."""
        entry = self.entry(offset)
        count = int(np.prod(shape, dtype=np.int64))
        if entry.count != count:
            raise self._damaged(
                f"the tensor at {offset} holds {entry.count} numbers, not the {count} that the program says"
            )
        return unpack(self._read(entry.start, entry.size), entry.kind, count).reshape(shape)

    def chunks(self, entry: Entry, size: int = 1 << 20) -> Iterable[bytes]:
        """The tensor's data as they lie in the file, in pieces of at most `size` bytes."""
        for start in range(entry.start, entry.start + entry.size, size):
            yield self._read(start, min(size, entry.start + entry.size - start))

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged(f"it ends before byte {start + size}")
        return data

    def _damaged(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self._name}: {reason}; build or fetch the package again.")


class Writer:
    """Writes tensors one after the other to a seekable file, holding none of them; `finish` completes the header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0
        self._end = _HEADER.size
        file.write(bytes(_HEADER.size))

    def add(self, kind: str, chunks: Iterable[bytes], count: int) -> int:
        """Append a tensor of `count` numbers, whose packed data come in pieces; the offset that a program names."""
        bits = count * KINDS[kind].bits
        size = -(-bits // 8)
        offset = self._align()
        start = offset + _METADATA.size
        self._put(_METADATA.pack(_SENTINEL, KINDS[kind].blob, size, start, size * 8 - bits))
        for chunk in chunks:
            self._put(chunk)
        if self._end != start + size:
            raise ValueError(f"{self._end - start} bytes for a tensor of {size}")
        self._count += 1
        return offset

    def add_array(self, kind: str, values: NDArray[np.generic]) -> int:
        """Append an array as `kind`; the offset that a program names."""
        return self.add(kind, [pack(values, kind)], values.size)

    def finish(self) -> None:
        """Pad the file and write the header."""
        self._align()
        self._file.seek(0)
        self._file.write(_HEADER.pack(self._count, _VERSION))
        self._file.seek(self._end)

    def _align(self) -> int:
        self._put(bytes(-self._end % ALIGNMENT))
        return self._end

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._end += len(data)
