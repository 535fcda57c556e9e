"""A copy of a Core ML package to damage: its Model message, its weights and files; and how a replay of it ends."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.coreml.dtypes import BY_PROTO
from modelbake.coreml.proto import parse_model
from modelbake.coreml.runner import Runner
from modelbake.errors import ModelbakeError

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
# Inputs, and the embeddings that were recorded for them.
Goldens = list[tuple[dict[str, NDArray[Any]], NDArray[Any]]]
GATE = 1e-5


@dataclass(frozen=True)
class Damage:
    """One damage of the packages of `precisions`."""

    what: str
    make: Callable[[Editor], None]
    caught: str = "replay"


def replayed(path: Path, goldens: Goldens) -> str:
    """How a replay ends: `refused: …`, `replay: …` with the greatest difference, or `not seen`."""
    try:
        runner = Runner(path)
        worst = 0.0
        for inputs, wanted in goldens:
            found = runner.run(inputs)["embeddings"]
            # What is no number is no small difference.
            difference = float(np.abs(found - wanted).max())
            worst = max(worst, difference if np.isfinite(difference) else np.inf)
            if worst > GATE:
                return f"replay: {worst:.1e}"
        runner.close()
    except ModelbakeError as error:
        return f"refused: {error}"
    return f"not seen: {worst:.1e}"


class Editor:
    """A copy of a package: its Model message, and its files to write in. The copy is on the disk after `save`."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.path = folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        self.model = folder / MODEL
        self.weights = folder / WEIGHTS
        self.spec = parse_model(self.model.read_bytes(), self.model)

    def save(self) -> None:
        if self.spec is not None and self.model.exists():
            self.model.write_bytes(self.spec.SerializeToString())

    @property
    def block(self) -> Any:
        (block,) = self.spec.mlProgram.functions["main"].block_specializations.values()
        return block

    def operations(self, kind: str) -> list[Any]:
        return [one for one in self.block.operations if one.type == kind]

    def linear(self, layer: int, which: int) -> Any:
        return self.operations("linear")[layer * 6 + which]

    def value(self, operation: Any, key: str) -> Any:
        """The constant that the operation takes there, be it its own, a const's, or within what is compressed."""
        if key in operation.attributes:
            return operation.attributes[key]
        binding = operation.inputs[key].arguments[0]
        if binding.WhichOneof("binding") == "value":
            return binding.value
        maker = next(one for one in self.block.operations if binding.name in [output.name for output in one.outputs])
        return self.value(maker, "val" if maker.type == "const" else ("data" if "data" in maker.inputs else "indices"))

    def maker(self, operation: Any, key: str) -> Any:
        """The operation that makes what the operation takes there."""
        name = operation.inputs[key].arguments[0].name
        return next(one for one in self.block.operations if name in [output.name for output in one.outputs])

    def part(self, layer: int, which: int, key: str) -> Any:
        """What the compressed weight of a linear layer has as its `key`."""
        maker = self.maker(self.linear(layer, which), "weight")
        return maker.attributes[key] if key in maker.attributes else maker.inputs[key].arguments[0].value

    def entry(self, value: Any) -> tuple[int, int, np.dtype[Any]]:
        """Where the data of a blob is in weight.bin, its bytes, and numpy's type of its numbers (bytes where they are fewer bits)."""
        with self.weights.open("rb") as file:
            file.seek(value.blobFileValue.offset)
            _, _, size, start, _ = struct.unpack("<IIQQQ", file.read(32))
        dtype = BY_PROTO[value.type.tensorType.dataType]
        return start, size, dtype.numpy if dtype.bits >= 8 else np.dtype(np.uint8)

    def change(self, value: Any, index: int | slice, function: Callable[[NDArray[Any]], Any]) -> None:
        """Write `function` of some numbers of a blob in their place."""
        start, size, dtype = self.entry(value)
        numbers = np.fromfile(self.weights, dtype, size // dtype.itemsize, offset=start)
        changed = np.asarray(function(numbers[index])).astype(dtype)
        assert not np.array_equal(changed, numbers[index])
        numbers[index] = changed
        with self.weights.open("r+b") as file:
            file.seek(start)
            file.write(numbers.tobytes())

    def number(self, operation: Any, key: str, *numbers: float) -> None:
        """Other numbers in an immediate, of a const of the operation's own."""
        value = type(self.value(operation, key))()
        value.CopyFrom(self.value(operation, key))
        field = getattr(value.immediateValue.tensor, value.immediateValue.tensor.WhichOneof("value")).values
        assert list(field) != list(numbers)
        del field[:]
        field.extend(numbers)
        self.own(operation, key, value)

    def text(self, operation: Any, key: str, text: str) -> None:
        value = type(self.value(operation, key))()
        value.CopyFrom(self.value(operation, key))
        value.immediateValue.tensor.strings.values[0] = text
        self.own(operation, key, value)

    def own(self, operation: Any, key: str, value: Any) -> None:
        """Bind the value to the operation alone, whoever else reads the const."""
        operation.inputs[key].arguments[0].value.CopyFrom(value)

    def bypass(self, operation: Any, key: str = "x") -> None:
        """Take the operation out: who reads it, reads what it took."""
        gone, instead = operation.outputs[0].name, operation.inputs[key].arguments[0].name
        self.block.operations.remove(operation)
        self.rename(gone, instead)

    def rename(self, old: str, new: str) -> None:
        for one in self.block.operations:
            for argument in one.inputs.values():
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name" and binding.name == old:
                        binding.name = new
        for index, name in enumerate(self.block.outputs):
            if name == old:
                self.block.outputs[index] = new

    def swap(self, one: Any, other: Any, key: str) -> None:
        """What two operations take there, each in the other's place."""
        first, second = one.inputs[key].arguments[0], other.inputs[key].arguments[0]
        kept = type(first)()
        kept.CopyFrom(first)
        first.CopyFrom(second)
        second.CopyFrom(kept)

    def overwrite(self, offset: int, data: bytes) -> None:
        with self.weights.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def cut(self, path: Path, left: float) -> None:
        """Cut a file to that part of it."""
        os.truncate(path, int(path.stat().st_size * left))
        if path == self.model:
            self.spec = None
