"""A .mlpackage on disk: its files found and checked, its model's protobuf, and the interface that an app sees.

The layout is that of Apple's ModelPackage: Manifest.json names the items below Data/ and which of them is the root model
(`com.apple.CoreML/model.mlmodel`); an ML Program's large constants lie beside it (`weights/weight.bin`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from modelbake.coreml.proto import parse_model
from modelbake.errors import IntegrityError, RefusedError

MANIFEST = "Manifest.json"
DATA = "Data"
# What a blob's file name in a program starts with: the folder of the model.
MODEL_FOLDER = "@model_path/"
# What files may have, so that none asks for all memory: programs of the largest models take some tens of MB.
LARGEST_MANIFEST = 1 << 20
LARGEST_MODEL = 2 << 30
LONGEST_NAME, LONGEST_PATH = 255, 1024
# Model.proto's specificationVersion, and the operations that its programs are made of.
_OPSETS = {6: "CoreML5", 7: "CoreML6", 8: "CoreML7", 9: "CoreML8"}
# FeatureTypes.proto's ArrayDataType, and numpy's names.
_ARRAYS = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
# FeatureTypes.proto's ImageFeatureType.ColorSpace.
_RGB = 20
_KINDS = {"mlProgram": "ML Program", "neuralNetwork": "neural network", "pipeline": "pipeline"}


@dataclass(frozen=True)
class Feature:
    """One input or output of the model: its name, numpy's name of its dtype, and the shapes that it takes.

    An image is uint8 [1, 3, height, width], channels R, G, B.

    `shape` is the default (empty where the model gives none); `shapes` are the enumerated ones; `ranges` are lowest and highest size
    of each dimension (highest None: without bound).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the model takes an array of this shape."""
        if self.shapes:
            return shape in self.shapes
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape == self.shape

    def shown(self) -> str:
        """The shapes in words, for messages."""
        if self.shapes:
            return " or ".join(str(list(shape)) for shape in self.shapes)
        if self.ranges:
            words = [
                str(low) if low == high else f"{low} to {'any' if high is None else high}" for low, high in self.ranges
            ]
            return f"[{', '.join(words)}]"
        return str(list(self.shape))


@dataclass(frozen=True)
class Package:
    """An opened package: the model's file, its parsed Model message, and one function's inputs and outputs."""

    path: Path
    model: Path
    spec: Any
    function: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]

    def weight_file(self, name: str) -> Path:
        """The file that a blob of the program names (`@model_path/…`); RefusedError where it is outside the model's folder."""
        if not name.startswith(MODEL_FOLDER):
            raise RefusedError(
                f"{self.model}: the program's weights are at {name!r}, which is no place in the package; do not use it."
            )
        return _within(self.model.parent, name.removeprefix(MODEL_FOLDER), self.path)

    def files(self) -> tuple[Path, ...]:
        """Every file that the package needs: Manifest.json, the model, and the weights that its programs name."""
        names = sorted(set(_blob_files(self.spec.mlProgram)))
        return (self.path / MANIFEST, self.model, *(self.weight_file(name) for name in names))


def open_package(path: Path) -> Package:
    """The ML Program of the folder `path`, and the interface of the function that Core ML runs by default.

    IntegrityError where a file is missing, cut short or no such document, or the model is no ML Program, or has inputs or outputs
    that are no arrays; RefusedError where a path or a link leads out of the package.
    """
    if not path.is_dir():
        raise IntegrityError(f"{path} is no folder, as a .mlpackage is; build or copy the bundle again.")
    listed = _root_model(path)
    model = listed.path
    spec = parse_model(_read(model, LARGEST_MODEL), model)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        shown = _KINDS.get(kind, kind) if kind else "nothing"
        raise IntegrityError(f"{model}: holds {shown}, where an ML Program is needed; convert to mlprogram.")
    description = spec.description
    if len(description.functions):
        wanted = description.defaultFunctionName
        found = next((one for one in description.functions if one.name == wanted), None)
        if found is None:
            raise IntegrityError(
                f"{model}: has no function {wanted!r}; it has {', '.join(f.name for f in description.functions)}."
            )
        described: Any = found
        function = wanted
    else:
        described = description
        function = "main"
    if len(described.state):
        raise IntegrityError(f"{model}: keeps a state ({described.state[0].name!r}), which this runner does not know.")
    package = Package(
        path, model, spec, function, _features(described.input, model), _features(described.output, model)
    )
    for file in package.files()[2:]:
        if not file.is_file():
            raise IntegrityError(
                f"{file} is missing, where the package's program has its weights; build or copy the bundle again."
            )
        if not any(file.is_relative_to(item) for item in listed.items):
            raise IntegrityError(
                f"{path / MANIFEST} does not list {file.relative_to(path)}, which the program needs; build or copy the bundle again."
            )
    _check_version(package)
    return package


