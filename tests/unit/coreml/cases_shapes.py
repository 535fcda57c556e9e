"""Cases of what moves numbers, makes shapes, or takes by index."""

# ruff: noqa: E731

from __future__ import annotations

from typing import Any

import numpy as np

from tests.unit.coreml.cases import add, integers, numbers
from tests.unit.coreml.programs import IOS15, IOS17, Array

# Shapes.
SHAPED = numbers(2, 3, 4)
for to in ([6, 4], [-1, 2], [4, 3, 2], [24]):
    add("reshape", lambda mb, x, to=to: mb.reshape(x=x, shape=to), {"x": SHAPED}, flexible=False, note=str(to))
add(
    "reshape",
    lambda mb, x: mb.reshape(x=x, shape=[0, -1, 2]),
    {"x": SHAPED},
    lambda x: x.reshape(2, 6, 2),
    version=IOS15,
    flexible=False,
    note="zero-ios15",
)
add(
    "reshape",
    lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]),
    {"x": numbers(2, 50)},
    lambda x: x.reshape(1, 1, 2, 50),
    version=IOS17,
    flexible=False,
    note="zero-ios17",
)
for axes in ([0], [-1], [1, 3], [-1, 0]):
    add("expand_dims", lambda mb, x, a=axes: mb.expand_dims(x=x, axes=a), {"x": SHAPED}, note=str(axes), flexible=False)
for axes in (None, [0], [-2], [0, 2]):
    more = {} if axes is None else {"axes": axes}
    add(
        "squeeze",
        lambda mb, x, o=more: mb.squeeze(x=x, **o),
        {"x": numbers(1, 3, 1, 4)},
        note=str(axes),
        flexible=False,
    )
for perm in ([1, 0, 2], [2, 0, 1], [-1, 0, -2]):
    add("transpose", lambda mb, x, p=perm: mb.transpose(x=x, perm=p), {"x": SHAPED}, note=str(perm))
for axis in (1, 2, -1):
    add("flatten2d", lambda mb, x, a=axis: mb.flatten2d(x=x, axis=a), {"x": SHAPED}, note=str(axis), flexible=False)
PAIR = {"a": numbers(2, 3), "b": numbers(2, 3, seed=51)}
for axis in (0, 1, -1):
    add("concat", lambda mb, a, b, x=axis: mb.concat(values=[a, b], axis=x), PAIR, note=str(axis))

    def mixed(a: Array, b: Array, x: int = axis) -> Array:
        whole = np.concatenate([a, b], x)
        for index, one in enumerate((a, b)):
            place = [slice(None)] * 2
            place[x] = slice(index, None, 2)
            whole[tuple(place)] = one
        return whole

    add(
        "concat",
        lambda mb, a, b, x=axis: mb.concat(values=[a, b], axis=x, interleave=True),
        PAIR,
        mixed,
        note=f"interleave{axis}",
    )
for axis in (0, 2, -1):
    add("stack", lambda mb, a, b, x=axis: mb.stack(values=[a, b], axis=x), PAIR, note=str(axis))
add("split", lambda mb, x: mb.split(x=x, num_splits=2, axis=2), {"x": SHAPED}, note="number", flexible=False)
add("split", lambda mb, x: mb.split(x=x, split_sizes=[1, 3], axis=-1), {"x": SHAPED}, note="sizes", flexible=False)
SLICES: list[dict[str, Any]] = [
    {"begin": [0, 1, 1], "end": [2, 3, 4]},
    {"begin": [0, 0, 3], "end": [2, -1, -4], "stride": [1, 2, -1]},
    {"begin": [0, -2, 0], "end": [0, 0, 0], "end_mask": [True, True, True]},
    {"begin": [1, 1, 1], "end": [2, 2, 3], "begin_mask": [True, False, True]},
    {"begin": [1, 0, -1], "end": [0, 2, 0], "squeeze_mask": [True, False, True]},
    {"begin": [0, 0, 0], "end": [0, 0, 0], "stride": [1, -1, -2], "begin_mask": [True] * 3, "end_mask": [True] * 3},
]
for index, chosen in enumerate(SLICES):
    add("slice_by_index", lambda mb, x, o=chosen: mb.slice_by_index(x=x, **o), {"x": SHAPED}, note=str(index))
add("slice_by_size", lambda mb, x: mb.slice_by_size(x=x, begin=[0, 1, 2], size=[2, -1, 2]), {"x": SHAPED})
add("tile", lambda mb, x: mb.tile(x=x, reps=[2, 1, 3]), {"x": SHAPED})
add("reverse", lambda mb, x: mb.reverse(x=x, axes=[0, -1]), {"x": SHAPED})
add("reverse", lambda mb, x: mb.reverse(x=x), {"x": SHAPED}, note="all")
add(
    "pad",
    lambda mb, x: mb.pad(x=x, pad=[1, 2, 0, 3], constant_val=np.float32(0.5)),
    {"x": SHAPED},
    half=False,
    note="constant",
)
for mode in ("reflect", "replicate"):
    add("pad", lambda mb, x, m=mode: mb.pad(x=x, pad=[2, 1, 3, 2], mode=m), {"x": SHAPED}, note=mode)
