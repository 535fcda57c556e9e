"""Smaller variants of an fp32 ONNX graph: weights kept as float16, or of eight bits and multiplied as integers.

Both are pure functions of the graph and the variant's parameters: no calibration data, no randomness, same bytes every time. They
leave every operator that they do not know alone, com.microsoft's fused attention and GELU included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from modelbake.bundle import FourBitVariant, Fp16Variant, Int8Variant, Variant
from modelbake.errors import IntegrityError, UsageError
from modelbake.export.artifact import Draft, Export, tool_versions, write_onnx

# Tensors of fewer numbers (biases, normalisation, scalars) stay float32: they weigh nothing.
SMALLEST = 4096

_MICROSOFT = "com.microsoft"

Floats = NDArray[np.float32]


def quantize(models: Path, export: Export, variants: Iterable[Variant]) -> Export:
    """Write the variants of the export's fp32 graphs into `models`, where these lie; the export with their drafts added.

    IntegrityError where a variant names a role that the bundle has not, or keeps nothing in fewer bits.
    """
    drafts = list(export.drafts)
    for variant in variants:
        unknown = set(variant.roles) - {draft.role for draft in export.drafts}
        if unknown:
            raise IntegrityError(
                f"A variant is of the role {min(unknown)!r}, which this bundle has not; correct variants in its bundle.toml."
            )
        for draft in export.drafts:
            if draft.role in (variant.roles or (draft.role,)):
                model = load(models / draft.path)
                if not convert(model, variant):
                    raise IntegrityError(
                        f"{draft.path} has no weights for this variant to keep in fewer bits; name other roles in its bundle.toml."
                    )
                drafts.append(_write(models, draft, variant, model))
    return replace(export, drafts=tuple(drafts))


def load(path: Path) -> Any:
    """The ONNX ModelProto at `path`, with the weights that lie beside it.

    onnx's own loader refuses weights with more than one hard link, which those in the step cache have.
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            with path.with_name(PurePosixPath(info.location).name).open("rb") as file:
                file.seek(info.offset or 0)
                tensor.raw_data = file.read(info.length)
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    return model


def variant_of(draft: Draft, variants: Iterable[Variant]) -> Variant:
    """The variant that the draft of a smaller precision was made by."""
    return next(
        v for v in variants if v.__struct_config__.tag == draft.precision and draft.role in (v.roles or (draft.role,))
    )


def convert(model: Any, variant: Variant) -> int:
    """Make the ONNX ModelProto `model` the variant, in place; how many weights it keeps in fewer bits."""
    if isinstance(variant, FourBitVariant):
        raise UsageError("A variant of 4bit is Core ML's alone; take it out of the bundle.toml.")
    count = _to_fp16(model.graph) if isinstance(variant, Fp16Variant) else _to_int8(model, variant)
    _drop_unused(model.graph)
    return count


def block_quantize(weights: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """Each row of `weights` [rows, columns] in blocks of `block` numbers, each with a scale: (value - 128) * scale.

    uint8 [rows, blocks, block], padded with zeros, and scales [rows, blocks]; symmetric, so that 0 stays 0.
    """
    rows, columns = weights.shape
    blocks = -(-columns // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :columns] = weights
    padded = padded.reshape(rows, blocks, block)
    values, scales = _symmetric(padded, 127)
    return (values + 128).astype(np.uint8), scales[..., 0]


def row_quantize(weights: Floats, largest: int) -> tuple[NDArray[np.int8], Floats]:
    """`weights` [rows, columns] as int8 within ±`largest`, and the scale of each row [rows]: value * scale."""
    values, scales = _symmetric(weights, largest)
    return values.astype(np.int8), scales[:, 0]


def _symmetric(weights: Floats, largest: int) -> tuple[NDArray[np.int16], Floats]:
    """Rounded to ±`largest` by the greatest magnitude along the last axis, and that axis' scales (kept, of length 1)."""
    scales = np.abs(weights).max(axis=-1, keepdims=True).astype(np.float32) / np.float32(largest)
    # Too small for a scale that is a normal number (a subnormal one has few bits): zeros, whatever the scale.
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1))
    return np.rint(weights / scales).clip(-largest, largest).astype(np.int16), scales


