"""Packages and files of weights that are damaged, hostile or of another kind: each refused with its reason, never with a crash."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.coreml.dtypes import DTYPES
from modelbake.coreml.package import Feature, open_package
from modelbake.coreml.proto import parse_model
from modelbake.coreml.runner import Runner
from modelbake.coreml.weights import WeightFile
from modelbake.errors import IntegrityError, RefusedError
from tests import coreml_packages
from tests.coreml_editor import MODEL, WEIGHTS, Editor

WRITERS = {
    "fp32": "float", "fp16": "fp16", "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "int4": "int4", "uint1": "uint1", "uint2": "uint2", "uint3": "uint3", "uint4": "uint4", "uint6": "uint6",
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "tiny.mlpackage"
    coreml_packages.sentence_package(coreml_packages.tiny_bert(1), 8).save(str(path))
    return path


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    shutil.copytree(package, tmp_path / "copy.mlpackage")
    return tmp_path / "copy.mlpackage"


def ones() -> dict[str, Any]:
    return {name: np.ones((1, 8), np.int32) for name in ("input_ids", "attention_mask")}


def written(path: Path, arrays: dict[str, Any]) -> dict[str, int]:
    """coremltools' own file of weights, and where each array is."""
    from coremltools.libmilstoragepython import _BlobStorageWriter

    writer = _BlobStorageWriter(str(path))
    return {
        name: getattr(writer, f"write_{WRITERS[name]}_data")(array.view(np.uint16) if name == "fp16" else array)
        for name, array in arrays.items()
    }


def arrays(count: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {}
    for name in WRITERS:
        kind = DTYPES[name]
        if name.startswith("fp"):
            found[name] = random.normal(size=count).astype(kind.numpy)
        else:
            low, high = (-(1 << (kind.bits - 1)), 1 << (kind.bits - 1)) if kind.signed else (0, 1 << kind.bits)
            found[name] = random.integers(low, high, count).astype(kind.numpy)
    return found


@pytest.mark.parametrize("count", [1, 7, 8, 13, 64, 1000])
def test_what_coremltools_writes_is_read(count: int, tmp_path: Path) -> None:
    wanted = arrays(count)
    offsets = written(tmp_path / "weight.bin", wanted)
    file = WeightFile(tmp_path / "weight.bin")
    for name, array in wanted.items():
        assert np.array_equal(file.read(offsets[name], DTYPES[name], count), array), name


def test_what_is_written_by_the_documented_format_is_read_by_coremltools(tmp_path: Path) -> None:
    from coremltools.libmilstoragepython import _BlobStorageReader

    data = np.arange(10, dtype=np.float32)
    head = struct.pack("<II", 1, 2).ljust(64, b"\0")
    entry = struct.pack("<IIQQQ", 0xDEADBEEF, 2, data.nbytes, 128, 0).ljust(64, b"\0")
    (tmp_path / "weight.bin").write_bytes(head + entry + data.tobytes())
    assert np.array_equal(_BlobStorageReader(str(tmp_path / "weight.bin")).read_float_data(64), data)
    assert np.array_equal(WeightFile(tmp_path / "weight.bin").read(64, DTYPES["fp32"], 10), data)


def test_rows_are_read_alone(tmp_path: Path) -> None:
    table = np.arange(60, dtype=np.float32)
    offset = written(tmp_path / "weight.bin", {"fp32": table})["fp32"]
    rows = WeightFile(tmp_path / "weight.bin").read_rows(offset, DTYPES["fp32"], (12, 5), [11, 0, 3])
    assert np.array_equal(rows, table.reshape(12, 5)[[11, 0, 3]])


@given(st.binary(max_size=400), st.integers(0, 500), st.sampled_from(list(DTYPES)), st.integers(0, 1 << 40))
@settings(max_examples=300)
def test_random_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, name: str, count: int
) -> None:
    path = tmp_path_factory.mktemp("random") / "weight.bin"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="copy the bundle again"):
        WeightFile(path).read(offset, DTYPES[name], count)


