"""Smaller variants of small graphs, against what numpy makes of the same weights, and of a whole folder's drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelbake.bundle import Fp16Variant, Int8Variant, Variant
from modelbake.errors import IntegrityError
from modelbake.export.artifact import Draft, Export, write_onnx
from modelbake.quantize import block_quantize, convert, load, quantize, row_quantize, variant_of
from modelbake.runtime.session import Session

RNG = np.random.default_rng(5)
TABLE = RNG.normal(size=(300, 64)).astype(np.float32)
LEFT, RIGHT = (RNG.normal(size=(64, 80)).astype(np.float32) for _ in range(2))
DOWN = RNG.normal(size=(80, 70)).astype(np.float32)
BIASES = [RNG.normal(size=size).astype(np.float32) for size in (80, 80)]
IDS = np.array([[3, 299, 0], [17, 4, 5]])

INT8 = [
    Int8Variant(),
    Int8Variant(block=16),
    Int8Variant(method="dynamic"),
    Int8Variant(method="dynamic", reduce_range=False),
]


def graph() -> Any:
    """y = gelu-like(fused) of two layers on one table row each, then a layer without a bias; one operator is com.microsoft's."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], name="words"),
        helper.make_node("MatMul", ["x", "left"], ["l"], name="layer.0/left"),
        helper.make_node("Add", ["left_bias", "l"], ["lb"]),
        helper.make_node("MatMul", ["x", "right"], ["r"], name="layer.0/right"),
        helper.make_node("Add", ["r", "right_bias"], ["rb"]),
        helper.make_node("QuickGelu", ["lb"], ["g"], domain="com.microsoft", alpha=1.702),
        helper.make_node("Mul", ["g", "rb"], ["m"]),
        helper.make_node("MatMul", ["m", "down"], ["y"], name="layer.1/down"),
    ]
    constants = {
        "table": TABLE,
        "left": LEFT,
        "right": RIGHT,
        "down": DOWN,
        "left_bias": BIASES[0],
        "right_bias": BIASES[1],
    }
    made = helper.make_graph(
        nodes,
        "two-layers",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 70])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def expected(rounded: Any = lambda array: array) -> NDArray[np.float64]:
    """What the graph gives, in double precision, with `rounded` applied to every matrix."""
    table, left, right, down = (rounded(array).astype(np.float64) for array in (TABLE, LEFT, RIGHT, DOWN))
    a, b = table[IDS] @ left + BIASES[0], table[IDS] @ right + BIASES[1]
    result: NDArray[np.float64] = (a / (1 + np.exp(-1.702 * a)) * b) @ down
    return result


def run(folder: Path, model: Any) -> NDArray[np.generic]:
    write_onnx(model, folder / "g.onnx")
    return Session(folder / "g.onnx").run({"ids": IDS})["y"]


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def converted(variant: Variant) -> Any:
    model = graph()
    assert convert(model, variant) > 0
    return model


def test_fp16_computes_in_float32_with_weights_rounded_to_float16(tmp_path: Path) -> None:
    found = run(tmp_path, converted(Fp16Variant()))
    exact = expected(lambda array: array.astype(np.float16))
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    assert np.abs(found - expected()).max() > 1e-4 * np.abs(exact).max()


def test_fp16_halves_the_large_weights_and_leaves_the_small_ones(tmp_path: Path) -> None:
    types = {tensor.name: tensor.data_type for tensor in converted(Fp16Variant()).graph.initializer}
    assert types == {
        "table.fp16": TensorProto.FLOAT16,
        "left.fp16": TensorProto.FLOAT16,
        "right.fp16": TensorProto.FLOAT16,
        "down.fp16": TensorProto.FLOAT16,
        "left_bias": TensorProto.FLOAT,
        "right_bias": TensorProto.FLOAT,
    }


def test_a_weight_beyond_float16_stays_float32() -> None:
    model = graph()
    large = LEFT.copy()
    large[0, 0] = 70000
    next(t for t in model.graph.initializer if t.name == "left").CopyFrom(numpy_helper.from_array(large, "left"))
    convert(model, Fp16Variant())
    assert next(t for t in model.graph.initializer if t.name == "left").data_type == TensorProto.FLOAT


@pytest.mark.parametrize("variant", INT8, ids=str)
def test_int8_gives_nearly_what_the_graph_gave(tmp_path: Path, variant: Int8Variant) -> None:
    found = run(tmp_path, converted(variant))
    assert found.shape == expected().shape
    assert 1e-6 < 1 - cosine(found, expected()) < 2e-3


