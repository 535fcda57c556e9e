"""Core ML's protobuf messages out of coremltools, without the rest of it, which takes seconds to import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from modelbake.errors import IntegrityError, MachineError

# The generated modules import each other relatively, so they live in any package.
_PACKAGE = "_modelbake_coreml_proto"


def messages(module: str) -> Any:
    """coremltools' generated module of that name: `Model_pb2`, `MIL_pb2`, `FeatureTypes_pb2`; MachineError without coremltools."""
    if "coremltools.proto" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{module}")
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise MachineError(
                "Core ML packages are read with coremltools' messages: install coremltools, or use the converter image."
            )
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "proto")]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{module}")


def parse_model(data: bytes, where: Path) -> Any:
    """The Model message in `data`; IntegrityError where it is none."""
    model = messages("Model_pb2").Model
    # It comes with coremltools.
    from google.protobuf.message import DecodeError

    try:
        return model.FromString(data)
    except DecodeError as error:
        raise IntegrityError(
            f"{where}: no Core ML model, or cut short ({error}); build or copy the bundle again."
        ) from error