add("shape", lambda mb, x: mb.shape(x=x), {"x": SHAPED}, lambda x: np.int32([2, 3, 4]))
add(
    "fill",
    lambda mb, x: mb.fill(shape=mb.shape(x=x), value=np.float32(1.5)),
    {"x": SHAPED},
    lambda x: np.full((2, 3, 4), 1.5, "f4"),
    half=False,
)
add(
    "fill",
    lambda mb, x: mb.fill(shape=mb.shape(x=x), value=np.int32(7)),
    {"x": SHAPED},
    lambda x: np.full((2, 3, 4), 7, "i4"),
    note="integer",
)
add(
    "fill_like",
    lambda mb, x: mb.fill_like(ref_tensor=x, value=np.float32(1.5)),
    {"x": SHAPED},
    lambda x: np.full((2, 3, 4), 1.5, "f4"),
    half=False,
)
add(
    "range_1d",
    lambda mb, x: mb.range_1d(start=np.int32(1), end=mb.reduce_sum(x=x, keep_dims=False), step=np.int32(2)),
    {"x": np.int32([4, 4])},
    lambda x: np.int32([1, 3, 5, 7]),
)
add(
    "range_1d",
    lambda mb, x: mb.range_1d(start=np.float32(1), end=mb.reduce_sum(x=x), step=np.float32(0.5)),
    {"x": np.float32([2, 0.5])},
    lambda x: np.float32([1, 1.5, 2]),
    half=False,
    note="float",
)
for lower, upper in ((-1, 0), (0, -1), (1, 1), (0, 0), (-1, -1)):
    add(
        "band_part",
        lambda mb, x, a=lower, b=upper: mb.band_part(x=x, lower=a, upper=b),
        {"x": numbers(2, 4, 5)},
        note=f"{lower},{upper}",
    )
for axis in (-1, 0, 1):
    call = lambda mb, x, a=axis: mb.one_hot(
        indices=x, one_hot_vector_size=5, axis=a, on_value=np.float32(2), off_value=np.float32(-1)
    )
    add(
        "one_hot",
        call,
        {"x": integers(2, 3, low=0, high=5)},
        lambda x, a=axis: np.moveaxis(np.where(np.eye(5)[x] > 0, 2, -1).astype("f4"), -1, a),
        note=str(axis),
        flexible=False,
    )
add(
    "non_zero",
    lambda mb, x: mb.non_zero(x=x),
    {"x": integers(3, 4, low=0, high=2)},
    lambda x: np.argwhere(x).astype("i4"),
)

# By index.
for axis in (0, 1, -1):
    for version in (IOS15, IOS17):
        indices = integers(2, 2, low=0, high=2)
        add(
            "gather",
            lambda mb, x, i, a=axis: mb.gather(x=x, indices=i, axis=a),
            {"x": SHAPED, "i": indices},
            lambda x, i, a=axis: np.take(x, i, a),
            version=version,
            note=f"{axis}-{version}",
            flexible=False,
        )
add(
    "gather",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=1),
    {"x": SHAPED, "i": np.int32([-1, 0])},
    lambda x, i: np.take(x, i, 1),
    version=IOS15,
    note="negative",
)
add(
    "gather",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=1),
    {"x": SHAPED, "i": integers(2, 5, low=0, high=4)},
    lambda x, i: np.stack([np.take(a, b, 1) for a, b in zip(x, i, strict=True)]),
    version=IOS17,
    note="batches",
    flexible=False,
)
add(
    "gather",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=2),
    {"x": SHAPED, "i": integers(2, 3, 5, low=0, high=4)},
    lambda x, i: np.take_along_axis(x, i, 2),
    version=IOS17,
    note="two-batches",
    flexible=False,
)
add(
    "gather",
    lambda mb, x, i: mb.gather(x=x, indices=mb.cast(x=i, dtype="uint16"), axis=0),
    {"x": SHAPED, "i": np.int32([1, 0, 1])},
    lambda x, i: x[i],
    note="uint16",
)
for axis in (0, 1, -1):
    size = [2, 3, 4]
    size[axis] = 5
    add(
        "gather_along_axis",
        lambda mb, x, i, a=axis: mb.gather_along_axis(x=x, indices=i, axis=a),
        {"x": SHAPED, "i": integers(*size, low=0, high=2)},
        lambda x, i, a=axis: np.take_along_axis(x, i, a),
        note=str(axis),
        flexible=False,
    )
add(
    "gather_nd",
    lambda mb, x, i: mb.gather_nd(x=x, indices=i),
    {"x": SHAPED, "i": np.int32([[0, 1], [1, 2]])},
    lambda x, i: np.stack([x[0, 1], x[1, 2]]),
    flexible=False,
)
add(
    "gather_nd",
    lambda mb, x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
    {"x": SHAPED, "i": np.int32([[[0, 1]], [[2, 3]]])},
    lambda x, i: np.float32([[x[0, 0, 1]], [x[1, 2, 3]]]),
    version=IOS17,
    flexible=False,
    note="batches",
)
