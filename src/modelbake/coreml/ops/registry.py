"""Which operations there are: a function of torch tensors for each, whose signature says what MIL's parameters are."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelbake.coreml.dtypes import DTYPES

Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Tensors = tuple[Tensor, ...]

# What an operation may make of a size that stands in the program.
MOST_NUMBERS = 1 << 28
# What each of MIL's types is computed with. torch knows little of unsigned numbers, so they are held by a wider signed type; of
# float16 the values alone are, since sums are then made in float32.
COMPUTE: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "int4": torch.int8,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
}


@dataclass(frozen=True)
class Op:
    """One operation: its function, its parameters (what kind each is, and whether it may be left out).

    `moves`: it gives numbers that it was given, and rounds none.
    """

    name: str
    call: Callable[..., Any]
    kinds: Mapping[str, Any]
    required: frozenset[str]
    moves: bool


OPS: dict[str, Op] = {}


def op(*names: str, moves: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function as the operation of these names, or of its own name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(function)
        kinds, required = {}, set()
        for parameter in inspect.signature(function).parameters.values():
            name = parameter.name
            kind = hints[parameter.name]
            if isinstance(kind, types.UnionType):
                kind = next(one for one in typing.get_args(kind) if one is not type(None))
            kinds[name] = kind
            if parameter.default is inspect.Parameter.empty:
                required.add(name)
        for name in names or (function.__name__.rstrip("_"),):
            OPS[name] = Op(name, function, kinds, frozenset(required), moves)
        return function

    return register


def bounded(numbers: float) -> None:
    """ValueError where an operation would make more numbers of few than any model's: it is asked before memory is taken."""
    if not numbers <= MOST_NUMBERS:
        raise ValueError(f"would make {numbers:g} numbers, which no model needs")


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front; ValueError where there is none such."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def axes_of(axes: Ints, rank: int) -> Ints:
    """The axes counted from the front; ValueError where one is none or comes twice."""
    found = tuple(axis_of(axis, rank) for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"axes {list(axes)} name one twice")
    return found


def floating(*tensors: Tensor) -> None:
    """ValueError unless all are of floating point."""
    if not all(one.is_floating_point() for one in tensors):
        raise ValueError("takes floating-point numbers alone")


def cast_to(x: Tensor, dtype: str) -> Tensor:
    """`x` as MIL's type of that name holds it: towards zero from floating point to integers, as C has it."""
    if dtype not in COMPUTE:
        raise ValueError(f"the type {dtype!r} is not known")
    if dtype == "fp16":
        return x.to(torch.float16).to(torch.float32)
    if dtype == "bool" or COMPUTE[dtype].is_floating_point:
        return x.to(COMPUTE[dtype])
    if x.is_floating_point():
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"infinite or no number where {dtype} is made of it, which Core ML does not define")
        x = x.trunc().to(torch.int64)
    kind = DTYPES[dtype]
    wide = x.to(torch.int64)
    low, high = (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1) if kind.signed else (0, (1 << kind.bits) - 1)
    if wide.numel() and (int(wide.min()) < low or int(wide.max()) > high):
        raise ValueError(f"numbers outside {dtype}, which Core ML does not define")
    return wide.to(COMPUTE[dtype])
