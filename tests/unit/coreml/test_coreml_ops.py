"""Every operation of the runner, through a protobuf that coremltools wrote, against coremltools' inference, torch or numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modelbake.coreml.ops import OPS
from modelbake.errors import IntegrityError, MachineError
from tests.unit.coreml import cases_elementwise, cases_shapes, cases_sums
from tests.unit.coreml.cases import CASES, Case, numbers
from tests.unit.coreml.programs import IOS16, IOS17, Array, Build, evaluated, inferred, protobuf, run

# Each adds to CASES.
_MODULES = (cases_elementwise, cases_shapes, cases_sums)


def answers(case: Case) -> list[Array]:
    if case.answer is None:
        return inferred(case.build, case.inputs, case.version)
    found = case.answer(**case.inputs)
    return list(found) if isinstance(found, tuple | list) else [found]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operation_gives_what_its_reference_gives(case: Case, tmp_path: Path) -> None:
    wanted = answers(case)
    for flexible in {False, case.flexible}:
        found = evaluated(case.build, case.inputs, tmp_path / str(flexible), case.version, flexible)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert (one.dtype.kind, other.dtype.kind) in {(one.dtype.kind,) * 2, ("i", "u"), ("u", "i")}
            np.testing.assert_allclose(one, other, rtol=case.tolerance, atol=case.tolerance)


HALVES = [case for case in CASES if case.half and any(array.dtype == np.float32 for array in case.inputs.values())]


@pytest.mark.parametrize("case", HALVES, ids=str)
def test_float16_is_computed_in_float32_and_rounded_once(case: Case, tmp_path: Path) -> None:
    halves = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in case.inputs.items()
    }
    found = evaluated(case.build, halves, tmp_path, case.version)
    wide = [one.astype(np.float32) if one.dtype == np.float16 else one for one in answers(case)]
    for one, other in zip(found, wide, strict=True):
        assert one.dtype == (np.float16 if other.dtype.kind == "f" else one.dtype)
        # Half a step of float16, and what the reference's last digits move it.
        np.testing.assert_allclose(one.astype(np.float64), other, rtol=2**-11 + 1e-5, atol=2**-24 + 1e-6)


def test_no_operation_is_without_a_case() -> None:
    tested = {case.op for case in CASES}
    assert {name for name in OPS if not name.startswith("constexpr_")} == tested


def test_an_integer_division_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    inputs = {"x": np.int32([7]), "y": np.int32([2])}
    with pytest.raises(IntegrityError, match="divide evenly"):
        evaluated(lambda mb, x, y: mb.real_div(x=x, y=y), inputs, tmp_path)


def test_an_index_outside_is_refused(tmp_path: Path) -> None:
    inputs = {"x": numbers(3), "i": np.int32([3])}
    with pytest.raises(IntegrityError, match="the index 3 of 3"):
        evaluated(lambda mb, x, i: mb.gather(x=x, indices=i), inputs, tmp_path)


@pytest.mark.parametrize("version", [IOS16, IOS17])
def test_an_index_from_the_end_is_taken_only_where_it_is_defined(version: int, tmp_path: Path) -> None:
    inputs = {"x": numbers(3), "i": np.int32([-1])}

    def found() -> Array:
        return evaluated(lambda mb, x, i: mb.gather(x=x, indices=i), inputs, tmp_path, version)[0]

    if version == IOS16:
        assert found() == inputs["x"][2]
    else:
        with pytest.raises(IntegrityError, match="the index -1, which CoreML7 leaves undefined"):
            found()


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda mb, x, n: mb.tile(x=x, reps=n), {"x": numbers(1), "n": np.int32([1 << 30])}),
        (lambda mb, n: mb.fill(shape=n, value=np.float32(1)), {"n": np.int32([1 << 20, 1 << 20])}),
        (lambda mb, i: mb.one_hot(indices=i, one_hot_vector_size=1 << 30), {"i": np.int32([0, 1])}),
        (lambda mb, x: mb.pad(x=x, pad=np.int32([1 << 29, 0]), constant_val=np.float32(0)), {"x": numbers(1)}),
    ],
)
def test_a_size_that_asks_for_all_memory_is_refused(build: Build, inputs: dict[str, Array], tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="which no model needs"):
        evaluated(build, inputs, tmp_path, flexible=True)


def test_a_range_that_asks_for_all_memory_is_refused() -> None:
    start, end, step = (torch.tensor(number, dtype=torch.int32) for number in (0, 1 << 30, 1))
    with pytest.raises(ValueError, match="which no model needs"):
        OPS["range_1d"].call(end=end, start=start, step=step)


def test_memory_that_is_not_to_be_had_is_the_machine_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*tensors: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 34359738368 bytes.")

    monkeypatch.setitem(OPS, "relu", replace(OPS["relu"], call=lambda x: no_more(x)))
    with pytest.raises(MachineError, match="needs more memory than there is"):
        evaluated(lambda mb, x: mb.relu(x=x), {"x": numbers(3)}, tmp_path)


def test_unknown_operations_are_refused_all_by_name(tmp_path: Path) -> None:
    inputs = {"x": numbers(1, 4, 4, 4)}
    message = protobuf(
        lambda mb, x: mb.pixel_shuffle(x=mb.topk(x=x, k=4, axis=1)[0], upscale_factor=2), inputs, tmp_path
    )
    with pytest.raises(IntegrityError, match=r"does not know: pixel_shuffle, topk \(first 'pixel_shuffle_0'\)"):
        run(message, inputs, tmp_path)


def test_an_unknown_mode_is_refused_with_the_operation_s_name(tmp_path: Path) -> None:
    inputs = {"x": numbers(4)}
    message = protobuf(lambda mb, x: mb.gelu(x=x, mode="EXACT", name="bent"), inputs, tmp_path)
    for operation in message.functions["main"].block_specializations["CoreML8"].operations:
        for value in operation.attributes.values():
            if list(value.immediateValue.tensor.strings.values) == ["EXACT"]:
                value.immediateValue.tensor.strings.values[0] = "NEARLY"
    with pytest.raises(IntegrityError, match=r"'bent' \(gelu\): the mode 'NEARLY' is not known"):
        run(message, inputs, tmp_path)


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    inputs = {"x": numbers(4)}
    message = protobuf(lambda mb, x: mb.relu(x=x), inputs, tmp_path)
    operation = message.functions["main"].block_specializations["CoreML8"].operations[0]
    operation.inputs["slope"].CopyFrom(operation.inputs["x"])
    with pytest.raises(IntegrityError, match="parameter 'slope'"):
        run(message, inputs, tmp_path)
