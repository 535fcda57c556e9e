"""What a .mlpackage holds, in the terms in which a graph's facts are told, without running it; needs no torch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from modelbake.coreml.package import Feature, Package
from modelbake.coreml.program import Blob, Function, Immediate, Operation, TensorType, read_function
from modelbake.coreml.weights import WeightFile
from modelbake.graph import Graph, Signature


def facts_of(package: Package) -> Graph:
    """The facts of the opened package's function; the errors are those of read_function, and of weights that are cut short or others.

    `opsets` holds the program's own as `CoreML6` and the like, `ir_version` is Model.proto's specificationVersion. `parameters`
    are the numbers of constants as they are stored, indices and scales of compressed weights among them.
    """
    function = read_function(package.spec.mlProgram, package.function, package.model)
    operations = [one for one in function.operations if one.type != "const"]
    _check_weights(package, function)
    constants = [kind for one in function.operations for kind in _constants(one)]
    by_dtype: Counter[str] = Counter()
    weight_bytes = 0
    for kind in constants:
        count = 1
        for size in kind.shape or ():
            count *= size or 0
        by_dtype[kind.dtype.name] += count
        weight_bytes += kind.dtype.bytes_of(count)
    shown = package.spec.description.metadata
    return Graph(
        size=sum(file.stat().st_size for file in package.files()),
        ir_version=package.spec.specificationVersion,
        producer="coremltools",
        opsets={function.opset: package.spec.specificationVersion},
        nodes=len(operations),
        operators=dict(Counter(one.type for one in operations).most_common()),
        parameters=sum(by_dtype.values()),
        parameters_by_dtype=dict(by_dtype.most_common()),
        weight_bytes=weight_bytes,
        constants=len(constants),
        inputs=tuple(_signature(one) for one in package.inputs),
        outputs=tuple(_signature(one) for one in package.outputs),
        external_data=tuple(file.relative_to(package.path).as_posix() for file in package.files()[2:]),
        metadata=dict(sorted(shown.userDefined.items())),
    )


def _check_weights(package: Package, function: Function) -> None:
    """That each constant in a file of weights is there, by what the file says of it; the numbers are not read."""
    held = (value for one in function.operations for given in one.inputs.values() for value in given)
    blobs = [value for value in held if isinstance(value, Blob)]
    for name in sorted({blob.file for blob in blobs}):
        file = WeightFile(package.weight_file(name))
        try:
            for blob in (blob for blob in blobs if blob.file == name):
                file.check(blob.offset, blob.type.dtype, blob.count)
        finally:
            file.close()


def _constants(operation: Operation) -> list[TensorType]:
    """The types of what the operation holds itself: a constant's value, and those of a decompressor."""
    if not operation.constant:
        return []
    values: list[Any] = [value for given in operation.inputs.values() for value in given]
    return [one.type for one in values if isinstance(one, Blob | Immediate) and one.type is not None and one.type.shape]


def _signature(feature: Feature) -> Signature:
    shape: tuple[int | str, ...] = feature.shape
    if feature.shapes:
        sizes = [sorted({one[axis] for one in feature.shapes}) for axis in range(len(feature.shape))]
        shape = tuple(one[0] if len(one) == 1 else " | ".join(map(str, one)) for one in sizes)
    elif feature.ranges:
        shape = tuple(low if low == high else f"{low}..{high or ''}" for low, high in feature.ranges)
    return Signature(feature.name, feature.dtype, shape)
