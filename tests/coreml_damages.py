"""Deliberate damages of a BERT's package, made in a copy of it: to numbers, to the graph, to the interface, and to the files.

Each is `Damage(what, how it is made, how it must be caught)`: `replay` by other outputs, `refused` by an error of its own.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.coreml_editor import Damage, Editor

QUERY, KEY, VALUE, OUT, UP, DOWN = range(6)


def plus(number: float) -> Callable[[NDArray[Any]], Any]:
    return lambda x: x + number


def zero(x: NDArray[Any]) -> NDArray[Any]:
    return np.zeros_like(x)


def mask_multiplier(e: Editor) -> Any:
    """The operation that makes -3e4 of what is masked: the first product of the program."""
    return e.operations("mul")[0]


def scale_multiplier(e: Editor) -> Any:
    """The first product with a constant after it: what scales attention."""
    return e.operations("mul")[1]


def swap_inputs(e: Editor) -> None:
    e.rename("input_ids", "none")
    e.rename("attention_mask", "input_ids")
    e.rename("none", "attention_mask")


def swap_outputs(e: Editor, layer: int, one: int, other: int) -> None:
    for key in ("weight", "bias"):
        e.swap(e.linear(layer, one), e.linear(layer, other), key)


def output_before_normalising(e: Editor) -> None:
    last = e.operations("real_div")[-1]
    pooled = last.inputs["x"].arguments[0].name
    maker = next(one for one in e.block.operations if one.outputs[0].name == pooled)
    name = last.outputs[0].name
    last.outputs[0].name = "never_read"
    for one in e.block.operations:
        for argument in one.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name == pooled:
                    binding.name = name
    maker.outputs[0].name = name


def other_entry(e: Editor) -> None:
    """A constant that points at another layer's weights, of the same shape."""
    e.value(e.linear(0, QUERY), "weight").blobFileValue.offset = e.value(
        e.linear(1, QUERY), "weight"
    ).blobFileValue.offset


def metadata(field: int, change: Callable[[int], int]) -> Callable[[Editor], None]:
    """Another number in an entry's metadata: 0 sentinel, 1 dtype, 2 size, 3 offset, 4 padding."""

    def make(e: Editor) -> None:
        offset = e.value(e.linear(1, UP), "weight").blobFileValue.offset
        data = list(struct.unpack("<IIQQQ", e.weights.read_bytes()[offset : offset + 32]))
        data[field] = change(data[field])
        e.overwrite(offset, struct.pack("<IIQQQ", *data))

    return make


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Editor], None]:
    def make(e: Editor) -> None:
        path = e.path / "Manifest.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return make


