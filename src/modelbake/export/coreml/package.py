"""The files of an .mlpackage: a manifest, the program's protobuf and its weights, written so that the same model gives the same bytes.

What makes coremltools' own packages differ from run to run is taken out: identifiers drawn at random (here: digests of the files
they stand for), the conversion's date, the order of protobuf maps and of tensors in weight.bin (here: as the program reads them).
The layout is that of coremltools' ModelPackage (modelpackage/src/ModelPackage.cpp): Manifest.json names each item below Data/.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelbake.errors import IntegrityError
from modelbake.export.coreml import blob, patches
from modelbake.files import disk_errors, sha256_of

AUTHOR = "com.apple.CoreML"
MODEL = f"{AUTHOR}/model.mlmodel"
WEIGHTS = f"{AUTHOR}/weights/weight.bin"
BLOB_NAME = "@model_path/weights/weight.bin"


@contextmanager
def reading(path: Path) -> Iterator[tuple[Any, blob.Reader]]:
    """The package's protobuf (a coremltools Model_pb2.Model) and its weights; IntegrityError where one is missing or damaged."""
    with patches.quiet():
        from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    program, weights = path / "Data" / MODEL, path / "Data" / WEIGHTS
    try:
        spec.ParseFromString(program.read_bytes())
        file = weights.open("rb")
    except DecodeError as error:
        raise IntegrityError(
            f"{program}: it is no Core ML model ({error}); build or fetch the package again."
        ) from error
    except OSError as error:
        raise IntegrityError(f"{path}: the package is not whole ({error}); build or fetch it again.") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise IntegrityError(
            f"{path}: it holds a {spec.WhichOneof('Type')}, not an ML Program; convert the model to one."
        )
    with file:
        yield spec, blob.Reader(file, weights)


def write(path: Path, spec: Any, fill: Callable[[Any, blob.Writer], None]) -> None:
    """Write the package `path`, which is not there yet, whole or not at all; FileExistsError where it is.

    `fill` adds the weights and sets in `spec` where they lie.
    """
    if path.exists():
        raise FileExistsError(path)
    partial = path.with_name(f".{path.name}-partial")
    with disk_errors(path.parent):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            weights = partial / "Data" / WEIGHTS
            weights.parent.mkdir(parents=True)
            with weights.open("wb") as file:
                writer = blob.Writer(file)
                fill(spec, writer)
                writer.finish()
            (partial / "Data" / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
            (partial / "Manifest.json").write_text(_manifest(partial), encoding="utf-8")
            os.replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def copy_weights(spec: Any, reader: blob.Reader, writer: blob.Writer) -> None:
    """Append all tensors that the program names, in its own order and each once, and name their new places."""
    moved: dict[int, int] = {}
    for operation in operations(spec):
        for value in blob_values(operation):
            move(value, reader, writer, moved)


def move(value: Any, reader: blob.Reader, writer: blob.Writer, moved: dict[int, int]) -> None:
    """Append the tensor of one value and name its new place; `moved` holds what was moved before, old offset to new."""
    old = value.blobFileValue.offset
    if old not in moved:
        entry = reader.entry(old)
        moved[old] = writer.add(entry.kind, reader.chunks(entry), entry.count)
    value.blobFileValue.offset = moved[old]


def operations(spec: Any) -> Iterator[Any]:
    """All MIL operations of the program, in order, those of nested blocks after the one that holds them."""

    def within(block: Any) -> Iterator[Any]:
        for operation in block.operations:
            yield operation
            for inner in operation.blocks:
                yield from within(inner)

    for _, function in sorted(spec.mlProgram.functions.items()):
        for _, block in sorted(function.block_specializations.items()):
            yield from within(block)


def blob_values(operation: Any) -> Iterator[Any]:
    """The operation's values that lie in weight.bin: attributes, then inputs, by name."""
    values = [value for _, value in sorted(operation.attributes.items())]
    values += [binding.value for _, given in sorted(operation.inputs.items()) for binding in given.arguments]
    return (value for value in values if value.HasField("blobFileValue"))


def _manifest(folder: Path) -> str:
    def identifier(name: str) -> str:
        content = f"{name}\0{sha256_of(folder / 'Data' / name)}".encode()
        return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=5)).upper()

    items = (
        (MODEL, "model.mlmodel", "CoreML Model Specification"),
        (WEIGHTS.rpartition("/")[0], "weights", "CoreML Model Weights"),
    )
    files = {MODEL: MODEL, WEIGHTS.rpartition("/")[0]: WEIGHTS}
    entries = {
        identifier(files[path]): {"author": AUTHOR, "description": description, "name": name, "path": path}
        for path, name, description in items
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": identifier(MODEL)}
    return json.dumps(manifest, indent=4, sort_keys=True) + "\n"
