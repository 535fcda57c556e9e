"""Rows of a table of words, read alone: such a table is most of a small model, and a text takes a few hundred rows of it.

Of what is stored as it is, or as int8 for iOS 18; a table in int8 for iOS 16 or in palettes is made whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modelbake.coreml.constants import Constants
from modelbake.coreml.ops import OPS
from modelbake.coreml.ops.gathering import places_of
from modelbake.coreml.program import Blob, Immediate, Name, Operation, Value


def table_of(operation: Operation, makers: Mapping[str, Operation]) -> dict[str, Blob] | None:
    """The parts of the table that a gather takes rows of, `val` alone or those of constexpr_blockwise_shift_scale.

    None where it is no such gather, or where a row of the table is not a row of each part: then it takes the table whole.
    """
    source = operation.inputs.get("x", (None,))[0]
    if operation.type != "gather" or not isinstance(source, Name) or source.name not in makers:
        return None
    if any(_number(operation, key, makers) != 0 for key in ("axis", "batch_dims")):
        return None
    maker = makers[source.name]
    if maker.type not in ("const", "constexpr_blockwise_shift_scale"):
        return None
    parts = {key: values[0] for key, values in maker.inputs.items()}
    found = {key: one for key, one in parts.items() if isinstance(one, Blob) and len(one.type.shape or ()) == 2}
    if len(found) != len(parts):
        return None
    # What does not fit together is refused where it is made whole.
    if found.get("val", found.get("data", next(iter(found.values())))).type.shape != maker.outputs[0].type.shape:
        return None
    rows = {one.type.shape[0] for one in found.values() if one.type.shape}
    whole = all(((one.type.shape or (0, 0))[1] or 0) * one.type.dtype.bits % 8 == 0 for one in found.values())
    return found if len(rows) == 1 and whole else None


def gathered(table: Mapping[str, Blob], indices: Tensor, constants: Constants) -> Tensor:
    """The rows of the table at the indices, as the gather of the whole table gives them; ValueError where one is outside."""
    first = next(iter(table.values())).type.shape
    places = places_of(indices, (first or (0,))[0] or 0)
    rows = places.reshape(-1).tolist()
    parts = {key: constants.rows(blob, rows) for key, blob in table.items()}
    found: Tensor = parts["val"] if "val" in parts else OPS["constexpr_blockwise_shift_scale"].call(**parts)
    return found.reshape(*places.shape, found.shape[-1])


def _number(operation: Operation, key: str, makers: Mapping[str, Operation]) -> int | None:
    """The constant that is given for the parameter, 0 where none is; None where it is no constant."""
    value: Value | None = operation.inputs.get(key, (None,))[0]
    while isinstance(value, Name) and value.name in makers and makers[value.name].type == "const":
        value = makers[value.name].inputs["val"][0]
    if value is None:
        return 0
    if isinstance(value, Immediate) and not isinstance(value.value, str) and value.value.size == 1:
        return int(value.value.reshape(-1)[0])
    return None