def root(document: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = document["itemInfoEntries"][document["rootModelIdentifier"]]
    return entry


def without_weights(document: dict[str, Any]) -> None:
    items, kept = document["itemInfoEntries"], document["rootModelIdentifier"]
    document["itemInfoEntries"] = {kept: items[kept]}


def first(e: Editor, kind: str) -> Any:
    return e.operations(kind)[0]


def last(e: Editor, kind: str) -> Any:
    return e.operations(kind)[-1]


def bias(e: Editor) -> Any:
    """The last linear layer's."""
    return e.value(last(e, "linear"), "bias")


def dimension(value: Any, axis: int, size: int) -> None:
    """Another size in a constant's type."""
    value.type.tensorType.dimensions[axis].constant.size = size


# Of the graph and its attributes: the same in every precision.
GRAPH = [
    Damage("layer_norm's epsilon, first", lambda e: e.number(first(e, "layer_norm"), "epsilon", 1e-3)),
    Damage("layer_norm's epsilon, last", lambda e: e.number(last(e, "layer_norm"), "epsilon", 1e-3)),
    Damage("layer_norm's axis", lambda e: e.number(last(e, "layer_norm"), "axes", 1), "refused"),
    Damage("gelu by tanh in the first layer", lambda e: e.text(first(e, "gelu"), "mode", "TANH_APPROXIMATION")),
    Damage("gelu by tanh in the last layer", lambda e: e.text(last(e, "gelu"), "mode", "TANH_APPROXIMATION")),
    Damage("gelu by sigmoid", lambda e: e.text(last(e, "gelu"), "mode", "SIGMOID_APPROXIMATION")),
    Damage("gelu's mode unknown", lambda e: e.text(last(e, "gelu"), "mode", "EXACTLY"), "refused"),
    Damage("gelu is relu", lambda e: setattr(last(e, "gelu"), "type", "relu"), "refused"),
    Damage("softmax over another axis", lambda e: e.number(last(e, "softmax"), "axis", -2)),
    Damage("softmax over the heads", lambda e: e.number(first(e, "softmax"), "axis", 1)),
    Damage("a transposed axis", lambda e: e.number(last(e, "transpose"), "perm", 0, 1, 2, 3), "refused"),
    Damage("a product's side transposed", lambda e: e.number(last(e, "matmul"), "transpose_x", True)),
    Damage("attention's scale, first layer", lambda e: e.number(scale_multiplier(e), "y", 0.1)),
    Damage("the mask's sign", lambda e: e.number(mask_multiplier(e), "y", 3e4)),
    Damage("the mask too small", lambda e: e.number(mask_multiplier(e), "y", -3.0)),
    Damage("the mask from another number", lambda e: e.number(first(e, "sub"), "x", 0.0)),
    Damage("the inputs swapped", swap_inputs),
    Damage("query and key swapped", lambda e: swap_outputs(e, 0, QUERY, KEY)),
    Damage("query and value swapped", lambda e: swap_outputs(e, 1, QUERY, VALUE)),
    Damage("key and value swapped", lambda e: swap_outputs(e, 0, KEY, VALUE)),
    Damage("two layers' weights swapped", lambda e: e.swap(e.linear(0, OUT), e.linear(1, OUT), "weight")),
    Damage("two layers' biases swapped", lambda e: e.swap(e.linear(0, DOWN), e.linear(1, DOWN), "bias")),
    Damage("gamma and beta swapped", lambda e: _swap_keys(last(e, "layer_norm"), "gamma", "beta")),
    Damage("a gelu removed", lambda e: e.bypass(last(e, "gelu"))),
    Damage("a layer_norm removed", lambda e: e.bypass(e.operations("layer_norm")[1])),
    Damage("a residual removed", lambda e: e.bypass(last(e, "add"))),
    Damage("the final normalisation removed", lambda e: e.bypass(last(e, "real_div")), "refused"),
    Damage("the scale of attention removed", lambda e: e.bypass(scale_multiplier(e))),
    Damage("the pooling's weights removed", lambda e: e.bypass(last(e, "mul"))),
    Damage("an addition is a subtraction", lambda e: setattr(last(e, "add"), "type", "sub")),
    Damage("a quotient is a product", lambda e: setattr(last(e, "real_div"), "type", "mul")),
    Damage("a maximum is a minimum", lambda e: setattr(last(e, "maximum"), "type", "minimum")),
    Damage("the sum over another axis", lambda e: e.number(first(e, "reduce_sum"), "axes", 2), "refused"),
    Damage("the norm over another axis", lambda e: e.number(last(e, "reduce_l2_norm"), "axes", 0), "refused"),
    Damage("words gathered along another axis", lambda e: e.number(first(e, "gather"), "axis", 1), "refused"),
    Damage("the output before its normalisation", output_before_normalising),
    Damage("an unknown operation", lambda e: setattr(last(e, "gelu"), "type", "gelu_fast"), "refused"),
    Damage(
        "an unknown parameter",
        lambda e: last(e, "gelu").inputs["slope"].CopyFrom(last(e, "gelu").inputs["x"]),
        "refused",
    ),
    Damage("a parameter left out", lambda e: last(e, "linear").inputs.pop("weight"), "refused"),
    Damage("an optional parameter left out", lambda e: last(e, "linear").inputs.pop("bias")),
    Damage(
        "a name that nothing gives", lambda e: setattr(last(e, "gelu").inputs["x"].arguments[0], "name", "x"), "refused"
    ),
    Damage("an operation twice", lambda e: e.block.operations.append(last(e, "gelu")), "refused"),
    Damage("a reshape of other heads", lambda e: e.number(first(e, "reshape"), "shape", 1, -1, 2, 2), "refused"),
]

# Of numbers in weight.bin that are floating point in every precision.
SMALL = [
    Damage("one bias of a query", lambda e: e.change(e.value(e.linear(0, QUERY), "bias"), 3, plus(0.5))),
    Damage("a value's bias zeroed", lambda e: e.change(e.value(e.linear(1, VALUE), "bias"), slice(None), zero)),
    Damage("the last bias zeroed", lambda e: e.change(e.value(last(e, "linear"), "bias"), slice(None), zero)),
    Damage("one gamma", lambda e: e.change(e.value(first(e, "layer_norm"), "gamma"), 5, plus(0.5))),
    Damage("one beta", lambda e: e.change(e.value(last(e, "layer_norm"), "beta"), 7, plus(0.1))),
]

# Of float32 weights.
FULL = [
    *(
        Damage(
            f"one weight of layer {layer}, {name}",
            lambda e, layer=layer, which=which: e.change(e.value(e.linear(layer, which), "weight"), 41, plus(0.5)),
        )
        for layer in (0, 1)
        for which, name in enumerate(("query", "key", "value", "output", "up", "down"))
    ),
    Damage("one row of weights zeroed", lambda e: e.change(e.value(last(e, "linear"), "weight"), slice(0, 32), zero)),
    Damage(
        "a weight that is no number", lambda e: e.change(e.value(e.linear(0, UP), "weight"), 9, lambda x: x * np.nan)
    ),
    Damage("another layer's entry", other_entry),
]

# Of whole numbers with a scale of their own.
INT8 = [
    Damage(
        "one number of eight bits",
        lambda e: e.change(e.value(e.linear(0, UP), "weight"), 41, lambda x: np.where(x > 0, -127, 127)),
    ),
    Damage("one scale", lambda e: e.change(e.part(1, OUT, "scale"), 3, lambda x: x * 1.5)),
    Damage("all scales of a layer", lambda e: e.change(e.part(0, KEY, "scale"), slice(None), lambda x: x * 1.01)),
    Damage("scales in another order", lambda e: e.change(e.part(1, DOWN, "scale"), slice(None), lambda x: x[::-1])),
    Damage("another layer's numbers", other_entry),
    Damage("a scale of another shape", lambda e: dimension(e.part(1, OUT, "scale"), 1, 2), "refused"),
    Damage(
        "the numbers unsigned",
        lambda e: setattr(e.value(e.linear(1, OUT), "weight").type.tensorType, "dataType", 31),
        "refused",
    ),
]

# Of whole numbers with a scale and a zero point (iOS16).
AFFINE = [
    Damage("one zero point", lambda e: e.change(e.part(0, UP, "zero_point"), 5, lambda x: x + 40)),
    Damage("one scale", lambda e: e.change(e.part(1, OUT, "scale"), 3, lambda x: x * 1.5)),
    Damage("the scales' axis", lambda e: e.part(1, OUT, "axis").immediateValue.tensor.ints.values.__setitem__(0, 1)),
    Damage(
        "zero points of another dtype",
        lambda e: setattr(e.part(0, UP, "zero_point").type.tensorType, "dataType", 11),
        "refused",
    ),
]

# Of palettes.
PALETTE = [
    Damage("one entry of a table", lambda e: e.change(e.part(0, UP, "lut"), 3, plus(0.05))),
    Damage("a table in another order", lambda e: e.change(e.part(1, OUT, "lut"), slice(0, 16), lambda x: x[::-1])),
    Damage("one index of a palette", lambda e: e.change(e.value(e.linear(1, DOWN), "weight"), 33, lambda x: x ^ 0x0F)),
    Damage(
        "indices in another order",
        lambda e: e.change(e.value(e.linear(0, QUERY), "weight"), slice(None), lambda x: x[::-1]),
    ),
    Damage("another layer's indices", other_entry),
    Damage("a table of another length", lambda e: dimension(e.part(0, UP, "lut"), 2, 8), "refused"),
]

# Of files and of the interface: the same in every precision.
FILES = [
    Damage("weight.bin cut in half", lambda e: e.cut(e.weights, 0.5), "refused"),
    Damage("weight.bin cut by a little", lambda e: e.cut(e.weights, 0.999), "refused"),
    Damage("weight.bin missing", lambda e: e.weights.unlink(), "refused"),
    Damage("weight.bin empty", lambda e: e.cut(e.weights, 0), "refused"),
    Damage("weight.bin of another version", lambda e: e.overwrite(4, b"\x03"), "refused"),
    Damage("an entry's sentinel", metadata(0, lambda x: x ^ 1), "refused"),
    Damage("an entry's dtype", metadata(1, lambda x: x + 2), "refused"),
    Damage("an entry's size", metadata(2, lambda x: x - 4), "refused"),
    Damage("an entry's offset outside", metadata(3, lambda x: x + (1 << 40)), "refused"),
    Damage("an entry's offset shifted", metadata(3, lambda x: x + 64)),
    Damage("an entry's padding", metadata(4, lambda x: x + 8), "refused"),
    Damage("a constant's offset", lambda e: setattr(bias(e).blobFileValue, "offset", 96), "refused"),
    Damage("a constant's offset past the end", lambda e: setattr(bias(e).blobFileValue, "offset", 1 << 50), "refused"),
    Damage(
        "a constant's file outside",
        lambda e: setattr(bias(e).blobFileValue, "fileName", "@model_path/../../x"),
        "refused",
    ),
    Damage("a constant's shape", lambda e: dimension(bias(e), 0, 1), "refused"),
    Damage("the model cut in half", lambda e: e.cut(e.model, 0.5), "refused"),
    Damage("the model empty", lambda e: e.cut(e.model, 0), "refused"),
    Damage("the model missing", lambda e: e.model.unlink(), "refused"),
    Damage("Manifest.json cut", lambda e: e.cut(e.path / "Manifest.json", 0.7), "refused"),
    Damage("Manifest.json missing", lambda e: (e.path / "Manifest.json").unlink(), "refused"),
    Damage("Manifest.json leads out", manifest(lambda d: root(d).update(path="../../other.mlmodel")), "refused"),
    Damage("Manifest.json without a root", manifest(lambda d: d.pop("rootModelIdentifier")), "refused"),
    Damage("a link for the weights", lambda e: _link(e.weights), "refused"),
    Damage("another kind of model", lambda e: e.spec.neuralNetwork.SetInParent(), "refused"),
    Damage("an input renamed", lambda e: setattr(e.spec.description.input[0], "name", "ids"), "refused"),
    Damage(
        "an input's shape", lambda e: e.spec.description.input[0].type.multiArrayType.shape.__setitem__(1, 8), "refused"
    ),
    Damage(
        "an input's dtype",
        lambda e: setattr(e.spec.description.input[0].type.multiArrayType, "dataType", 65568),
        "refused",
    ),
    Damage(
        "the output's dtype",
        lambda e: setattr(e.spec.description.output[0].type.multiArrayType, "dataType", 65600),
        "refused",
    ),
    Damage(
        "the output's shape",
        lambda e: e.spec.description.output[0].type.multiArrayType.shape.__setitem__(1, 8),
        "refused",
    ),
    Damage("an older version", lambda e: setattr(e.spec, "specificationVersion", 5), "refused"),
    Damage("a version that is to come", lambda e: setattr(e.spec, "specificationVersion", 99), "refused"),
    Damage("Manifest.json without the weights", manifest(without_weights), "refused"),
    Damage("the output renamed", lambda e: setattr(e.spec.description.output[0], "name", "vector"), "refused"),
    Damage(
        "the program's output another",
        lambda e: e.block.outputs.__setitem__(0, last(e, "gelu").outputs[0].name),
        "refused",
    ),
]


def _swap_keys(operation: Any, one: str, other: str) -> None:
    kept = type(operation.inputs[one])()
    kept.CopyFrom(operation.inputs[one])
    operation.inputs[one].CopyFrom(operation.inputs[other])
    operation.inputs[other].CopyFrom(kept)


def _link(path: Path) -> None:
    moved = path.with_name("elsewhere.bin")
    path.rename(moved)
    path.symlink_to(moved.name)


# What changes no output, whatever goes in: softmax forgets what all keys share, and what is normalised at last forgets its length.
INERT = [
    Damage("a key's bias zeroed", lambda e: e.change(e.value(e.linear(0, KEY), "bias"), slice(None), zero)),
    Damage("the least count of tokens", lambda e: e.number(last(e, "clip"), "alpha", 6.0)),
    Damage("the greatest count of tokens", lambda e: e.number(last(e, "clip"), "beta", 3.0)),
    Damage("the least length of a vector", lambda e: e.number(last(e, "maximum"), "y", 1e-9)),
    Damage("another number for what is masked", lambda e: e.number(mask_multiplier(e), "y", -2e4)),
]

# What each package is tried with.
BY_PRECISION = {
    "fp32": GRAPH + SMALL + FULL + FILES,
    "int8": GRAPH + SMALL + INT8,
    "int8-ios16": SMALL + AFFINE,
    "palette": SMALL + PALETTE,
}
