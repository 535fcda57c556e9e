"""weight.bin: MIL's file of large constants, read entry by entry as they are needed.

The format is MILBlob's StorageFormat of apple/coremltools. A header of 64 bytes: u32 count of entries, u32 version 2, zeros. Then
at multiples of 64 each entry: 64 bytes of metadata (u32 0xDEADBEEF, u32 dtype, u64 size of the data in bytes, u64 offset of the
data in the file, u64 bits of padding at the end of the data, zeros) and, from the next multiple of 64, the data. The program names
an entry by its metadata's offset. Little endian.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelbake.coreml.dtypes import Array, Dtype, unpack
from modelbake.errors import IntegrityError

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")


class WeightFile:
    """One weight.bin, open for reading; nothing of it is kept.

    Every fault of the file (cut short, another format, an entry that is not where or what the program says) is an IntegrityError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Never through a link, which could lead out of the package.
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise self._fault(f"cannot be opened ({error.strerror})") from error
        self.size = os.fstat(self._file).st_size
        try:
            head = self._read(0, ALIGNMENT, "header")
            _, version = _HEADER.unpack_from(head.tobytes())
            if version != VERSION:
                raise self._fault(f"is of version {version}, and only {VERSION} is known")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; it cannot be read any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def read(self, offset: int, dtype: Dtype, count: int) -> Array:
        """The `count` numbers of the entry whose metadata is at `offset`, as `dtype.numpy` [count]."""
        start = self.check(offset, dtype, count)
        packed = self._read(start, dtype.bytes_of(count), f"entry at {offset}")
        if dtype.bits < 8:
            return unpack(packed, dtype, count)
        return packed.view(dtype.numpy)

    def read_rows(self, offset: int, dtype: Dtype, shape: tuple[int, int], rows: list[int]) -> Array:
        """Those rows alone of an entry [rows, columns] of which each row is whole bytes, as `dtype.numpy` [len(rows), columns]."""
        start = self.check(offset, dtype, shape[0] * shape[1])
        wide = dtype.bytes_of(shape[1])
        found = np.empty((len(rows), wide), np.uint8)
        for index, row in enumerate(rows):
            found[index] = self._read(start + row * wide, wide, f"entry at {offset}")
        if dtype.bits < 8:
            return unpack(found.reshape(-1), dtype, len(rows) * shape[1]).reshape(len(rows), shape[1])
        return found.view(dtype.numpy)

    def check(self, offset: int, dtype: Dtype, count: int) -> int:
        """Where the data of the entry at `offset` starts, after its metadata was compared with what the program says of it."""
        if offset % ALIGNMENT or not ALIGNMENT <= offset <= self.size - ALIGNMENT:
            raise self._fault(f"has no entry at {offset}, where the program looks for one")
        metadata = self._read(offset, ALIGNMENT, f"metadata at {offset}")
        sentinel, code, size, start, padding = _METADATA.unpack_from(metadata.tobytes())
        if sentinel != SENTINEL:
            raise self._fault(f"has no entry at {offset}, where the program looks for one")
        if code != dtype.blob:
            raise self._fault(
                f"has numbers of another type at {offset} (code {code}) than the program says ({dtype.name})"
            )
        if size != dtype.bytes_of(count):
            raise self._fault(f"has {size} bytes at {offset} where the program says {count} {dtype.name}")
        if padding != size * 8 - count * dtype.bits:
            raise self._fault(
                f"says {padding} bits of padding at {offset} where {count} {dtype.name} leave another number"
            )
        if start % ALIGNMENT or start < offset + ALIGNMENT or start + size > self.size:
            raise self._fault(f"is cut short or damaged: the data of the entry at {offset} would be outside it")
        return int(start)

    def _read(self, offset: int, size: int, what: str) -> NDArray[np.uint8]:
        if offset < 0 or size > self.size - offset:
            raise self._fault(f"is cut short within its {what}")
        data = np.empty(size, np.uint8)
        view = data.data
        done = 0
        while done < size:
            got = os.preadv(self._file, [view[done:]], offset + done)
            if got == 0:
                raise self._fault(f"is cut short within its {what}")
            done += got
        return data

    def _fault(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.path}: this file of weights {reason}; build or copy the bundle again.")
