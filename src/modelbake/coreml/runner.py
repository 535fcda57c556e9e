"""A saved .mlpackage run without Apple's runtime: the package itself, out of its protobuf and weights, as an app would call it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelbake.coreml.constants import Constants
from modelbake.coreml.evaluate import Evaluator
from modelbake.coreml.ops.registry import COMPUTE
from modelbake.coreml.package import Feature, Package, open_package
from modelbake.coreml.program import TensorType, read_function
from modelbake.errors import IntegrityError

KEEP_BYTES = 512 << 20
_NAMES = {"float16": "fp16", "float32": "fp32", "int8": "int8", "int32": "int32"}


class Runner:
    """The function of the package at `path`, with the face of runtime.session.Session; not for several threads at once.

    `rounded`: what a float16 program computes is rounded to float16 after each operation, as it is kept there; without, all is float32,
    so that another processor's order of sums shows in the last bits alone, and not in roundings that flip.

    `keep_bytes` bounds the constants, in the form in which they are computed with, that stay in memory between runs: the rest is
    read again, and made whole again, each time. IntegrityError where the package is not sound or needs what is not known here.
    """

    def __init__(self, path: Path, keep_bytes: int = KEEP_BYTES, rounded: bool = True) -> None:
        self.package: Package = open_package(path)
        program = read_function(self.package.spec.mlProgram, self.package.function, self.package.model)
        self._types = dict(program.inputs)
        given = {one.name: one.type for operation in program.operations for one in operation.outputs}
        self._check_interface({name: (given | self._types)[name] for name in program.outputs})
        self._constants = Constants(self.package.weight_file, keep_bytes)
        self._evaluator = Evaluator(program, self._constants, self.package.model, rounded)
        self.input_names = tuple(one.name for one in self.package.inputs)
        self.output_names = tuple(one.name for one in self.package.outputs)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """All outputs by name, for one array per input, of the dtype and a shape that the package declares.

        IntegrityError where the inputs are others, or the program fails on them.
        """
        if set(inputs) != set(self.input_names):
            raise self._fault(
                f"takes {', '.join(self.input_names)}, and was given {', '.join(sorted(inputs)) or 'nothing'}"
            )
        tensors = {}
        for feature in self.package.inputs:
            array = np.asarray(inputs[feature.name])
            if array.dtype != np.dtype(feature.dtype) or not feature.takes(array.shape):
                given = f"{array.dtype} {list(array.shape)}"
                raise self._fault(f"takes {feature.name} of {feature.dtype} {feature.shown()}, and was given {given}")
            tensors[feature.name] = torch.from_numpy(np.array(array)).to(COMPUTE[self._types[feature.name].dtype.name])
        results = self._evaluator.run(tensors)
        found: dict[str, NDArray[np.generic]] = {}
        for feature in self.package.outputs:
            array = results[feature.name].contiguous().numpy().astype(feature.dtype)
            if feature.shape and not feature.shapes and not feature.ranges and array.shape != feature.shape:
                raise self._fault(f"gives {feature.name} of {list(array.shape)}, and says {feature.shown()}")
            found[feature.name] = array
        return found

    def close(self) -> None:
        """Close the files of weights; nothing runs any more."""
        self._constants.close()

    def _check_interface(self, outputs: Mapping[str, TensorType]) -> None:
        """What an app sees against what the program's function has."""
        names = [one.name for one in self.package.inputs]
        if set(names) != set(self._types):
            raise self._fault(f"says that it takes {', '.join(names)}, and its program takes {', '.join(self._types)}")
        if {one.name for one in self.package.outputs} != set(outputs):
            given = ", ".join(one.name for one in self.package.outputs)
            raise self._fault(f"says that it gives {given}, and its program gives {', '.join(outputs)}")
        for feature in self.package.outputs:
            kind = outputs[feature.name]
            if _NAMES.get(feature.dtype) != kind.dtype.name or (feature.shape and not kind.fits(feature.shape)):
                raise self._fault(
                    f"says that {feature.name} is {feature.dtype} {feature.shown()}, and its program gives {kind}"
                )
        for feature in self.package.inputs:
            kind = self._types[feature.name]
            # An image's bytes come as numbers of whatever dtype the program computes in.
            image = feature.dtype == "uint8" and kind.dtype.name in ("fp16", "fp32")
            if not (image or _NAMES.get(feature.dtype) == kind.dtype.name) or not _agrees(feature, kind):
                raise self._fault(
                    f"says that {feature.name} is {feature.dtype} {feature.shown()}, and its program takes {kind}"
                )

    def _fault(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.package.path} {reason}; build or copy the bundle again.")


def _agrees(feature: Feature, kind: TensorType) -> bool:
    return all(kind.fits(shape) for shape in (feature.shapes or (feature.shape,)))
