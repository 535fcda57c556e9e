"""MIL's operations, each by the semantics that coremltools documents (converters/mil/mil/ops/defs), in torch on the processor.

A tensor of float16 comes in and is computed as float32, which holds it exactly; the runner rounds what an operation gives to float16
again. A function raises ValueError, or whatever torch raises, for values that the operation does not take.
"""

from __future__ import annotations

import importlib

from modelbake.coreml.ops.registry import OPS, Op

# Each adds its operations to OPS.
for _module in (
    "arithmetic",
    "constexpr",
    "convolution",
    "gathering",
    "linear",
    "normalization",
    "reduction",
    "shaping",
):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["OPS", "Op"]
