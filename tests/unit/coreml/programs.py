"""Programs of a few operations, made by coremltools' builder and run here out of their protobuf and weight.bin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelbake.coreml.constants import Constants, widened
from modelbake.coreml.dtypes import DTYPES
from modelbake.coreml.evaluate import Evaluator
from modelbake.coreml.program import read_function

Array = NDArray[Any]
Build = Callable[..., Any]

IOS15, IOS16, IOS17, IOS18 = 6, 7, 8, 9
NAMES = {"float16": "fp16", "float32": "fp32"}


def name_of(array: Array) -> str:
    """MIL's name of the array's type."""
    return NAMES.get(str(array.dtype), str(array.dtype))


def protobuf(
    build: Build, inputs: Mapping[str, Array], folder: Path, version: int = IOS18, flexible: bool = False
) -> Any:
    """The Program message of `build`, called with coremltools' builder and a variable for each input; no pass has changed it.

    Its weights are in `folder`. `flexible`: no dimension of an input is known to it.
    """
    import coremltools as ct
    from coremltools.converters.mil.backend.mil.load import MILProtoExporter
    from coremltools.converters.mil.mil import Builder, get_new_symbol, types

    kinds = {
        name: Builder.TensorSpec(
            [get_new_symbol() for _ in array.shape] if flexible else list(array.shape),
            dtype=types.string_to_builtin(name_of(array)),
        )
        for name, array in inputs.items()
    }
    names = ", ".join(inputs)
    # The builder looks at the names of the function's parameters.
    scope: dict[str, Any] = {"build": build, "Builder": Builder}
    exec(f"def function({names}): return build(Builder{', ' if names else ''}{names})", scope)
    targets = {IOS15: ct.target.iOS15, IOS16: ct.target.iOS16, IOS17: ct.target.iOS17, IOS18: ct.target.iOS18}
    program = Builder.program(input_specs=list(kinds.values()), opset_version=targets[version])(scope["function"])
    folder.mkdir(exist_ok=True, parents=True)
    exporter = MILProtoExporter(program, str(folder), version)
    message = exporter.export()
    exporter.blob_writers.clear()
    return type(message).FromString(message.SerializeToString())


def run(message: Any, inputs: Mapping[str, Array], folder: Path, keep_bytes: int = 1 << 20) -> list[Array]:
    """The program's outputs in order, each in the type that the program gives it."""
    function = read_function(message, "main", folder / "model.mlmodel")
    constants = Constants(lambda name: folder / name.rpartition("/")[2], keep_bytes)
    given = {name: widened(np.array(array), DTYPES[name_of(array)]) for name, array in inputs.items()}
    found = Evaluator(function, constants, folder / "model.mlmodel").run(given)
    constants.close()
    kinds = {output.name: output.type for operation in function.operations for output in operation.outputs} | dict(
        function.inputs
    )
    return [found[name].numpy().astype(kinds[name].dtype.numpy) for name in function.outputs]


def evaluated(
    build: Build, inputs: Mapping[str, Array], folder: Path, version: int = IOS18, flexible: bool = False
) -> list[Array]:
    """What the program of `build` gives for the inputs."""
    return run(protobuf(build, inputs, folder, version, flexible), inputs, folder)


def inferred(build: Build, inputs: Mapping[str, Array], version: int = IOS18) -> list[Array]:
    """What coremltools itself makes of the same operations, given the inputs as constants."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder

    targets = {IOS15: ct.target.iOS15, IOS16: ct.target.iOS16, IOS17: ct.target.iOS17, IOS18: ct.target.iOS18}
    found: list[Any] = []

    def function() -> Any:
        made = build(Builder, **{name: Builder.const(val=array) for name, array in inputs.items()})
        results = made if isinstance(made, tuple | list) else [made]
        found.extend(one.val if one.val is not None else one.op.materialized_val_inference() for one in results)
        return Builder.const(val=np.float32(0))

    Builder.program(input_specs=[], opset_version=targets[version])(function)
    return [np.asarray(one) for one in found]


def tensor(array: Array) -> torch.Tensor:
    """The array as torch has it."""
    return torch.from_numpy(np.array(array))
