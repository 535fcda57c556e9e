"""What the tests ask of packages: their digest and size, and their constants made whole again, apart from the runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError
from modelbake.export.coreml import blob, package
from modelbake.files import file_refs
from modelbake.manifest import bundle_digest


def digest(path: Path) -> str:
    """Of all the package's files; the same for the same content."""
    return bundle_digest(file_refs(path))


def size(path: Path) -> int:
    """Bytes of all the package's files."""
    return sum(ref.size for ref in file_refs(path))


def dense(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every constant of the package that lies in weight.bin, by its name, as the numbers that its operators make of it."""
    with package.reading(path) as (spec, reader):
        for operation in package.operations(spec):
            given = dict(operation.attributes.items())
            given |= {name: one.arguments[0].value for name, one in operation.inputs.items() if one.arguments}
            if not any(value.HasField("blobFileValue") for value in package.blob_values(operation)):
                continue
            arrays: dict[str, NDArray[Any]] = {
                name: _array(value, reader) for name, value in given.items() if value.HasField("type")
            }
            if operation.type == "const":
                yield operation.outputs[0].name, arrays["val"]
            elif operation.type == "constexpr_lut_to_dense":
                yield operation.outputs[0].name, _look_up(arrays["indices"], arrays["lut"])
            elif operation.type == "constexpr_blockwise_shift_scale":
                yield operation.outputs[0].name, arrays["data"] * arrays["scale"]
            elif operation.type == "constexpr_affine_dequantize":
                shape = [1] * arrays["quantized_data"].ndim
                shape[int(arrays["axis"])] = -1
                shifted = arrays["quantized_data"] - arrays["zero_point"].reshape(shape)
                yield operation.outputs[0].name, shifted * arrays["scale"].reshape(shape)
            else:
                raise IntegrityError(
                    f"{path}: {operation.type} is no way that modelbake keeps weights in; convert it anew."
                )


def _look_up(indices: NDArray[Any], lut: NDArray[Any]) -> NDArray[Any]:
    """MIL's constexpr_lut_to_dense (iOS 18) with a vector size of 1."""
    group: Any = 0
    for axis, (length, count) in enumerate(zip(indices.shape, lut.shape, strict=False)):
        along = np.arange(length) // (length // count)
        group = group * count + along.reshape([-1 if one == axis else 1 for one in range(indices.ndim)])
    flat = lut.reshape(-1, lut.shape[-2])
    made: NDArray[Any] = flat[group, indices]
    return made


def _array(value: Any, reader: blob.Reader) -> NDArray[Any]:
    """What a value holds, wherever it lies, for the kinds of number that `_value` writes."""
    from coremltools.proto import MIL_pb2

    tensor = value.type.tensorType
    shape = tuple(int(one.constant.size) for one in tensor.dimensions)
    if value.HasField("blobFileValue"):
        return reader.array(value.blobFileValue.offset, shape)
    immediate, kind = value.immediateValue.tensor, MIL_pb2.DataType.Name(tensor.dataType).lower()
    if kind == "float32":
        return np.array(immediate.floats.values, np.float32).reshape(shape)
    if kind == "int32":
        return np.array(immediate.ints.values, np.int32).reshape(shape)
    if kind in blob.KINDS:
        return blob.unpack(immediate.bytes.values, kind, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return np.array(0)
