"""Goldens: the same arrays give the same bytes, come back as they were, and nothing in them is ever unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from modelbake import goldens
from modelbake.errors import IntegrityError
from modelbake.goldens import Case

SMALL = nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = st.one_of(
    nps.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]), SMALL),
    nps.arrays("<U5", SMALL, elements=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)),
)
NAMES = st.from_regex(r"[a-z_.0-9]{1,6}", fullmatch=True)
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=2)
CASES = st.lists(
    st.builds(Case, st.sampled_from(["text_encoder", "image_encoder"]), NAMES, TENSORS, TENSORS, TENSORS),
    max_size=3,
    unique_by=lambda case: (case.role, case.name),
)


def same(left: goldens.Arrays, right: goldens.Arrays) -> bool:
    return left.keys() == right.keys() and all(
        a.dtype == right[n].dtype and a.shape == right[n].shape and a.tobytes() == right[n].tobytes()
        for n, a in left.items()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("goldens")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    case = Case("text_encoder", "one", {"ids": np.arange(6).reshape(2, 3)}, {"y": np.ones(2, np.float32)})
    goldens.write(folder / "whole.npz", [case])
    return (folder / "whole.npz").read_bytes()


@given(cases=CASES)
def test_cases_come_back_as_they_were_sorted(folder: Path, cases: list[Case]) -> None:
    goldens.write(folder / "round.npz", cases)
    written = sorted((c for c in cases if c.inputs or c.outputs or c.raw), key=lambda c: (c.role, c.name))
    found = list(goldens.read(folder / "round.npz"))
    assert [(c.role, c.name) for c in found] == [(c.role, c.name) for c in written]
    for one, other in zip(found, written, strict=True):
        assert same(one.inputs, other.inputs)
        assert same(one.outputs, other.outputs)
        assert same(one.raw, other.raw)


@given(cases=CASES)
def test_the_same_arrays_give_the_same_bytes_whatever_their_order_and_layout(folder: Path, cases: list[Case]) -> None:
    def turned(arrays: goldens.Arrays) -> goldens.Arrays:
        return {
            name: np.asfortranarray(arrays[name]) if arrays[name].ndim else arrays[name] for name in reversed(arrays)
        }

    goldens.write(folder / "one.npz", cases)
    other = [Case(c.role, c.name, turned(c.inputs), turned(c.outputs), turned(c.raw)) for c in reversed(cases)]
    goldens.write(folder / "other.npz", other)
    assert (folder / "one.npz").read_bytes() == (folder / "other.npz").read_bytes()


def test_no_time_stamp_is_in_the_file(whole: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_truncated_file_is_an_integrity_error(folder: Path, whole: bytes) -> None:
    for length in range(0, len(whole), 7):
        (folder / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match=r"cut\.npz: these goldens cannot be read"):
            list(goldens.read(folder / "cut.npz"))


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_never_gives_an_array_that_was_not_written(folder: Path, whole: bytes, data: Any) -> None:
    damaged = bytearray(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
    (folder / "damaged.npz").write_bytes(damaged)
    (case,) = goldens.read(folder / "whole.npz")
    try:
        found = list(goldens.read(folder / "damaged.npz"))
    except IntegrityError:
        return
    # The archive's own directory has no check sum: a name may come out wrong or a member be lost, but no value changes.
    values = {a.tobytes() for c in found for a in (*c.inputs.values(), *c.outputs.values(), *c.raw.values())}
    assert values <= {a.tobytes() for a in (*case.inputs.values(), *case.outputs.values())}


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18), pickle.dumps([1]), b"not an archive"], ids=repr
)
def test_other_files_are_an_integrity_error_or_empty(folder: Path, data: bytes) -> None:
    (folder / "other.npz").write_bytes(data)
    if data.startswith(b"PK"):
        assert list(goldens.read(folder / "other.npz")) == []
        return
    with pytest.raises(IntegrityError, match=r"other\.npz"):
        list(goldens.read(folder / "other.npz"))


def test_a_lone_array_is_no_archive(folder: Path) -> None:
    with (folder / "array.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(IntegrityError, match=r"array\.npz"):
        list(goldens.read(folder / "array.npz"))


@pytest.mark.parametrize("key", ["a.npy", "role/case/part.npy", "role/case/other/x.npy", "role/case/input/x"])
def test_an_archive_of_other_keys_is_an_integrity_error(folder: Path, key: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    with zipfile.ZipFile(folder / "keys.npz", "w") as archive:
        archive.writestr(key, buffer.getvalue() if key.endswith(".npy") else b"no array")
    with pytest.raises(IntegrityError, match=r"keys\.npz"):
        list(goldens.read(folder / "keys.npz"))


def test_a_missing_file_is_an_integrity_error(folder: Path) -> None:
    with pytest.raises(IntegrityError, match=r"absent\.npz"):
        list(goldens.read(folder / "absent.npz"))


def test_objects_are_not_written(folder: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        goldens.write(folder / "objects.npz", [Case("r", "c", {"x": np.array([{}])}, {})])


class Trap:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import builtins; builtins.sprung = True",))


def test_a_pickle_in_an_archive_is_refused_and_never_run(folder: Path) -> None:
    import builtins

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Trap()]), allow_pickle=True)
    with zipfile.ZipFile(folder / "trap.npz", "w") as archive:
        archive.writestr("role/case/input/x.npy", buffer.getvalue())
    with pytest.raises(IntegrityError, match="Object arrays cannot be loaded"):
        list(goldens.read(folder / "trap.npz"))
    assert not hasattr(builtins, "sprung")


def test_doubles_are_rounded_to_float32_once_and_others_left_alone() -> None:
    arrays: goldens.Arrays = {"double": np.array([1 / 3]), "single": np.ones(1, np.float32), "ids": np.arange(2)}
    rounded = goldens.as_float32(arrays)
    assert rounded["double"].dtype == np.float32
    assert rounded["double"][0] == np.float32(1 / 3)
    assert rounded["single"] is arrays["single"]
    assert rounded["ids"] is arrays["ids"]
