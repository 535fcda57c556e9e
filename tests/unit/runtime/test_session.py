"""One graph in ONNX Runtime, and what happens where it is missing, damaged or fed wrongly."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelbake.errors import IntegrityError, MachineError
from modelbake.runtime.session import Session
from tests.unit import tiny

WEIGHTS = np.array([[1.0, -2.0, 4.0], [0.5, 3.0, 0.0]], np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    tiny.matrix_graph(tmp_path / "m.onnx", WEIGHTS)
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_a_graph_gives_its_outputs_by_name(graph: Path, threads: int | None) -> None:
    session = Session(graph, threads)
    x = np.array([[1.0, 2.0]], np.float32)
    outputs = session.run({"x": x})
    assert (session.input_names, session.output_names) == (("x",), ("y",))
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], x @ WEIGHTS)


def test_a_session_answers_several_threads_at_once(graph: Path) -> None:
    session = Session(graph, 1)
    inputs = [np.full((1, 2), value, np.float32) for value in range(50)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda x: session.run({"x": x})["y"], inputs))
    for x, y in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(y, x @ WEIGHTS)


def test_a_missing_graph_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"absent\.onnx does not exist although the manifest lists it") as caught:
        Session(tmp_path / "absent.onnx")
    assert caught.value.exit_code == 7


def test_a_damaged_graph_is_an_integrity_error(graph: Path) -> None:
    whole = graph.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no graph at all", whole.replace(b"MatMul", b"NatMul")):
        graph.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"m\.onnx: ONNX Runtime cannot load") as caught:
            Session(graph)
        assert caught.value.exit_code == 5


def test_inputs_that_do_not_fit_are_an_integrity_error(graph: Path) -> None:
    session = Session(graph)
    for inputs in ({}, {"w": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 2))}):
        with pytest.raises(IntegrityError, match=r"m\.onnx: the graph fails on its inputs"):
            session.run(inputs)


@pytest.mark.parametrize(("said", "kept"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_before_onnxruntime_is_imported_unless_the_user_said_otherwise(
    graph: Path, said: str | None, kept: str
) -> None:
    code = f"""
import os, sys
from pathlib import Path
from modelbake.runtime.session import Session
assert "onnxruntime" not in sys.modules
Session(Path({str(graph)!r}))
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if said is not None:
        environ["ORT_DISABLE_TELEMETRY"] = said
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{kept}\n"
