"""Apple's runtime behind one narrow protocol: a compiled model, loaded for some compute units, and run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelbake.errors import MachineError
from modelbake.finish.units import Unit
from modelbake.goldens import Arrays

_DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "neural_engine"}
# Apple gives compute plans from this macOS on.
_PLANS_SINCE = (14, 4)


class Loaded(Protocol):
    """A model in memory."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """All outputs by name, for one array per input; one of uint8 [1, 3, height, width] is an RGB image."""
        ...


class Predictor(Protocol):
    """What runs compiled models. Whatever it raises counts as the model's failure on those units."""

    @property
    def versions(self) -> dict[str, str]:
        """The packages that it is made of, and their versions."""
        ...

    def load(self, compiled: Path, unit: Unit) -> Loaded:
        """The .mlmodelc for these compute units."""
        ...

    def placement(self, compiled: Path, unit: Unit) -> dict[str, int] | None:
        """How many operations of the program would run on `cpu`, `gpu` and `neural_engine`; None where the system does not tell."""
        ...


class Coremltools:
    """Core ML by way of coremltools, which has it on macOS alone; MachineError where it is not installed."""

    def __init__(self) -> None:
        try:
            import coremltools
        except ImportError as error:
            raise MachineError(
                f"coremltools cannot be imported ({error}); install it beside modelbake: pip install '.[finish]' in a clone."
            ) from error
        self._coremltools: Any = coremltools

    @property
    def versions(self) -> dict[str, str]:
        return {"coremltools": version("coremltools")}

    def load(self, compiled: Path, unit: Unit) -> Loaded:
        units = self._coremltools.ComputeUnit[unit]
        return _Model(self._coremltools.models.CompiledMLModel(str(compiled), compute_units=units))

    def placement(self, compiled: Path, unit: Unit) -> dict[str, int] | None:
        if self._coremltools.utils._macos_version() < _PLANS_SINCE:
            return None
        from coremltools.models.compute_plan import MLComputePlan

        plan: Any = MLComputePlan.load_from_path(str(compiled), compute_units=self._coremltools.ComputeUnit[unit])
        program = plan.model_structure.program
        if program is None:
            return None
        found: Counter[str] = Counter()
        for function in program.functions.values():
            for operation in function.block.operations:
                usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
                # Constants have none.
                if usage is not None:
                    found[_DEVICES[type(usage.preferred_compute_device).__name__]] += 1
        return {name: found[name] for name in _DEVICES.values()}


class _Model:
    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        given = {name: _image(array) if array.dtype == np.uint8 else array for name, array in inputs.items()}
        return {name: np.asarray(value) for name, value in self._model.predict(given).items()}


def _image(array: NDArray[np.generic]) -> Image.Image:
    """uint8 [1, 3, height, width] as the image that coremltools takes for an image input."""
    return Image.fromarray(np.ascontiguousarray(array[0].transpose(1, 2, 0)), "RGB")