@given(st.data())
@settings(max_examples=200)
def test_a_file_with_any_part_missing_or_changed_is_refused_or_read_whole(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    wanted = arrays(13)
    path = tmp_path_factory.mktemp("damaged") / "weight.bin"
    offsets = written(path, wanted)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    for name, offset in offsets.items():
        try:
            found = WeightFile(path).read(offset, DTYPES[name], 13)
        except IntegrityError:
            continue
        assert found.shape == (13,)
        assert found.dtype == wanted[name].dtype


def test_a_model_cut_at_any_byte_is_refused(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "cut.mlpackage")
    model = tmp_path / "cut.mlpackage" / MODEL
    data = model.read_bytes()
    random = np.random.default_rng(1)
    for length in {0, 1, len(data) - 1, *map(int, random.integers(0, len(data), 150))}:
        model.write_bytes(data[:length])
        with pytest.raises(IntegrityError):
            Runner(tmp_path / "cut.mlpackage")


def test_a_model_with_any_byte_changed_runs_or_is_refused(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "changed.mlpackage")
    model = tmp_path / "changed.mlpackage" / MODEL
    data = model.read_bytes()
    random = np.random.default_rng(2)
    for place in map(int, random.integers(0, len(data), 200)):
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        model.write_bytes(changed)
        # Any other error is a crash.
        with contextlib.suppress(IntegrityError, RefusedError):
            Runner(tmp_path / "changed.mlpackage").run(ones())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda d, e: d.pop("itemInfoEntries"), IntegrityError, "no manifest"),
        (lambda d, e: e.update(path="../x"), RefusedError, "outside the package"),
        (lambda d, e: e.update(path="/etc/passwd"), RefusedError, "outside the package"),
        (lambda d, e: e.update(path="com.apple.CoreML/none"), IntegrityError, "is missing"),
        (lambda d, e: e.update(path=7), IntegrityError, "no manifest"),
        (lambda d, e: e.update(path="com.apple.CoreML/weights"), IntegrityError, "cannot be read"),
        (lambda d, e: e.update(path="x" * 300), RefusedError, "300 characters"),
        (lambda d, e: e.update(path="x/" * 5000 + "x"), RefusedError, "10001 characters"),
        (lambda d, e: d.update(more="x" * (1 << 20)), IntegrityError, "bytes, which no model has"),
    ],
)
def test_a_manifest_that_is_none_is_refused(change: Any, error: type[Exception], words: str, copy: Path) -> None:
    path = copy / "Manifest.json"
    document = json.loads(path.read_text())
    change(document, document["itemInfoEntries"].get(document["rootModelIdentifier"]))
    path.write_text(json.dumps(document))
    with pytest.raises(error, match=words):
        open_package(copy)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(name: str, copy: Path) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(IntegrityError, match=Path(name).name):
        open_package(copy)


def of_sizes(message: Any, *sizes: int) -> None:
    """Another shape in a tensor's type."""
    kind = message.tensorType
    del kind.dimensions[:]
    for size in sizes:
        kind.dimensions.add().constant.size = size
    kind.rank = len(sizes)


def first_constant(e: Editor, blob: bool) -> Any:
    """Of numbers, in weight.bin or in the program."""
    values = (one.attributes["val"] for one in e.operations("const"))
    return next(
        one
        for one in values
        if (one.WhichOneof("value") == "blobFileValue") == blob
        and one.immediateValue.tensor.WhichOneof("value") != "strings"
    )


def chained(e: Editor) -> None:
    """Two hundred compressed constants, each made of the one before."""
    before = next(one for one in e.operations("const") if one.attributes["val"].WhichOneof("value") == "blobFileValue")
    for index in range(200):
        one = e.block.operations.add()
        one.type = "constexpr_blockwise_shift_scale"
        for key in ("data", "scale"):
            one.inputs[key].arguments.add().name = before.outputs[0].name
        one.outputs.add().CopyFrom(before.outputs[0])
        one.outputs[0].name = f"chained_{index}"
        before = one


