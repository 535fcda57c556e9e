"""One package into a smaller one: constants of the program replaced by operators that make them from fewer bits.

It works on the protobuf and streams the weights: in memory is the program, and of the weights a single tensor (of int8, a piece of
one). The operators are those of MIL's compression.py (iOS 18) and constexpr_ops.py (iOS 16) in coremltools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import UsageError
from modelbake.export.coreml import blob, package
from modelbake.export.coreml.palettes import Floats, Palette, row_quantize

# Tensors of fewer numbers (biases, normalisation) stay as they are: they weigh nothing.
SMALLEST = 4096
# From this many numbers on coremltools keeps a tensor in weight.bin; Core ML reads the smaller from the program.
_SMALLEST_BLOB = 10
_PIECE = 1 << 22
# What reads a constant as a weight, by operator and parameter. A mask or a table of positions that is added is none.
_READERS = {("linear", "weight"), ("conv", "weight"), ("gather", "x"), ("matmul", "y")}

_FLOATS = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class Weight:
    """A constant that an operator reads as a weight; `kind` is float16 or float32."""

    name: str
    shape: tuple[int, ...]
    kind: str
    _reader: blob.Reader
    _offset: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    def matrix(self) -> Floats:
        """All of it, as float32 [shape[0], the rest]."""
        return self._reader.array(self._offset, (self.shape[0], self.size // self.shape[0])).astype(np.float32)

    def pieces(self) -> Iterator[Floats]:
        """Its rows, as float32 [some, the rest], a few million numbers at a time."""
        entry, columns = self._reader.entry(self._offset), self.size // self.shape[0]
        width = np.dtype(_FLOATS[self.kind]).itemsize * columns
        for chunk in self._reader.chunks(entry, max(1, _PIECE // columns) * width):
            yield np.frombuffer(chunk, _FLOATS[self.kind]).reshape(-1, columns).astype(np.float32)


@dataclass(frozen=True)
class Linear8:
    """Keep a weight as int8, each row with a scale: largest magnitude to 127. Any system from iOS 16 on."""


@dataclass(frozen=True)
class Palettized:
    """Keep a weight as this palette, by iOS 18's operator: that of iOS 16 has one palette for a weight, and other parameters."""

    palette: Palette
    bits: int


Form = Linear8 | Palettized


def weights(spec: Any, reader: blob.Reader) -> Iterator[Weight]:
    """The constants worth keeping in fewer bits, in the program's order."""
    used: dict[str, set[tuple[str, str]]] = {}
    for operation in package.operations(spec):
        for parameter, given in operation.inputs.items():
            for binding in given.arguments:
                used.setdefault(binding.name, set()).add((operation.type, parameter))
    for operation in package.operations(spec):
        if operation.type != "const" or not operation.attributes["val"].HasField("blobFileValue"):
            continue
        value, name = operation.attributes["val"], operation.outputs[0].name
        shape = tuple(int(one.constant.size) for one in value.type.tensorType.dimensions)
        weight = Weight(name, shape, reader.entry(value.blobFileValue.offset).kind, reader, value.blobFileValue.offset)
        by = used.get(name, set())
        if weight.kind in _FLOATS and len(shape) > 1 and weight.size >= SMALLEST and by and by <= _READERS:
            yield weight