def _check_version(package: Package) -> None:
    """Which systems load a model follows from its version, and what its operations mean from their set: they must be of one time."""
    version, functions = package.spec.specificationVersion, package.spec.mlProgram.functions
    # What lacks the function is told by who reads the program.
    opset = functions[package.function].opset if package.function in functions else _OPSETS.get(version)
    if opset is None or _OPSETS.get(version) != opset:
        raise IntegrityError(
            f"{package.model}: is of version {version} with operations of {opset or 'none'}, which is not known to go together; "
            "convert it with coremltools 8 or 9 for iOS 18 or older."
        )


@dataclass(frozen=True)
class _Listed:
    """What Manifest.json lists: the root model's file, and every item's place."""

    path: Path
    items: tuple[Path, ...]


def _root_model(path: Path) -> _Listed:
    manifest = _within(path, MANIFEST, path)
    try:
        document = json.loads(_read(manifest, LARGEST_MANIFEST))
        items = document["itemInfoEntries"]
        entry = items[document["rootModelIdentifier"]]["path"]
        names = [item["path"] for item in items.values()]
        if not all(isinstance(one, str) for one in names):
            raise TypeError("a path that is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{manifest}: no manifest of a model package ({error!r}); build or copy the bundle again."
        ) from error
    places = tuple(_within(path / DATA, one, path) for one in names)
    for found in places:
        if not found.exists():
            raise IntegrityError(f"{found} is missing, which {MANIFEST} lists; build or copy the bundle again.")
    return _Listed(_within(path / DATA, entry, path), places)


def _read(path: Path, largest: int) -> bytes:
    """The bytes of a file of the package, never of what is none: reading a pipe would wait for ever."""
    try:
        if not path.is_file():
            raise IntegrityError(f"{path}: cannot be read (missing, or no file); build or copy the bundle again.")
        size = path.stat().st_size
        if size > largest:
            raise IntegrityError(f"{path}: is of {size} bytes, which no model has; build or copy the bundle again.")
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); build or copy the bundle again.") from error


def _within(folder: Path, name: str, package: Path) -> Path:
    """`name` below `folder`; RefusedError where it leaves it, or a link is on the way."""
    relative = PurePosixPath(name)
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise RefusedError(f"{package}: names the file {name!r}, which is outside the package; do not use it.")
    whole = folder.relative_to(package) / relative
    if len(str(whole)) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in whole.parts):
        raise RefusedError(f"{package}: names a file by {len(name)} characters, which no package does; do not use it.")
    for depth in range(1, len(whole.parts) + 1):
        if package.joinpath(*whole.parts[:depth]).is_symlink():
            raise RefusedError(
                f"{package.joinpath(*whole.parts[:depth])} is a link, which no package has; do not use it."
            )
    return folder / relative


def _features(described: Iterable[Any], model: Path) -> tuple[Feature, ...]:
    features = []
    for one in described:
        kind = one.type.WhichOneof("Type")
        if kind == "imageType":
            features.append(_image(one, model))
            continue
        if kind != "multiArrayType":
            raise IntegrityError(
                f"{model}: {one.name!r} is of the kind {kind}, and this runner knows arrays and RGB images alone."
            )
        array = one.type.multiArrayType
        if array.dataType not in _ARRAYS:
            raise IntegrityError(f"{model}: {one.name!r} has numbers of the unknown type {array.dataType}.")
        flexible = array.WhichOneof("ShapeFlexibility")
        shapes: tuple[tuple[int, ...], ...] = ()
        ranges: tuple[tuple[int, int | None], ...] = ()
        if flexible == "enumeratedShapes":
            shapes = tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes)
        elif flexible == "shapeRange":
            ranges = tuple(
                (int(size.lowerBound), None if size.upperBound < 0 else int(size.upperBound))
                for size in array.shapeRange.sizeRanges
            )
        shape = tuple(array.shape)
        if any(len(other) != len(shape) for other in (*shapes, *([ranges] if ranges else ()))):
            raise IntegrityError(
                f"{model}: {one.name!r} takes shapes of other ranks than its default; build or copy the bundle again."
            )
        features.append(Feature(one.name, _ARRAYS[array.dataType], shape, shapes, ranges))
    names = [feature.name for feature in features]
    if len(set(names)) != len(names):
        raise IntegrityError(
            f"{model}: names an input or output twice ({', '.join(names)}); build or copy the bundle again."
        )
    return tuple(features)


def _image(described: Any, model: Path) -> Feature:
    image = described.type.imageType
    if image.colorSpace != _RGB or image.WhichOneof("SizeFlexibility") or not (image.width > 0 and image.height > 0):
        raise IntegrityError(
            f"{model}: {described.name!r} is an image of many sizes or not RGB, which this runner does not know."
        )
    return Feature(described.name, "uint8", (1, 3, int(image.height), int(image.width)))


def _blob_files(program: Any) -> Iterable[str]:
    for function in program.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                for value in operation.attributes.values():
                    if value.WhichOneof("value") == "blobFileValue":
                        yield value.blobFileValue.fileName
                for argument in operation.inputs.values():
                    for binding in argument.arguments:
                        if binding.value.WhichOneof("value") == "blobFileValue":
                            yield binding.value.blobFileValue.fileName
