"""Cases of what works element by element."""

# ruff: noqa: E731

from __future__ import annotations

import numpy as np
from torch.nn import functional

from tests.unit.coreml.cases import add, integers, numbers, on_torch, truths
from tests.unit.coreml.programs import Array

# Arithmetic.
for name in (
    "add",
    "sub",
    "mul",
    "maximum",
    "minimum",
    "real_div",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "equal",
    "not_equal",
):
    for note, shapes in (("same", ((2, 3), (2, 3))), ("broadcast", ((2, 1, 3), (4, 1))), ("scalar", ((2, 3), (1,)))):
        x, y = numbers(*shapes[0]), numbers(*shapes[1], seed=3, low=0.5)
        if "equal" in name and note == "same":
            y[0] = x[0]
        flat = (lambda mb, y: mb.squeeze(x=y, axes=[0])) if note == "scalar" else (lambda mb, y: y)
        call = lambda mb, x, y, name=name, flat=flat: getattr(mb, name)(x=x, y=flat(mb, y))
        add(name, call, {"x": x, "y": y}, note=note, flexible=note != "scalar")
    if name != "real_div":
        x, y = integers(3, 2), integers(3, 2, seed=4)
        add(name, lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y), {"x": x, "y": y}, note="integers")
add(
    "real_div",
    lambda mb, x, y: mb.real_div(x=x, y=y),
    {"x": np.int32([6, -8]), "y": np.int32([3, 2])},
    lambda x, y: np.int32([2, -4]),
    note="integers",
)
for name in ("floor_div", "mod"):
    add(
        name,
        lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y),
        {"x": numbers(5, 4), "y": numbers(4, seed=8, low=0.5)},
        half=False,
    )
    signs = {"x": np.int32([7, -7, 7, -7]), "y": np.int32([3, 3, -3, -3])}
    add(name, lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y), signs, note="signs")
add("pow", lambda mb, x, y: mb.pow(x=x, y=y), {"x": numbers(3, 4, low=0.1), "y": numbers(4, seed=8)})
for name in ("logical_and", "logical_or", "logical_xor"):
    add(name, lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y), {"x": truths(3, 4), "y": truths(4, seed=5)})
add("logical_not", lambda mb, x: mb.logical_not(x=x), {"x": truths(3, 4)})
UNARY = {
    "abs": (-2, 2), "acos": (-1, 1), "asin": (-1, 1), "atan": (-2, 2), "atanh": (-0.9, 0.9), "ceil": (-4, 4), "cos": (-4, 4),
    "cosh": (-2, 2), "erf": (-3, 3), "exp": (-3, 3), "exp2": (-3, 3), "floor": (-4, 4), "relu": (-2, 2), "relu6": (-2, 9),
    "round": (-4, 4), "sigmoid": (-9, 9), "sign": (-2, 2), "sin": (-4, 4), "sinh": (-2, 2), "softplus": (-30, 90),
    "softsign": (-3, 3), "sqrt": (0, 4), "square": (-4, 4), "tan": (-1, 1), "tanh": (-4, 4),
}  # fmt: skip
for name, (low, high) in UNARY.items():
    add(
        name,
        lambda mb, x, name=name: getattr(mb, name)(x=x),
        {"x": numbers(3, 1, 7, low=low, high=high)},
        tolerance=3e-6,
    )
add("round", lambda mb, x: mb.round(x=x), {"x": np.float32([0.5, 1.5, 2.5, -0.5, -1.5])}, note="halves")
add("abs", lambda mb, x: mb.abs(x=x), {"x": integers(4)}, note="integers")
add("square", lambda mb, x: mb.square(x=x), {"x": integers(4)}, note="integers")
add("sign", lambda mb, x: mb.sign(x=x), {"x": np.float32([0, -0.0, 3])}, note="zero")
add("silu", lambda mb, x: mb.silu(x=x), {"x": numbers(3, 4)}, on_torch(lambda x: functional.silu(x)), tolerance=3e-6)
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    add(
        "gelu",
        lambda mb, x, mode=mode: mb.gelu(x=x, mode=mode),
        {"x": numbers(5, 9, low=-4, high=4)},
        tolerance=3e-6,
        note=mode,
    )
