"""An ML Program out of its protobuf: functions, operations and constants as plain data, with every reference checked.

The format is MIL.proto of apple/coremltools (mlmodel/format). What is read here is what a program of tensors needs: values of other
kinds (dictionaries, tuples, states) and operations with blocks of their own (loops, branches) are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelbake.coreml.dtypes import BY_PROTO, STRING, Array, Dtype, unpack
from modelbake.errors import IntegrityError

# No tensor of a real model has more, and a damaged length asks for no memory.
MAX_NUMBERS = 1 << 40
MAX_RANK = 16


@dataclass(frozen=True)
class TensorType:
    """A tensor's type: its numbers' type and its dimensions, None where they are known at run time only; `shape` None: any rank."""

    dtype: Dtype
    shape: tuple[int | None, ...] | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that very shape is of this type."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            b is None or a == b for a, b in zip(shape, self.shape, strict=True)
        )

    def __str__(self) -> str:
        shape = "any rank" if self.shape is None else ", ".join("?" if one is None else str(one) for one in self.shape)
        return f"{self.dtype.name} [{shape}]"


@dataclass(frozen=True)
class Name:
    """A reference to an output of an earlier operation, or to an input of the function."""

    name: str


@dataclass(frozen=True)
class Blob:
    """A constant in a file of weights: the entry's offset in the file of that name (within the model's folder)."""

    type: TensorType
    file: str
    offset: int

    @property
    def count(self) -> int:
        return math.prod(one or 0 for one in self.type.shape or ())


@dataclass(frozen=True)
class Immediate:
    """A constant within the program: an array in its dtype's numpy type, or a text."""

    type: TensorType | None
    value: Array | str


Value = Name | Blob | Immediate


@dataclass(frozen=True)
class Output:
    """One result of an operation."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Operation:
    """One operation: its type, its own name, what it takes by parameter (attributes among them), what it gives."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Value, ...]]
    outputs: tuple[Output, ...]

    @property
    def constant(self) -> bool:
        """Whether it gives the same at every run: a constant, or one in a compressed form."""
        return self.type == "const" or self.type.startswith("constexpr_")

    def __str__(self) -> str:
        return f"operation {self.name!r} ({self.type})"


