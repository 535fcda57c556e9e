"""What an ONNX file holds: its operators, parameters and signature, read from the file's own bytes without loading weights.

The file is a protocol buffer (protobuf.dev, "Encoding") of the messages in onnx.proto3 (ONNX 1.23); the numbers below are that
file's field numbers. So neither onnx nor protobuf is needed, and gigabytes of weights inside a file are stepped over, not read.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from modelbake.errors import IntegrityError

# TensorProto.DataType: name, and bits per element (0 for those without a fixed length).
_DTYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4),
}  # fmt: skip

# Subgraphs hold subgraphs; no real model nests them deeper.
_DEEPEST = 16

_MOST_ELEMENTS = 2**48

# A field of a message: its number, and a number (wire types 0, 1, 5) or where its bytes stand (wire type 2).
_Field = tuple[int, int | tuple[int, int]]


class Signature(Struct, frozen=True):
    """One input or output: a dimension is a number, or a name where it is free ("?" where it has none)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Graph(Struct, frozen=True):
    """An ONNX file's facts.

    `opsets` by domain ("" is ONNX's own); `operators` counts the nodes by type, those of subgraphs and functions included, with
    the domain before the type where it is not ONNX's own; `parameters` counts the elements of the graph's stored tensors
    (initializers), whose bytes are `weight_bytes`; `constants` those of its Constant nodes; `external_data` names the files beside
    this one that hold some of them. Sizes in bytes.
    """

    size: int
    ir_version: int
    producer: str
    opsets: dict[str, int]
    nodes: int
    operators: dict[str, int]
    parameters: int
    parameters_by_dtype: dict[str, int]
    weight_bytes: int
    constants: int
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    external_data: tuple[str, ...]
    metadata: dict[str, str]