add(
    "gelu",
    lambda mb, x: mb.gelu(x=x),
    {"x": numbers(5, 9)},
    on_torch(lambda x: functional.gelu(x)),
    tolerance=3e-6,
    note="default",
)
add("elu", lambda mb, x: mb.elu(x=x, alpha=np.float32(0.7)), {"x": numbers(5)}, half=False)
add("leaky_relu", lambda mb, x: mb.leaky_relu(x=x, alpha=np.float32(0.25)), {"x": numbers(5)}, half=False)
add(
    "sigmoid_hard",
    lambda mb, x: mb.sigmoid_hard(x=x, alpha=np.float32(0.25), beta=np.float32(0.5)),
    {"x": numbers(9, low=-4, high=4)},
    half=False,
)
add("clip", lambda mb, x: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.75)), {"x": numbers(3, 4)}, half=False)
add("threshold", lambda mb, x: mb.threshold(x=x, alpha=np.float32(0.25)), {"x": numbers(3, 4)}, half=False)
for name, eps in (("inverse", 0.5), ("log", 0.5), ("rsqrt", 0.25)):
    x = numbers(3, 4, low=0.5, high=4)
    add(name, lambda mb, x, name=name: getattr(mb, name)(x=x), {"x": x}, tolerance=3e-6)
    call = lambda mb, x, name=name, eps=eps: getattr(mb, name)(x=x, epsilon=np.float32(eps))
    add(name, call, {"x": x}, half=False, note="epsilon")
add(
    "rsqrt",
    lambda mb, x: mb.rsqrt(x=x),
    {"x": np.float32([1e-8, 4.0])},
    lambda x: 1 / np.sqrt(x + np.float32(1e-12)),
    half=False,
    note="small",
)
for axis in (-1, 0, 1):
    add("softmax", lambda mb, x, axis=axis: mb.softmax(x=x, axis=axis), {"x": numbers(3, 4, 5, high=9)}, note=str(axis))
add("identity", lambda mb, x: mb.identity(x=x), {"x": numbers(3)})
for source, dtype in (
    (numbers(7, low=-9, high=9), "int32"),
    (integers(7), "fp32"),
    (integers(7), "bool"),
    (truths(4), "fp32"),
    (truths(4), "int32"),
    (np.abs(integers(7)), "uint16"),
    (integers(5), "int16"),
    (numbers(5), "bool"),
):
    add(
        "cast",
        lambda mb, x, dtype=dtype: mb.cast(x=x, dtype=dtype),
        {"x": source},
        half=False,
        note=f"{source.dtype}-{dtype}",
    )
add(
    "cast",
    lambda mb, x: mb.cast(x=x, dtype="fp16"),
    {"x": np.random.default_rng(0).normal(size=9).astype("f4")},
    lambda x: x.astype("f2"),
    half=False,
    note="fp16",
)
add(
    "cast",
    lambda mb, x: mb.cast(x=x, dtype="fp16"),
    {"x": np.float32([1e6, -1e6, 1e-9])},
    lambda x: np.float16([np.inf, -np.inf, 0]),
    half=False,
    note="overflow",
)
add(
    "select",
    lambda mb, c, a, b: mb.select(cond=c, a=a, b=b),
    {"c": truths(3, 4), "a": numbers(3, 4), "b": numbers(3, 4, seed=9)},
)
for axis in (0, -1):
    for exclusive in (False, True):
        for reverse in (False, True):
            call = lambda mb, x, a=axis, e=exclusive, r=reverse: mb.cumsum(x=x, axis=a, exclusive=e, reverse=r)

            def summed(x: Array, a: int = axis, e: bool = exclusive, r: bool = reverse) -> Array:
                x = np.flip(x, a) if r else x
                total = np.cumsum(x, a, dtype=x.dtype)
                total = total - x if e else total
                return np.flip(total, a) if r else total

            add("cumsum", call, {"x": integers(3, 5)}, summed, note=f"{axis}-{exclusive}-{reverse}")
            add("cumsum", call, {"x": numbers(3, 5)}, summed, half=False, note=f"{axis}-{exclusive}-{reverse}-float")
