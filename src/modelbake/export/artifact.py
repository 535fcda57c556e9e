"""What an exporter hands on: a draft of each artifact, and the writing of ONNX graphs with their weights beside them."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modelbake.manifest import CoremlPackage, Format, ImagePreprocessing, Precision, Role, Tensor, Tokenizer

# Below this many bytes of weights a graph stays one file; above it they lie beside it and are mapped, not parsed, at load.
EXTERNAL_DATA_THRESHOLD = 1 << 20


class Draft(Struct, frozen=True, omit_defaults=True):
    """An artifact before its parity is known; `path` is relative to the models folder. Other fields as in manifest.Artifact."""

    path: str
    role: Role
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tools: dict[str, str]
    external_data: tuple[str, ...] = ()
    embedding_dimension: int | None = None
    normalized: bool | None = None
    activation: str | None = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: Tokenizer | None = None
    precision: Precision = "fp32"
    format: Format = "onnx"
    coreml: CoremlPackage | None = None


class Export(Struct, frozen=True):
    """All that an exporter wrote below its output folder: drafts, the goldens' path, and every further file's path."""

    drafts: tuple[Draft, ...]
    goldens: str
    extra_files: tuple[str, ...] = ()


def tool_versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, without a local build suffix such as +cpu."""
    return {name: version(name).partition("+")[0] for name in sorted(packages)}


def export_onnx(
    module: Any,
    example: dict[str, Any],
    outputs: list[str],
    dynamic_axes: dict[str, dict[int, str]],
    path: Path,
    opset: int = 17,
    custom_opsets: dict[str, int] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[str, ...]]:
    """Trace `module` (eval mode) on `example` and write the ONNX graph to `path`.

    `custom_opsets` names the operator domains beside ONNX's own that the module uses, and their versions. Returns its inputs, its
    outputs, and the names of the files beside it that hold weights. Deterministic: the graph carries no
    doc strings, no producer's paths, and its weights in the order of their names.
    """
    import onnx
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    raw = path.with_suffix(".raw.onnx")
    with torch.inference_mode(), warnings.catch_warnings():
        # The tracer warns of every Python condition it meets; parity at shapes that were not traced is what decides.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(raw),
            input_names=list(example),
            output_names=outputs,
            dynamic_axes=dynamic_axes,
            opset_version=opset,
            custom_opsets=custom_opsets,
            dynamo=False,
            do_constant_folding=True,
        )
    model = onnx.load(str(raw))
    raw.unlink()
    model.doc_string = ""
    model.producer_name, model.producer_version = "modelbake", ""
    for node in model.graph.node:
        node.doc_string = ""
    beside = write_onnx(model, path)
    signature = onnx.load(str(path), load_external_data=False).graph
    return _tensors(signature.input), _tensors(signature.output), beside


def write_onnx(model: Any, path: Path) -> tuple[str, ...]:
    """Write the graph with its weights in the order of their names; the names of the files beside it that hold weights."""
    import onnx

    initializers = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.ByteSize() <= EXTERNAL_DATA_THRESHOLD:
        onnx.save_model(model, str(path))
        return ()
    data = f"{path.name}.data"
    path.with_name(data).unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location=data, size_threshold=1024)
    return (data,)


def _tensors(values: Any) -> tuple[Tensor, ...]:
    from onnx import helper

    tensors = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(d.dim_param or int(d.dim_value) for d in tensor.shape.dim)
        tensors.append(Tensor(value.name, dtype, shape))
    return tuple(tensors)


def encode_export(export: Export) -> bytes:
    """The export's description as JSON, as the step cache keeps it."""
    return msgspec.json.encode(export)


def decode_export(data: bytes) -> Export:
    """The reverse of encode_export."""
    return msgspec.json.decode(data, type=Export)
