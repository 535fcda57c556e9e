"""A torch module into an .mlpackage, on any machine: the same module, inputs and versions give the same bytes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelbake.errors import UsageError
from modelbake.export.coreml import package, patches

Precision = Literal["fp32", "fp16"]
Target = Literal["iOS16", "iOS18"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """A package's input: its shapes, the first being the one that callers get who ask for none, and "int32", "float32" or "image".

    An image is RGB of 8 bits a channel; its shape is [1, 3, height, width], and the module gets it as float32 of 0 to 255.
    """

    name: str
    dtype: Literal["int32", "float32", "image"]
    shapes: tuple[Shape, ...]


def convert(
    module: Any,
    inputs: tuple[Input, ...],
    output: str,
    path: Path,
    precision: Precision = "fp32",
    target: Target | None = None,
) -> None:
    """Trace `module` (eval mode, float32 weights) and write it as the ML Program package `path`.

    `precision` is that of weights and arithmetic; inputs are int32, float32 or images, and the output float32, in either. `target` is
    the oldest system that can load it, by default the one that `oldest` says; UsageError where it is older than that.
    """
    target = target or oldest(inputs)
    if target == "iOS16" != oldest(inputs):
        raise UsageError(
            f"{path.name}: enumerated shapes of several inputs need iOS18, not {target}; give each input one shape."
        )
    with patches.quiet():
        import coremltools as ct
        import numpy as np
        import torch

        traced = _trace(module, inputs)
        described = [_describe(given) for given in inputs]
        with tempfile.TemporaryDirectory() as folder, patches.applied():
            written = Path(folder) / "converted.mlpackage"
            ct.convert(
                traced,
                inputs=described,
                outputs=[ct.TensorType(name=output, dtype=np.float32)],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
                minimum_deployment_target=getattr(ct.target, target),
                package_dir=str(written),
                skip_model_load=True,
            )
            del traced
            with package.reading(written) as (spec, reader):
                _describe_anew(spec, {"torch": torch.__version__, "coremltools": ct.__version__})
                package.write(path, spec, lambda spec, writer: package.copy_weights(spec, reader, writer))


def oldest(inputs: tuple[Input, ...]) -> Target:
    """iOS 16 (macOS 13) where every input has one shape; else iOS 18 (macOS 15): before, Core ML enumerates shapes of one input alone."""
    return "iOS18" if any(len(given.shapes) > 1 for given in inputs) else "iOS16"


def _trace(module: Any, inputs: tuple[Input, ...]) -> Any:
    import torch

    example = tuple(
        torch.ones(given.shapes[0], dtype=torch.int32 if given.dtype == "int32" else torch.float32) for given in inputs
    )
    # The tracer warns of every number that it takes as fixed, which those of the encoders are meant to be.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]


def _describe(given: Input) -> Any:
    import coremltools as ct
    import numpy as np

    if given.dtype == "image":
        return ct.ImageType(name=given.name, shape=given.shapes[0], color_layout=ct.colorlayout.RGB)
    shape = (
        given.shapes[0] if len(given.shapes) == 1 else ct.EnumeratedShapes(shapes=given.shapes, default=given.shapes[0])
    )
    return ct.TensorType(name=given.name, shape=shape, dtype=np.int32 if given.dtype == "int32" else np.float32)


def _describe_anew(spec: Any, versions: Mapping[str, str]) -> None:
    """Only what follows from the inputs: coremltools writes the day of the conversion, among other things."""
    shown = spec.description.metadata.userDefined
    shown.clear()
    for name, version in versions.items():
        shown[f"modelbake.{name}"] = version.partition("+")[0]
