"""ONNX files read from their own bytes: the same facts as the onnx package gives, and damaged files are told, not believed."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelbake.errors import IntegrityError
from modelbake.graph import Signature, _Reader, read_graph
from tests.unit import tiny

# A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def matrix_model() -> onnx.ModelProto:
    """A graph with a constant, a subgraph in an If, weights of three dtypes, a custom domain, and metadata."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    branches = {}
    for name, value in (("then_branch", 1.0), ("else_branch", 2.0)):
        constant = helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.full((5,), value, np.float32))
        )
        body = [constant, helper.make_node("Identity", ["c"], ["z"])]
        branches[name] = helper.make_graph(body, name, [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [5])])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("If", ["flag"], ["i"], **branches),
        helper.make_node("Strange", ["m"], ["y"], domain="com.example"),
    ]
    weights = {
        "w": np.ones((3, 2), np.float32),
        "half": np.ones((4, 4), np.float16),
        "int": np.ones((7,), np.int8),
        "flag": np.array(True),
    }
    # As old exporters did, one of the weights is among the inputs as well.
    extra = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2])
    graph = helper.make_graph(nodes, "g", [x, extra], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="maker")
    helper.set_model_props(model, {"key": "value"})
    return model


def test_the_facts_are_those_that_were_put_in(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    onnx.save_model(matrix_model(), str(path))
    found = read_graph(path)
    assert (found.size, found.ir_version, found.producer) == (path.stat().st_size, 8, "maker")
    assert found.opsets == {"": 17, "com.example": 3}
    assert found.operators == {"Constant": 2, "Identity": 2, "If": 1, "MatMul": 1, "com.example.Strange": 1}
    assert found.nodes == 7
    assert found.parameters_by_dtype == {"bool": 1, "float16": 16, "float32": 6, "int8": 7}
    assert (found.parameters, found.weight_bytes, found.constants) == (30, 1 + 32 + 24 + 7, 10)
    assert found.inputs == (Signature("x", "float32", ("batch", 3)),)
    assert found.outputs == (Signature("y", "float32", ("?", 2)),)
    assert found.metadata == {"key": "value"}


@pytest.mark.parametrize("beside", [False, True], ids=["inside", "beside"])
def test_weights_count_the_same_inside_and_beside_the_graph(tmp_path: Path, beside: bool) -> None:
    path = tmp_path / "x.onnx"
    tiny.matrix_graph(path, np.ones((600, 7), np.float32))
    if beside:
        onnx.save_model(
            onnx.load(str(path)), str(path), save_as_external_data=True, location="x.data", size_threshold=1
        )
    found = read_graph(path)
    assert found.external_data == (("x.data",) if beside else ())
    assert (found.parameters, found.weight_bytes) == (4200, 16800)


def test_real_graphs_read_as_onnx_reads_them(tmp_path: Path) -> None:
    tiny.models_folder(tmp_path)
    for path in tmp_path.glob("onnx/*.onnx"):
        model, found = onnx.load(str(path)), read_graph(path)
        assert found.operators == dict(Counter(node.op_type for node in model.graph.node))
        assert found.parameters == sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        assert [one.name for one in found.inputs] == [value.name for value in model.graph.input]
        assert found.opsets == {one.domain: one.version for one in model.opset_import}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is no ONNX graph"),
        (b"\x08\x08", "no graph or no opset"),
        (b"\x3a\xff\xff\xff\xff\x0f", "longer than what holds it"),
        (b"\x3a" + b"\xff" * 11, "more than 64 bits"),
    ],
)
def test_what_is_no_graph_is_told_with_its_path(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=words) as caught:
        read_graph(path)
    assert str(path) in str(caught.value)


def nested(depth: int) -> bytes:
    """A graph in a graph in a graph."""
    graph = b""
    for _ in range(depth):
        # A graph's node (1), its attribute (5), its graph (6); by hand, since protobuf itself makes none so deep.
        graph = _field(1, _field(4, b"If") + _field(5, _field(6, graph)))
    return _field(7, graph) + _field(8, b"\x10\x11")


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_graphs_nested_without_end_are_refused() -> None:
    assert _Reader(nested(3)).model().nodes == 3
    with pytest.raises(ValueError, match="nested too deep"):
        _Reader(nested(40)).model()


WHOLE = matrix_model().SerializeToString()


@patient
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(1, len(WHOLE)))
@example(0, 0, 1)
def test_a_damaged_file_gives_facts_or_one_error(at: int, byte: int, end: int) -> None:
    data = bytearray(WHOLE)
    data[at] = byte
    for one in (bytes(data), WHOLE[:end]):
        with suppress(ValueError):
            _Reader(one).model()


@patient
@given(st.binary(max_size=200))
def test_any_bytes_give_facts_or_one_error(data: bytes) -> None:
    with suppress(ValueError):
        _Reader(data).model()
