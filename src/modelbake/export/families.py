"""The families of models: which module exports a kind of bundle, and which code and packages its result depends on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelbake.bundle import Bundle, Variant
from modelbake.errors import UsageError
from modelbake.export.artifact import Export

_SHARED_CODE = (
    "modelbake.bundle",
    "modelbake.goldens",
    "modelbake.manifest",
    "modelbake.export.artifact",
    "modelbake.export._torchvision",
)


@dataclass(frozen=True)
class Quantizer:
    """What makes smaller variants of artifacts: its module, and the code and packages that its results depend on."""

    module: str
    code: tuple[str, ...]
    packages: tuple[str, ...]

    def quantize(self, models: Path, export: Export, variants: Iterable[Variant]) -> Export:
        """Write the variants of the export's fp32 artifacts into `models`, where these lie; the export with their drafts added."""
        function = importlib.import_module(self.module).quantize
        return cast(Callable[[Path, Export, Iterable[Variant]], Export], function)(models, export, variants)


@dataclass(frozen=True)
class Runtime:
    """What artifacts are verified with: the code and packages that the figures depend on."""

    code: tuple[str, ...]
    packages: tuple[str, ...]


_VERIFY_CODE = ("modelbake.parity", "modelbake.goldens", "modelbake.runtime", "modelbake.bundle", "modelbake.manifest")
_VERIFY_PACKAGES = ("numpy", "pillow", "tokenizers", "regex", "ftfy")

ONNX_QUANTIZER = Quantizer(
    "modelbake.quantize",
    ("modelbake.quantize", "modelbake.bundle", "modelbake.export.artifact", "modelbake.manifest"),
    ("numpy", "onnx"),
)
ONNX_RUNTIME = Runtime(_VERIFY_CODE, ("onnxruntime", *_VERIFY_PACKAGES))
COREML_RUNTIME = Runtime(
    ("modelbake.coreml", *_VERIFY_CODE), ("coremltools", "onnxruntime", "torch", *_VERIFY_PACKAGES)
)


@dataclass(frozen=True)
class Family:
    """One kind's exporter: `module` has export(bundle, sources, out) and, where weights can be drawn, sample(bundle, folder, seed).

    `quantizer` makes the smaller variants; where there is none, the exporter does, which then knows of the bundle's variants.
    `code` and `packages` are what an export
    depends on, and `runs_with` those that replaying its goldens needs.
    """

    module: str
    code: tuple[str, ...]
    packages: tuple[str, ...]
    quantizer: Quantizer | None = ONNX_QUANTIZER
    runs_with: Runtime = ONNX_RUNTIME

    def export(self, bundle: Bundle, sources: Path, out: Path) -> Export:
        """Write the bundle's artifacts and goldens below `out` from the files in `sources`."""
        function = cast(Callable[[Bundle, Path, Path], Export], importlib.import_module(self.module).export)
        return function(bundle, sources, out)

    def sample(self, bundle: Bundle, folder: Path, seed: int) -> None:
        """Write the bundle's source files with weights drawn from `seed` into `folder`."""
        function = getattr(importlib.import_module(self.module), "sample", None)
        if function is None:
            raise UsageError(
                f"{bundle.name}: a {bundle.kind} has no sample weights; remove the sample source from its bundle.toml."
            )
        function(bundle, folder, seed)


FAMILIES = {
    "clip": Family(
        "modelbake.export.clip",
        (
            *_SHARED_CODE,
            "modelbake.export.clip",
            "modelbake.export.clip_config",
            "modelbake.export.clip_towers",
            "modelbake.export.ort_ops",
            "modelbake.runtime.clip_tokenizer",
        ),
        ("ftfy", "numpy", "onnx", "open_clip_torch", "pillow", "regex", "safetensors", "timm", "torch", "torchvision"),
    ),
    "text_encoder": Family(
        "modelbake.export.text_encoder",
        (*_SHARED_CODE, "modelbake.export.sample_tokenizer", "modelbake.export.text_encoder"),
        ("numpy", "onnx", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers"),
    ),
    "cross_encoder": Family(
        "modelbake.export.cross_encoder",
        (*_SHARED_CODE, "modelbake.export.sample_tokenizer", "modelbake.export.cross_encoder"),
        ("numpy", "onnx", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers"),
    ),
    "coreml_text_encoder": Family(
        "modelbake.export.coreml.text",
        (
            *_SHARED_CODE,
            "modelbake.coreml",
            "modelbake.export.coreml",
            "modelbake.export.sample_tokenizer",
            "modelbake.export.text_encoder",
            "modelbake.files",
            "modelbake.runtime.image_preprocess",
        ),
        (
            "coremltools",
            "numpy",
            "protobuf",
            "safetensors",
            "sentence-transformers",
            "tokenizers",
            "torch",
            "transformers",
        ),
        quantizer=None,
        runs_with=COREML_RUNTIME,
    ),
    "coreml_clip": Family(
        "modelbake.export.coreml.clip",
        (
            *_SHARED_CODE,
            "modelbake.coreml",
            "modelbake.export.coreml",
            "modelbake.export.clip",
            "modelbake.export.clip_config",
            "modelbake.export.clip_towers",
            "modelbake.export.ort_ops",
            "modelbake.files",
            "modelbake.runtime.clip_tokenizer",
            "modelbake.runtime.image_preprocess",
        ),
        (
            "coremltools",
            "ftfy",
            "numpy",
            "open_clip_torch",
            "pillow",
            "protobuf",
            "regex",
            "safetensors",
            "timm",
            "torch",
            "torchvision",
        ),
        quantizer=None,
        runs_with=COREML_RUNTIME,
    ),
    "boundary_regressor": Family(
        "modelbake.export.boundary_regressor",
        (*_SHARED_CODE, "modelbake.deployment", "modelbake.export.boundary_regressor"),
        ("numpy", "onnx", "torch"),
    ),
}