def _write(models: Path, draft: Draft, variant: Variant, model: Any) -> Draft:
    precision = variant.__struct_config__.tag
    path = PurePosixPath(draft.path)
    path = path.with_name(f"{path.stem}_{precision}.onnx")
    beside = write_onnx(model, models / path)
    return replace(
        draft,
        path=str(path),
        precision=precision,
        external_data=tuple(str(path.with_name(name)) for name in beside),
        tools=draft.tools | tool_versions("onnx"),
    )


def _to_fp16(graph: Any) -> int:
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        weights = numpy_helper.to_array(tensor)
        if np.abs(weights).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.widen", to=TensorProto.FLOAT))
    _set_nodes(graph, [*casts, *graph.node])
    return len(casts)


@dataclass(frozen=True)
class _Linear:
    """Linear layers that read one tensor, as one: their nodes, the outputs they gave, weights [outputs, inputs] and bias."""

    name: str
    input: str
    nodes: tuple[Any, ...]
    outputs: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: Floats
    bias: Floats | None


class _Constants:
    """The graph's float initializers as arrays, and new ones added to it."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        self._graph = graph
        self._tensors = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}

    def rank(self, name: str) -> int | None:
        """How many dimensions the initializer has; None where there is none of that name."""
        return len(self._tensors[name].dims) if name in self._tensors else None

    def __getitem__(self, name: str) -> Floats:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def add(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _to_int8(model: Any, variant: Int8Variant) -> int:
    from onnx import helper

    graph = model.graph
    constants = _Constants(graph)
    layers = _linear_layers(graph, constants, [re.compile(pattern) for pattern in variant.keep_fp32])
    make: Callable[[_Linear, str], list[Any]]
    if variant.method == "blockwise":
        make = lambda layer, out: _blockwise(layer, out, constants, variant.block)  # noqa: E731
    else:
        largest = 64 if variant.reduce_range else 127
        make = lambda layer, out: _dynamic(layer, out, constants, largest)  # noqa: E731
    replaced = {id(node): layer for layer in layers for node in layer.nodes}
    nodes: list[Any] = []
    tables = 0
    for node in graph.node:
        layer = replaced.get(id(node))
        if layer is not None:
            if node is layer.nodes[0]:
                nodes += _split(layer, constants, make)
        elif node.op_type == "Gather" and _is_table(node, constants):
            nodes.append(_table(node, constants, variant.block))
            tables += 1
        else:
            nodes.append(node)
    if all(opset.domain != _MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    _set_nodes(graph, nodes)
    return len(layers) + tables


def _linear_layers(graph: Any, constants: _Constants, keep: list[re.Pattern[str]]) -> list[_Linear]:
    """Products with a constant matrix, with the bias that is added where there is one; those of one input joined.

    Joined, since its activations are then quantized once: query, key and value above all.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {value.name for value in graph.output}
    found: dict[tuple[str, bool], list[tuple[Any, Any | None, str]]] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or constants.rank(node.input[1]) != 2 or any(p.search(node.name) for p in keep):
            continue
        if constants[node.input[1]].size < SMALLEST:
            continue
        add, bias = None, ""
        after = readers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "Add" and node.output[0] not in given:
            other = [name for name in after[0].input if name != node.output[0]]
            if len(other) == 1 and constants.rank(other[0]) == 1:
                bias = other[0] if constants[other[0]].size == constants[node.input[1]].shape[1] else ""
                add = after[0] if bias else None
        found.setdefault((node.input[0], add is None), []).append((node, add, bias))
    layers = []
    for (source, _), group in found.items():
        weights = [constants[node.input[1]].T for node, _, _ in group]
        biases = [constants[bias] for _, _, bias in group if bias]
        layers.append(
            _Linear(
                name=group[0][0].name or group[0][0].output[0],
                input=source,
                nodes=tuple(one for node, add, _ in group for one in (node, add) if one is not None),
                outputs=tuple((add or node).output[0] for node, add, _ in group),
                sizes=tuple(len(rows) for rows in weights),
                weights=np.concatenate(weights),
                bias=np.concatenate(biases) if biases else None,
            )
        )
    return layers


