"""Evaluates one function of an ML Program: every operation in order, each result checked against the type that the program gives it.

Arithmetic: tensors of float32 are computed in float32. Of float16, each operation computes in float32 and what it gives is rounded to
float16, to the nearest: as if Core ML stored float16 between operations and summed in float32. Apple's processors may sum otherwise,
fuse operations, or keep more bits; figures of this evaluation are of the program, not of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelbake.coreml.constants import Constants
from modelbake.coreml.ops import OPS, Op
from modelbake.coreml.ops.registry import COMPUTE, Bools, Ints, Tensors
from modelbake.coreml.program import Blob, Function, Immediate, Name, Operation, Output, Value
from modelbake.coreml.tables import gathered, table_of
from modelbake.errors import IntegrityError, MachineError

_ONE = (Tensor, int, float, bool, str)
# Of constants made of constants: the indices, scales and palettes of a weight are three.
DEEPEST = 16
# The operations that count negative indices from the end: those of later sets leave them undefined.
_FROM_THE_END = ("CoreML5", "CoreML6")


@dataclass(frozen=True)
class _Step:
    operation: Operation
    op: Op
    # Names of intermediate tensors that nothing reads after this operation.
    last: tuple[str, ...]


class Evaluator:
    """The function, ready to run: all its operations known, and every parameter of each.

    IntegrityError, with all their names, where operations or parameters are not known here.
    """

    def __init__(self, function: Function, constants: Constants, where: Path, rounded: bool = True) -> None:
        self._function = function
        self._constants = constants
        self._where = where
        self._rounded = rounded
        self._check()
        self._makers = {output.name: one for one in function.operations if one.constant for output in one.outputs}
        self._steps = self._plan()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The function's outputs by name; `inputs` are of the types that COMPUTE says, one for each of its inputs."""
        values: dict[str, Tensor] = dict(inputs)
        with torch.inference_mode():
            for step in self._steps:
                results = self._result(step.operation, step.op, values)
                for output, result in zip(step.operation.outputs, results, strict=True):
                    values[output.name] = result
                for name in step.last:
                    del values[name]
            return {name: self._tensor(Name(name), values) for name in self._function.outputs}

    def _check(self) -> None:
        unknown = sorted({one.type for one in self._function.operations if one.type != "const" and one.type not in OPS})
        if unknown:
            first = next(one for one in self._function.operations if one.type == unknown[0])
            raise self._fault(
                f"operations that this runner does not know: {', '.join(unknown)} (first {first.name!r});"
                " convert without them, or add them to modelbake.coreml.ops"
            )
        for operation in self._function.operations:
            if operation.type == "const":
                value = operation.inputs.get("val", ())
                if len(value) != 1 or isinstance(value[0], Name) or len(operation.outputs) != 1:
                    raise self._fault(f"{operation} is no constant of one value")
                continue
            op = OPS[operation.type]
            for key, bound in operation.inputs.items():
                if key not in op.kinds:
                    raise self._fault(f"{operation} has a parameter {key!r} that this runner does not know")
                if len(bound) != 1 and op.kinds[key] != Tensors:
                    raise self._fault(f"{operation} has {len(bound)} values for {key!r}")
            missing = sorted(op.required - set(operation.inputs))
            if missing:
                raise self._fault(f"{operation} lacks its parameter {missing[0]!r}")
        self._check_depth()

    def _check_depth(self) -> None:
        """Constants are made by recursion, a compressed one of others before it."""
        depths: dict[str, int] = {}
        for operation in self._function.operations:
            if operation.constant:
                names = (one.name for values in operation.inputs.values() for one in values if isinstance(one, Name))
                depth = 1 + max((depths.get(name, 0) for name in names), default=0)
                if depth > DEEPEST:
                    raise self._fault(f"{operation} is a constant of constants of constants, {depth} deep")
                depths |= dict.fromkeys((output.name for output in operation.outputs), depth)

    def _plan(self) -> tuple[_Step, ...]:
        running = [one for one in self._function.operations if not one.constant]
        reads = [self._reads(one) for one in running]
        kept = set(self._function.outputs)
        steps = []
        for index in range(len(running) - 1, -1, -1):
            gone = (reads[index] | {output.name for output in running[index].outputs}) - kept
            kept |= gone
            steps.append(_Step(running[index], OPS[running[index].type], tuple(sorted(gone))))
        return tuple(reversed(steps))

    def _reads(self, operation: Operation) -> set[str]:
        names = {one.name for values in operation.inputs.values() for one in values if isinstance(one, Name)}
        return names - self._makers.keys()

    def _result(self, operation: Operation, op: Op, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        table = table_of(operation, self._makers)
        if table is None:
            arguments = {
                key: self._argument(operation, key, op.kinds[key], bound, values)
                for key, bound in operation.inputs.items()
            }
        else:
            indices = self._tensor(operation.inputs["indices"][0], values)
        if operation.type.startswith("gather") and self._function.opset not in _FROM_THE_END:
            found = indices if table is not None else arguments["indices"]
            if found.numel() and int(found.min()) < 0:
                raise self._fault(
                    f"{operation} takes the index {int(found.min())}, which {self._function.opset} leaves undefined"
                )
        try:
            result = op.call(**arguments) if table is None else gathered(table, indices, self._constants)
        except MemoryError as error:
            raise self._too_large(operation) from error
        except (ValueError, RuntimeError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
            if "allocate memory" in str(error):
                raise self._too_large(operation) from error
            raise self._fault(f"{operation}: {(str(error) or repr(error)).splitlines()[0]}") from error
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(operation.outputs):
            raise self._fault(
                f"{operation} gives {len(results)} results where the program has {len(operation.outputs)}"
            )
        # Rows that were just made whole are not rounded yet.
        exact = op.moves and (table is None or "val" in table)
        return tuple(
            self._stored(operation, output, one, exact) for output, one in zip(operation.outputs, results, strict=True)
        )

    def _stored(self, operation: Operation, output: Output, result: Tensor, exact: bool) -> Tensor:
        """The result as a tensor of the output's type holds it."""
        if result.dtype != COMPUTE[output.type.dtype.name] or not output.type.fits(tuple(result.shape)):
            given = f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
            raise self._fault(f"{operation} gives {given} where the program says {output.type}")
        if output.type.dtype.name == "fp16" and self._rounded and not exact:
            return result.to(torch.float16).to(torch.float32)
        return result

    def _argument(
        self, operation: Operation, key: str, kind: Any, bound: tuple[Value, ...], values: Mapping[str, Tensor]
    ) -> Any:
        if kind == Tensors:
            return tuple(self._tensor(one, values) for one in bound)
        if kind is str:
            return self._text(operation, key, bound[0])
        tensor = self._tensor(bound[0], values)
        if kind is Tensor:
            return tensor
        if kind in (Ints, Bools):
            if tensor.ndim > 1 or tensor.is_floating_point() or (kind is Bools) != (tensor.dtype == torch.bool):
                raise self._fault(f"{operation} has {key!r} of {tensor.dtype} {list(tensor.shape)}")
            return tuple(tensor.reshape(-1).tolist())
        if (
            tensor.numel() != 1
            or (kind is bool) != (tensor.dtype == torch.bool)
            or (kind is int and tensor.is_floating_point())
        ):
            raise self._fault(f"{operation} has {key!r} of {tensor.dtype} {list(tensor.shape)}")
        return tensor.item()

    def _text(self, operation: Operation, key: str, value: Value) -> str:
        while isinstance(value, Name) and value.name in self._makers and self._makers[value.name].type == "const":
            value = self._makers[value.name].inputs["val"][0]
        if isinstance(value, Immediate) and isinstance(value.value, str):
            return value.value
        raise self._fault(f"{operation} has {key!r} that is no text")

    def _tensor(self, value: Value, values: Mapping[str, Tensor]) -> Tensor:
        if isinstance(value, Name):
            maker = self._makers.get(value.name)
            return values[value.name] if maker is None else self._constant(maker, value.name)
        if isinstance(value, Immediate) and isinstance(value.value, str):
            raise self._fault("a text stands where a tensor is taken")
        return self._constants.tensor(value)

    def _constant(self, operation: Operation, name: str) -> Tensor:
        made = self._constants.kept(operation.outputs[0].name, lambda: self._made(operation))
        return made[[output.name for output in operation.outputs].index(name)]

    def _made(self, operation: Operation) -> tuple[Tensor, ...]:
        if operation.type != "const":
            for bound in operation.inputs.values():
                for one in bound:
                    if isinstance(one, Name) and one.name not in self._makers:
                        raise self._fault(f"{operation} takes {one.name!r}, which is no constant")
            return self._result(operation, OPS[operation.type], {})
        value = operation.inputs["val"][0]
        assert isinstance(value, Blob | Immediate)
        if isinstance(value, Immediate) and isinstance(value.value, str):
            raise self._fault(f"{operation} is a text where a tensor is taken")
        return (self._stored(operation, operation.outputs[0], self._constants.tensor(value), True),)

    def _too_large(self, operation: Operation) -> MachineError:
        return MachineError(f"{self._where}: {operation} needs more memory than there is; run it on a larger machine.")

    def _fault(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self._where}: {reason}; build or copy the bundle again.")