def test_blocks_are_nearer_than_rows_when_one_activation_stands_out(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[3, 5] = 60
    errors = []
    for variant in (Int8Variant(block=16), Int8Variant(method="dynamic", reduce_range=False)):
        model = graph()
        next(t for t in model.graph.initializer if t.name == "table").CopyFrom(numpy_helper.from_array(table, "table"))
        whole = run(tmp_path, model)
        convert(model, variant)
        # The row that holds the outlier is not looked at: it spoils the others where they share its scale.
        errors.append(1 - cosine(run(tmp_path, model)[1], whole[1]))
    assert errors[0] < errors[1] / 10


@pytest.mark.parametrize("variant", [*INT8, Fp16Variant()], ids=str)
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path, variant: Variant) -> None:
    for name in ("a", "b"):
        write_onnx(converted(variant), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("method", ["blockwise", "dynamic"])
def test_layers_of_one_input_are_joined_and_no_float_matrix_is_left(method: Any) -> None:
    model = converted(Int8Variant(method=method))
    operators = [node.op_type for node in model.graph.node]
    product = "MatMulNBits" if method == "blockwise" else "MatMulInteger"
    assert (operators.count(product), operators.count("Split"), operators.count("MatMul")) == (2, 1, 0)
    assert operators.count("GatherBlockQuantized") == operators.count("QuickGelu") == 1
    large = [t for t in model.graph.initializer if np.prod(t.dims) >= 4096]
    assert {t.data_type for t in large} <= {TensorProto.UINT8, TensorProto.INT8}


def test_what_a_bundle_keeps_fp32_stays(tmp_path: Path) -> None:
    model = converted(Int8Variant(keep_fp32=(r"layer\.1/", "right$")))
    products = [(node.op_type, node.name) for node in model.graph.node if "MatMul" in node.op_type]
    assert sorted(products) == [
        ("MatMul", "layer.0/right"),
        ("MatMul", "layer.1/down"),
        ("MatMulNBits", "layer.0/left.int8"),
    ]
    assert 1 - cosine(run(tmp_path, model), expected()) < 1e-3


def test_an_output_of_the_graph_before_its_bias_stays_an_output(tmp_path: Path) -> None:
    model = graph()
    model.graph.output.append(helper.make_tensor_value_info("l", TensorProto.FLOAT, ["batch", "sequence", 80]))
    convert(model, Int8Variant())
    write_onnx(model, tmp_path / "g.onnx")
    found = Session(tmp_path / "g.onnx").run({"ids": IDS})["l"]
    assert 1 - cosine(found, TABLE[IDS] @ LEFT) < 1e-3


FLOATS = st.floats(-1000, 1000, width=32)


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=FLOATS), st.sampled_from([16, 32])
)
def test_a_block_is_off_by_half_a_step_at_most(weights: NDArray[np.float32], block: int) -> None:
    values, scales = block_quantize(weights, block)
    rows, columns = weights.shape
    assert (values.dtype, values.shape) == (np.uint8, (rows, -(-columns // block), block))
    restored = ((values.astype(np.float64) - 128) * scales[..., np.newaxis]).reshape(rows, -1)
    assert not restored[:, columns:].any()
    steps = np.repeat(scales, block, axis=1)[:, :columns]
    assert (np.abs(restored[:, :columns] - weights) <= 0.5001 * steps).all()


def test_a_block_of_the_smallest_numbers_becomes_zeros() -> None:
    values, scales = block_quantize(np.array([[2.31e-43, -1e-40]], np.float32), 16)
    assert (values == 128).all()
    assert np.isfinite(scales).all()


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=FLOATS))
def test_seven_bits_cannot_overflow_sixteen_in_a_pair_of_products(weights: NDArray[np.float32]) -> None:
    values, scales = row_quantize(weights, 64)
    assert np.abs(values.astype(int)).max() * 255 * 2 < 2**15
    assert (np.abs(values * scales[:, np.newaxis].astype(np.float64) - weights) <= 0.5001 * scales[:, np.newaxis]).all()


def folder(models: Path) -> Export:
    """A models folder with the graph, its weights in one file beside it that has a second link, as in the step cache."""
    path = models / "onnx" / "g.onnx"
    path.parent.mkdir(parents=True)
    onnx.save_model(graph(), str(path), save_as_external_data=True, location="g.onnx.data", size_threshold=1024)
    (models / "another").hardlink_to(path.with_name("g.onnx.data"))
    return Export(
        (Draft("onnx/g.onnx", "text_encoder", (), (), {"torch": "1"}, ("onnx/g.onnx.data",)),), "goldens/g.npz"
    )


def test_drafts_of_the_variants_follow_the_fp32_one(tmp_path: Path) -> None:
    export = quantize(tmp_path, folder(tmp_path), (Fp16Variant(), Int8Variant()))
    assert [(d.precision, d.path) for d in export.drafts] == [
        ("fp32", "onnx/g.onnx"),
        ("fp16", "onnx/g_fp16.onnx"),
        ("int8", "onnx/g_int8.onnx"),
    ]
    for draft in export.drafts[1:]:
        assert (tmp_path / draft.path).is_file()
        assert draft.tools.keys() == {"torch", "onnx"}
        # So small a graph has its weights in it.
        assert draft.external_data == ()
    assert load(tmp_path / "onnx" / "g.onnx") == graph()


def test_a_variant_is_made_of_the_roles_it_names(tmp_path: Path) -> None:
    export = folder(tmp_path)
    with pytest.raises(IntegrityError, match="of the role 'image_encoder', which this bundle has not"):
        quantize(tmp_path, export, (Int8Variant(roles=("image_encoder",)),))
    other = Int8Variant(roles=("image_encoder",), block=64)
    mine = Int8Variant(roles=("text_encoder",))
    draft = quantize(tmp_path, export, (mine,)).drafts[1]
    assert variant_of(draft, (Fp16Variant(), other, mine)) is mine


def test_a_graph_without_large_weights_has_no_variants(tmp_path: Path) -> None:
    model = graph()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT))
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    write_onnx(model, tmp_path / "g.onnx")
    export = Export((Draft("g.onnx", "text_encoder", (), (), {}),), "goldens/g.npz")
    with pytest.raises(IntegrityError, match=r"g\.onnx has no weights for this variant"):
        quantize(tmp_path, export, (Int8Variant(),))