def rewrite(
    source: Path, target: Path, form: Callable[[Weight], Form | None], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `source`'s program as `target`, each weight as `form` says, or as it was for None.

    UsageError for a palette in a program of a system before iOS 18, and where there are no such
    weights. `metadata` is added to what Xcode shows.
    """
    with package.reading(source) as (spec, reader):
        found = {weight.name: weight for weight in weights(spec, reader)}
        if not found:
            raise UsageError(f"{source}: it has no weights that fewer bits would make smaller; keep it as it is.")
        modern = int(spec.specificationVersion) >= 9

        def fill(spec: Any, writer: blob.Writer) -> None:
            moved: dict[int, int] = {}
            for operation in package.operations(spec):
                name = operation.outputs[0].name if operation.type == "const" else ""
                chosen = form(found[name]) if name in found else None
                if chosen is None:
                    for value in package.blob_values(operation):
                        package.move(value, reader, writer, moved)
                    continue
                if isinstance(chosen, Palettized):
                    if not modern:
                        raise UsageError(f"{source}: palettes need a program for iOS18; convert it with that target.")
                    _palettize(operation, found[name], chosen, writer)
                else:
                    _to_int8(operation, found[name], writer, modern)

        for name, value in (metadata or {}).items():
            spec.description.metadata.userDefined[f"modelbake.{name}"] = value
        package.write(target, spec, fill)


def _to_int8(operation: Any, weight: Weight, writer: blob.Writer, modern: bool) -> None:
    scales: list[Floats] = []

    def pieces() -> Iterator[bytes]:
        for rows in weight.pieces():
            values, of_rows = row_quantize(rows, np.dtype(_FLOATS[weight.kind]))
            scales.append(of_rows)
            yield values.tobytes()

    values = _blob("int8", weight.shape, writer.add("int8", pieces(), weight.size))
    scale = np.concatenate(scales)
    if modern:
        shape = (len(scale),) + (1,) * (len(weight.shape) - 1)
        _become(operation, "constexpr_blockwise_shift_scale")
        _bind(operation, "data", values)
        _bind(operation, "scale", _value(scale.reshape(shape), weight.kind, writer))
    else:
        _become(operation, "constexpr_affine_dequantize")
        operation.attributes["quantized_data"].CopyFrom(values)
        operation.attributes["scale"].CopyFrom(_value(scale, weight.kind, writer))
        operation.attributes["zero_point"].CopyFrom(_value(np.zeros(len(scale)), "int8", writer))
        operation.attributes["axis"].CopyFrom(_value(np.array(0), "int32", writer))


def _palettize(operation: Any, weight: Weight, form: Palettized, writer: blob.Writer) -> None:
    kind = f"uint{form.bits}"
    indices = _blob(kind, weight.shape, writer.add_array(kind, form.palette.indices))
    groups = len(form.palette.luts)
    lut = form.palette.luts.reshape((groups, *(1,) * (len(weight.shape) - 1), 1 << form.bits, 1))
    _become(operation, "constexpr_lut_to_dense")
    _bind(operation, "indices", indices)
    _bind(operation, "lut", _value(lut, weight.kind, writer))


def _become(operation: Any, kind: str) -> None:
    """Another operator of the same name and output; the output's type stays, since the numbers' type does."""
    operation.type = kind
    del operation.attributes["val"]


def _bind(operation: Any, parameter: str, value: Any) -> None:
    operation.inputs[parameter].arguments.add().value.CopyFrom(value)


def _typed(kind: str, shape: tuple[int, ...]) -> Any:
    from coremltools.proto import MIL_pb2

    value = MIL_pb2.Value()
    tensor = value.type.tensorType
    tensor.dataType = getattr(MIL_pb2, kind.upper())
    tensor.rank = len(shape)
    for length in shape:
        tensor.dimensions.add().constant.size = length
    return value


def _blob(kind: str, shape: tuple[int, ...], offset: int) -> Any:
    value = _typed(kind, shape)
    value.blobFileValue.fileName = package.BLOB_NAME
    value.blobFileValue.offset = offset
    return value


def _value(array: NDArray[Any], kind: str, writer: blob.Writer) -> Any:
    """The array as a value: in weight.bin, or in the program where it is small."""
    if array.size >= _SMALLEST_BLOB:
        return _blob(kind, array.shape, writer.add_array(kind, array))
    value = _typed(kind, array.shape)
    immediate = value.immediateValue.tensor
    if kind == "float32":
        immediate.floats.values.extend(array.reshape(-1).tolist())
    elif kind == "int32":
        immediate.ints.values.extend(array.reshape(-1).tolist())
    else:
        immediate.bytes.values = blob.pack(array, kind)
    return value