def read_graph(path: Path) -> Graph:
    """The facts of the ONNX file at `path`; IntegrityError where it is none, OSError where it cannot be read."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise IntegrityError(f"{path} is empty, so it is no ONNX graph.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).model()
            except (ValueError, RecursionError) as error:
                raise IntegrityError(f"{path} is no ONNX graph ({error}); build or copy it again.") from error


class _Reader:
    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._operators: Counter[str] = Counter()
        self._parameters: Counter[str] = Counter()
        self._bytes = 0
        self._constants = 0
        self._external: set[str] = set()

    def model(self) -> Graph:
        ir_version, producer = 0, ""
        opsets: dict[str, int] = {}
        metadata: dict[str, str] = {}
        signature: tuple[tuple[Signature, ...], tuple[Signature, ...]] | None = None
        for number, value in self._fields(0, len(self._data)):
            if number == 1:
                ir_version = _number(value)
            elif number == 2:
                producer = self._text(value)
            elif number == 8:
                domain, version = self._opset(value)
                opsets[domain] = version
            elif number == 14:
                key, text = self._entry(value)
                metadata[key] = text
            elif number == 7:
                signature = self._graph(value, 0)
            elif number == 25:
                self._nodes(value, 7, 0)
        if signature is None or not opsets:
            raise ValueError("it has no graph or no opset")
        return Graph(
            size=len(self._data),
            ir_version=ir_version,
            producer=producer,
            opsets=dict(sorted(opsets.items())),
            nodes=self._operators.total(),
            operators=dict(sorted(self._operators.items(), key=lambda item: (-item[1], item[0]))),
            parameters=self._parameters.total(),
            parameters_by_dtype=dict(sorted(self._parameters.items())),
            weight_bytes=self._bytes,
            constants=self._constants,
            inputs=signature[0],
            outputs=signature[1],
            external_data=tuple(sorted(self._external)),
            metadata=metadata,
        )

    def _graph(self, span: Any, depth: int) -> tuple[tuple[Signature, ...], tuple[Signature, ...]]:
        if depth > _DEEPEST:
            raise ValueError("its subgraphs are nested too deep")
        inputs, outputs, stored = [], [], set()
        for number, value in self._fields(*_span(span)):
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                stored.add(self._tensor(value, stored=True))
            elif number == 11:
                inputs.append(self._value(value))
            elif number == 12:
                outputs.append(self._value(value))
        # Old graphs list what is stored among the inputs too.
        return tuple(one for one in inputs if one.name not in stored), tuple(outputs)

    def _nodes(self, span: Any, field: int, depth: int) -> None:
        for number, value in self._fields(*_span(span)):
            if number == field:
                self._node(value, depth)

    def _node(self, span: Any, depth: int) -> None:
        operator = domain = ""
        for number, value in self._fields(*_span(span)):
            if number == 4:
                operator = self._text(value)
            elif number == 7:
                domain = self._text(value)
            elif number == 5:
                self._attribute(value, depth)
        self._operators[operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"] += 1

    def _attribute(self, span: Any, depth: int) -> None:
        """A constant's tensor (5, 10) and the subgraphs of If, Loop and Scan (6, 11)."""
        for number, value in self._fields(*_span(span)):
            if number in (5, 10):
                self._tensor(value, stored=False)
            elif number in (6, 11):
                self._graph(value, depth + 1)

    def _tensor(self, span: Any, *, stored: bool) -> str:
        elements, dtype, name = 1, 0, ""
        for number, value in self._fields(*_span(span)):
            if number == 1:
                for size in self._numbers(value):
                    elements *= size
                if elements > _MOST_ELEMENTS:
                    raise ValueError("a tensor's shape makes no sense")
            elif number == 2:
                dtype = _number(value)
            elif number == 8:
                name = self._text(value)
            elif number == 13:
                key, text = self._entry(value)
                if key == "location":
                    self._external.add(text)
        kind, bits = _DTYPES.get(dtype, (f"type {dtype}", 0))
        if stored:
            self._parameters[kind] += elements
            self._bytes += -(-elements * bits // 8)
        else:
            self._constants += elements
        return name

    def _value(self, span: Any) -> Signature:
        name, kind = "", ""
        shape: tuple[int | str, ...] = ()
        for number, value in self._fields(*_span(span)):
            if number == 1:
                name = self._text(value)
            elif number == 2:
                kind, shape = self._type(value)
        return Signature(name, kind, shape)

    def _type(self, span: Any) -> tuple[str, tuple[int | str, ...]]:
        for number, value in self._fields(*_span(span)):
            if number == 1:
                kind, shape = "", []
                for inner, found in self._fields(*_span(value)):
                    if inner == 1:
                        kind = _DTYPES.get(_number(found), (f"type {found}", 0))[0]
                    elif inner == 2:
                        shape = [self._dimension(dim) for at, dim in self._fields(*_span(found)) if at == 1]
                return kind, tuple(shape)
        return "no tensor", ()

    def _dimension(self, span: Any) -> int | str:
        found: int | str = "?"
        for number, value in self._fields(*_span(span)):
            if number == 1:
                found = _number(value)
            elif number == 2:
                found = self._text(value) or "?"
        return found

    def _opset(self, span: Any) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self._fields(*_span(span)):
            if number == 1:
                domain = self._text(value)
            elif number == 2:
                version = _number(value)
        return "" if domain == "ai.onnx" else domain, version

    def _entry(self, span: Any) -> tuple[str, str]:
        found = {number: self._text(value) for number, value in self._fields(*_span(span)) if number in (1, 2)}
        return found.get(1, ""), found.get(2, "")

    def _text(self, span: Any) -> str:
        start, end = _span(span)
        return self._data[start:end].decode()

    def _numbers(self, value: int | tuple[int, int]) -> Iterator[int]:
        """A repeated number, packed or one by one."""
        if isinstance(value, int):
            yield value
            return
        at, end = value
        while at < end:
            number, at = self._varint(at, end)
            yield number

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        while at < end:
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = self._varint(at, end)
                yield number, value
            elif wire == 2:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise ValueError("a field is longer than what holds it")
                yield number, (at, at + length)
                at += length
            elif wire in (1, 5):
                width = 8 if wire == 1 else 4
                if width > end - at:
                    raise ValueError("a field is longer than what holds it")
                yield number, int.from_bytes(self._data[at : at + width], "little")
                at += width
            else:
                raise ValueError(f"it has a field of the wire type {wire}")
            if number == 0:
                raise ValueError("it has a field with the number 0")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise ValueError("it ends in the middle of a number")
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (2**64 - 1), at
        raise ValueError("it has a number of more than 64 bits")


def _number(value: int | tuple[int, int]) -> int:
    if not isinstance(value, int):
        raise ValueError("a field holds bytes where a number belongs")
    return value


def _span(value: Any) -> tuple[int, int]:
    if not isinstance(value, tuple):
        raise ValueError("a field holds a number where a message belongs")
    return value