@dataclass(frozen=True)
class Function:
    """One function: its inputs' types by name, its operations in order, the names of its outputs."""

    name: str
    opset: str
    inputs: Mapping[str, TensorType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_function(program: Any, name: str, where: Path) -> Function:
    """The function of the Program message `program`; IntegrityError where it lacks it, or it is not sound.

    Sound: every name is given once, before it is used; every constant has as many numbers as its type says.
    """
    return _Reader(where).function(program, name)


class _Reader:
    def __init__(self, where: Path) -> None:
        self._where = where

    def fault(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self._where}: {reason}; build or copy the bundle again.")

    def function(self, program: Any, name: str) -> Function:
        if name not in program.functions:
            raise self.fault(
                f"the program has no function {name!r}, but {', '.join(sorted(program.functions)) or 'none'}"
            )
        function = program.functions[name]
        if function.opset not in function.block_specializations:
            raise self.fault(f"function {name!r} has no block for its opset {function.opset!r}")
        block = function.block_specializations[function.opset]
        inputs: dict[str, TensorType] = {}
        for one in function.inputs:
            if one.name in inputs:
                raise self.fault(f"function {name!r} has two inputs {one.name!r}")
            inputs[one.name] = self.tensor_type(one.type, f"input {one.name!r}")
        known = set(inputs)
        operations = []
        for message in block.operations:
            operation = self.operation(message)
            for value in _values(operation):
                if isinstance(value, Name) and value.name not in known:
                    raise self.fault(f"{operation} takes {value.name!r}, which nothing before it gives")
            for output in operation.outputs:
                if output.name in known:
                    raise self.fault(f"{operation} gives {output.name!r}, which is given already")
                known.add(output.name)
            operations.append(operation)
        outputs = tuple(block.outputs)
        for one in outputs:
            if one not in known:
                raise self.fault(f"function {name!r} gives {one!r}, which no operation makes")
        return Function(name, function.opset, inputs, tuple(operations), outputs)

    def operation(self, message: Any) -> Operation:
        attributes = dict(message.attributes)
        label = attributes.pop("name", None)
        name = message.outputs[0].name if message.outputs else message.type
        if label is not None:
            text = self.immediate(label, f"the name of an operation {message.type!r}").value
            name = text if isinstance(text, str) else name
        what = f"operation {name!r} ({message.type})"
        if len(message.blocks):
            raise self.fault(f"{what} has blocks of its own, and this runner knows no loops and branches")
        inputs: dict[str, tuple[Value, ...]] = {
            key: (self.value(value, f"{key!r} of {what}"),) for key, value in attributes.items()
        }
        for key, argument in message.inputs.items():
            if key in inputs:
                raise self.fault(f"{what} has {key!r} twice")
            inputs[key] = tuple(self.binding(one, f"{key!r} of {what}") for one in argument.arguments)
        outputs = []
        for one in message.outputs:
            is_text = one.type.WhichOneof("type") == "tensorType" and one.type.tensorType.dataType == STRING
            # A text is a constant's alone, and its type says nothing.
            if is_text and message.type == "const":
                outputs.append(Output(one.name, TensorType(BY_PROTO[1], None)))
            else:
                outputs.append(Output(one.name, self.tensor_type(one.type, f"output {one.name!r} of {what}")))
        return Operation(message.type, name, inputs, tuple(outputs))

    def binding(self, message: Any, what: str) -> Value:
        kind = message.WhichOneof("binding")
        if kind == "name":
            return Name(message.name)
        if kind == "value":
            return self.value(message.value, what)
        raise self.fault(f"{what} is bound to nothing")

    def value(self, message: Any, what: str) -> Value:
        if message.WhichOneof("value") == "blobFileValue":
            kind = self.tensor_type(message.type, what)
            if kind.shape is None or None in kind.shape:
                raise self.fault(f"{what} is a constant without a shape of its own")
            blob = Blob(kind, message.blobFileValue.fileName, message.blobFileValue.offset)
            self.check_count(blob.count, what)
            return blob
        return self.immediate(message, what)

    def immediate(self, message: Any, what: str) -> Immediate:
        if message.WhichOneof("value") != "immediateValue" or message.immediateValue.WhichOneof("value") != "tensor":
            raise self.fault(f"{what} is no tensor, and this runner knows no other constants")
        tensor = message.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if message.type.WhichOneof("type") == "tensorType" and message.type.tensorType.dataType == STRING:
            if field != "strings" or len(tensor.strings.values) != 1:
                raise self.fault(f"{what} is not one text")
            return Immediate(None, str(tensor.strings.values[0]))
        kind = self.tensor_type(message.type, what)
        if kind.shape is None or None in kind.shape:
            raise self.fault(f"{what} is a constant without a shape of its own")
        count = math.prod(one or 0 for one in kind.shape)
        self.check_count(count, what)
        dtype = kind.dtype
        if field == "bytes":
            data = np.frombuffer(tensor.bytes.values, np.uint8)
            if len(data) != dtype.bytes_of(count):
                raise self.fault(f"{what} has {len(data)} bytes where {kind} takes {dtype.bytes_of(count)}")
            numbers: Array = unpack(data, dtype, count) if dtype.bits < 8 else data.view(dtype.numpy)
        elif field is None and count == 0:
            numbers = np.empty(0, dtype.numpy)
        elif field in ("floats", "doubles", "ints", "longInts", "bools"):
            values = getattr(tensor, field).values
            if len(values) != count:
                raise self.fault(f"{what} has {len(values)} numbers where its type is {kind}")
            wide: Array = np.array(
                values, {"floats": np.float32, "doubles": np.float64, "bools": np.bool_}.get(field, np.int64)
            )
            numbers = wide.astype(dtype.numpy)
            if not np.array_equal(numbers, wide, equal_nan=wide.dtype.kind == "f"):
                raise self.fault(f"{what} has numbers that {dtype.name} cannot hold")
        else:
            raise self.fault(f"{what} is of a kind ({field}) that does not fit its type {kind}")
        return Immediate(kind, numbers.reshape([one or 0 for one in kind.shape]))

    def tensor_type(self, message: Any, what: str) -> TensorType:
        kind = message.WhichOneof("type")
        if kind != "tensorType":
            raise self.fault(f"{what} is of the type {kind or 'nothing'}, and this runner knows tensors alone")
        tensor = message.tensorType
        dtype = BY_PROTO.get(tensor.dataType)
        if dtype is None:
            raise self.fault(f"{what} is of the unknown type of numbers {tensor.dataType}")
        shape: list[int | None] = []
        for dimension in tensor.dimensions:
            if dimension.WhichOneof("dimension") == "constant":
                shape.append(int(dimension.constant.size))
            elif dimension.unknown.variadic:
                return TensorType(dtype, None)
            else:
                shape.append(None)
        if len(shape) > MAX_RANK or any((size or 0) > MAX_NUMBERS for size in shape):
            raise self.fault(f"{what} has a shape of {len(shape)} dimensions or more numbers than any model has")
        if tensor.rank >= 0 and tensor.rank != len(shape):
            raise self.fault(f"{what} is of rank {tensor.rank} and has {len(shape)} dimensions")
        return TensorType(dtype, tuple(shape))

    def check_count(self, count: int, what: str) -> None:
        if count > MAX_NUMBERS:
            raise self.fault(f"{what} has {count} numbers, which no model has")


def _values(operation: Operation) -> Iterator[Value]:
    for values in operation.inputs.values():
        yield from values
