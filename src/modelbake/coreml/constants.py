"""A program's constants: made of its immediates and weight.bin when they are first needed, and kept as far as a bound allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from modelbake.coreml.dtypes import Array, Dtype
from modelbake.coreml.ops.registry import COMPUTE
from modelbake.coreml.program import Blob, Immediate
from modelbake.coreml.weights import WeightFile


class Constants:
    """The constants of one package; `keep_bytes` bounds those that stay in memory between uses.

    What comes first is kept: runs use constants in the same order each time, so that dropping the oldest would keep nothing of use.
    """

    def __init__(self, place: Callable[[str], Path], keep_bytes: int) -> None:
        self._place = place
        self._files: dict[str, WeightFile] = {}
        self._kept: dict[str, tuple[Tensor, ...]] = {}
        self._left = keep_bytes

    def close(self) -> None:
        """Close the files of weights."""
        for file in self._files.values():
            file.close()

    def file(self, name: str) -> WeightFile:
        """The file of weights that the program calls `name`."""
        if name not in self._files:
            self._files[name] = WeightFile(self._place(name))
        return self._files[name]

    def kept(self, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The tensors of that name, out of memory or of `make`."""
        found = self._kept.get(name)
        if found is None:
            found = make()
            size = sum(one.nbytes for one in found)
            if size <= self._left:
                self._left -= size
                self._kept[name] = found
        return found

    def tensor(self, value: Blob | Immediate) -> Tensor:
        """The constant as torch computes with it."""
        if isinstance(value, Blob):
            shape = [one or 0 for one in value.type.shape or ()]
            return widened(
                self.file(value.file).read(value.offset, value.type.dtype, value.count), value.type.dtype
            ).reshape(shape)
        assert value.type is not None
        assert not isinstance(value.value, str)
        return widened(value.value, value.type.dtype)

    def rows(self, blob: Blob, rows: list[int]) -> Tensor:
        """Those rows of a constant [rows, columns], read alone."""
        height, width = blob.type.shape or (0, 0)
        file = self.file(blob.file)
        return widened(file.read_rows(blob.offset, blob.type.dtype, (height or 0, width or 0), rows), blob.type.dtype)


def widened(numbers: Array, dtype: Dtype) -> Tensor:
    """An array in the type of a file as a tensor of the type that is computed with."""
    if dtype.name == "uint16":
        numbers = numbers.astype("<i4")
    elif dtype.name == "uint32":
        numbers = numbers.astype("<i8")
    with warnings.catch_warnings():
        # An immediate is a view of the program's bytes, and nothing writes to it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(numbers).to(COMPUTE[dtype.name])
