"""The families of models: which module exports a kind of bundle, and which code and packages its result depends on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelbake.bundle import Bundle
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
class Family:
    """One kind's exporter: `module` has export(bundle, sources, out) and, where weights can be drawn, sample(bundle, folder, seed)."""

    module: str
    code: tuple[str, ...]
    packages: tuple[str, ...]

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
    "boundary_regressor": Family(
        "modelbake.export.boundary_regressor",
        (*_SHARED_CODE, "modelbake.deployment", "modelbake.export.boundary_regressor"),
        ("numpy", "onnx", "torch"),
    ),
}