def ranks(e: Editor) -> None:
    kind = e.spec.description.input[0].type.multiArrayType
    kind.enumeratedShapes.shapes.add().shape.extend([1, 8, 1])


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda e: of_sizes(first_constant(e, False).type, 0, 1 << 63), IntegrityError, "more numbers than any model"),
        (
            lambda e: of_sizes(first_constant(e, False).type, 0, 1 << 62, 4),
            IntegrityError,
            "more numbers than any model",
        ),
        (lambda e: of_sizes(first_constant(e, False).type, *[1] * 70), IntegrityError, "70 dimensions"),
        (lambda e: of_sizes(first_constant(e, True).type, 0, 1 << 63), IntegrityError, "more numbers than any model"),
        (
            lambda e: setattr(first_constant(e, True).blobFileValue, "fileName", "@model_path/" + "x" * 300),
            RefusedError,
            "300 characters",
        ),
        (chained, IntegrityError, "17 deep"),
        (ranks, IntegrityError, "other ranks than its default"),
    ],
)
def test_what_only_a_hostile_program_has_is_refused(
    damage: Any, error: type[Exception], words: str, package: Path, tmp_path: Path
) -> None:
    editor = Editor(package, tmp_path / "hostile.mlpackage")
    damage(editor)
    editor.save()
    with pytest.raises(error, match=words):
        Runner(editor.path)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS, "Data", "Data/com.apple.CoreML/weights"])
def test_a_link_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / "moved")
    (copy / name).symlink_to(tmp_path / "moved")
    with pytest.raises(RefusedError, match="is a link"):
        open_package(copy)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(IntegrityError, match=Path(name).name):
        open_package(copy)


def test_another_kind_of_model_is_refused(copy: Path) -> None:
    spec = parse_model((copy / MODEL).read_bytes(), copy / MODEL)
    spec.neuralNetwork.SetInParent()
    (copy / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(IntegrityError, match="holds neural network, where an ML Program is needed"):
        open_package(copy)


def test_a_path_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="is no folder"):
        open_package(tmp_path / "none.mlpackage")


def test_the_interface_is_what_coremltools_says(package: Path) -> None:
    found = open_package(package)
    assert found.inputs == (Feature("input_ids", "int32", (1, 8)), Feature("attention_mask", "int32", (1, 8)))
    assert found.outputs == (Feature("embeddings", "float32", (1, 32)),)
    assert [path.relative_to(package).as_posix() for path in found.files()] == ["Manifest.json", MODEL, WEIGHTS]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"input_ids": np.ones((1, 8), np.int32)}, "takes input_ids, attention_mask, and was given input_ids"),
        (ones() | {"more": np.ones(1)}, "was given attention_mask, input_ids, more"),
        (
            ones() | {"input_ids": np.ones((1, 8), np.int64)},
            r"input_ids of int32 \[1, 8\], and was given int64 \[1, 8\]",
        ),
        (ones() | {"input_ids": np.ones((1, 9), np.int32)}, r"and was given int32 \[1, 9\]"),
        (ones() | {"input_ids": np.full((1, 8), 100, np.int32)}, "the index 100 of 100"),
    ],
)
def test_other_inputs_are_refused(inputs: dict[str, Any], words: str, package: Path) -> None:
    with pytest.raises(IntegrityError, match=words):
        Runner(package).run(inputs)


@pytest.mark.parametrize("keep", [0, 5000, 1 << 30])
def test_what_is_kept_changes_no_result(keep: int, package: Path) -> None:
    runner = Runner(package, keep_bytes=keep)
    found = [runner.run(ones())["embeddings"] for _ in range(2)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], Runner(package).run(ones())["embeddings"])
    assert sum(one.nbytes for kept in runner._constants._kept.values() for one in kept) <= keep


def test_reading_a_package_imports_nothing_else_of_coremltools(package: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from pathlib import Path; from modelbake.coreml.package import open_package; open_package(Path(sys.argv[1]))"
    code += "; print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('coremltools', 'torch')))"
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