def _split(layer: _Linear, constants: _Constants, make: Callable[[_Linear, str], list[Any]]) -> list[Any]:
    from onnx import helper

    if len(layer.outputs) == 1:
        return make(layer, layer.outputs[0])
    joined = f"{layer.name}.joined"
    sizes = constants.add(f"{layer.name}.sizes", np.array(layer.sizes, np.int64))
    return [
        *make(layer, joined),
        helper.make_node("Split", [joined, sizes], layer.outputs, name=f"{layer.name}.split", axis=-1),
    ]


def _blockwise(layer: _Linear, out: str, constants: _Constants, block: int) -> list[Any]:
    """com.microsoft's MatMulNBits of 8 bits at accuracy level 4: activations are quantized in the same blocks, row by row."""
    from onnx import helper

    values, scales = block_quantize(layer.weights, block)
    inputs = [
        layer.input,
        constants.add(f"{layer.name}.weights", values),
        constants.add(f"{layer.name}.scales", scales.reshape(-1)),
    ]
    if layer.bias is not None:
        inputs += ["", "", constants.add(f"{layer.name}.bias", layer.bias)]
    return [
        helper.make_node(
            "MatMulNBits",
            inputs,
            [out],
            name=f"{layer.name}.int8",
            domain=_MICROSOFT,
            N=layer.weights.shape[0],
            K=layer.weights.shape[1],
            bits=8,
            block_size=block,
            accuracy_level=4,
        )
    ]


def _dynamic(layer: _Linear, out: str, constants: _Constants, largest: int) -> list[Any]:
    """DynamicQuantizeLinear and MatMulInteger, in the shape that ONNX Runtime fuses into one product."""
    from onnx import TensorProto, helper

    values, scales = row_quantize(layer.weights, largest)
    name = layer.name
    weights = constants.add(f"{name}.weights", values.T)
    weight_scales = constants.add(f"{name}.scales", scales)
    zeros = constants.add(f"{name}.zeros", np.zeros(len(scales), np.int8))
    quantized, scale, zero = f"{name}.activations", f"{name}.activation_scale", f"{name}.activation_zero"
    product, scales_of_product, number = f"{name}.product", f"{name}.product_scales", f"{name}.number"
    last = out if layer.bias is None else f"{name}.scaled"
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [layer.input], [quantized, scale, zero], name=f"{name}.quantize"),
        helper.make_node("MatMulInteger", [quantized, weights, zero, zeros], [product], name=f"{name}.int8"),
        helper.make_node("Cast", [product], [number], name=f"{name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, weight_scales], [scales_of_product], name=f"{name}.scale_product"),
        helper.make_node("Mul", [number, scales_of_product], [last], name=f"{name}.scale"),
    ]
    if layer.bias is not None:
        bias = constants.add(f"{name}.bias", layer.bias)
        nodes.append(helper.make_node("Add", [last, bias], [out], name=f"{name}.add"))
    return nodes


def _is_table(node: Any, constants: _Constants) -> bool:
    """Whether the Gather takes rows of a matrix that is worth it."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return axis == 0 and constants.rank(node.input[0]) == 2 and constants[node.input[0]].size >= SMALLEST


def _table(node: Any, constants: _Constants, block: int) -> Any:
    """com.microsoft's GatherBlockQuantized: an embedding table of eight bits, whose rows are widened when they are taken."""
    from onnx import helper

    name = node.name or node.output[0]
    table = constants[node.input[0]]
    values, scales = block_quantize(table, block)
    return helper.make_node(
        "GatherBlockQuantized",
        [
            constants.add(f"{name}.table", values.reshape(len(table), -1)[:, : table.shape[1]]),
            node.input[1],
            constants.add(f"{name}.scales", scales),
        ],
        list(node.output),
        name=f"{name}.int8",
        domain=_MICROSOFT,
        bits=8,
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
    )


def _drop_unused(graph: Any) -> None:
    """Remove the initializers that no node reads any more, nor any graph within a node."""
    used = {value.name for value in graph.output} | _names_read(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _names_read(graph: Any) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    for inner in (a.g for node in graph.node for a in node.attribute if a.HasField("g")):
        names |= _names_read(inner)
    return names


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node)() for node in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
