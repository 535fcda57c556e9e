"""One or more calls of every operation of modelbake.coreml.ops, each with an answer that does not come from there.

The answer is coremltools' own inference of values where it has one, and else torch's or numpy's function, or a loop written out.
"""

# ruff: noqa: E731

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.nn import functional

from tests.unit.coreml.programs import IOS15, IOS17, IOS18, Array, Build, tensor


@dataclass(frozen=True)
class Case:
    """A call of `op`; `answer` None: what coremltools infers."""

    op: str
    build: Build
    inputs: Mapping[str, Array]
    answer: Callable[..., Any] | None = None
    version: int = IOS18
    tolerance: float = 1e-6
    # In float16 too, and with dimensions that the program does not know.
    half: bool = True
    flexible: bool = True
    note: str = field(default="")

    def __str__(self) -> str:
        return f"{self.op}-{self.note}" if self.note else self.op


CASES: list[Case] = []


def add(
    op: str, build: Build, inputs: Mapping[str, Array], answer: Callable[..., Any] | None = None, **more: Any
) -> None:
    CASES.append(Case(op, build, inputs, answer, **more))


def numbers(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> Array:
    """Numbers that float16 holds, so that both precisions start from the same."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float16).astype(np.float32)


def integers(*shape: int, low: int = -5, high: int = 6, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def truths(*shape: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(np.bool_)


def on_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of tensors as one of arrays."""
    return lambda **inputs: function(**{name: tensor(array) for name, array in inputs.items()}).numpy()


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
        add(name, call, {"x": x, "y": y}, note=note)
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

# Reductions.
for name in (
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_log_sum",
    "reduce_log_sum_exp",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
):
    for axes, keep in ((None, False), ([1], True), ([-1], False), ([0, -1], False), ([2, 0], True)):
        call = lambda mb, x, n=name, a=axes, k=keep: getattr(mb, n)(x=x, axes=a, keep_dims=k)
        add(name, call, {"x": numbers(2, 3, 4, low=0.5)}, tolerance=3e-6, note=f"{axes}-{keep}")
for name in ("reduce_max", "reduce_min", "reduce_sum", "reduce_prod"):
    add(name, lambda mb, x, n=name: getattr(mb, n)(x=x, axes=[1]), {"x": integers(2, 3)}, note="integers")
for name in ("reduce_argmax", "reduce_argmin"):
    for axis, keep in ((-1, False), (0, True)):
        call = lambda mb, x, n=name, a=axis, k=keep: getattr(mb, n)(x=x, axis=a, keep_dims=k)
        add(name, call, {"x": numbers(3, 4)}, note=f"{axis}-{keep}")

# Products.
W, B = numbers(5, 4, seed=11), numbers(5, seed=12)
add(
    "linear", lambda mb, x: mb.linear(x=x, weight=W, bias=B), {"x": numbers(2, 3, 4)}, lambda x: x @ W.T + B, half=False
)
add(
    "linear",
    lambda mb, x: mb.linear(x=x, weight=W),
    {"x": numbers(3, 4)},
    lambda x: x @ W.T,
    half=False,
    note="no-bias",
)
for tx in (False, True):
    for ty in (False, True):
        x, y = numbers(2, 3, 4), numbers(2, 4, 5, seed=13)
        inputs = {"x": x.swapaxes(1, 2).copy() if tx else x, "y": y.swapaxes(1, 2).copy() if ty else y}
        call = lambda mb, x, y, a=tx, b=ty: mb.matmul(x=x, y=y, transpose_x=a, transpose_y=b)
        add("matmul", call, inputs, tolerance=3e-6, note=f"{tx}-{ty}")
add(
    "matmul",
    lambda mb, x, y: mb.matmul(x=x, y=y),
    {"x": numbers(3, 1, 2, 4), "y": numbers(5, 4, 3, seed=13)},
    note="broadcast",
    flexible=False,
)
add(
    "einsum",
    lambda mb, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
    {"x": numbers(2, 3, 4, 5), "y": numbers(2, 5, 4, 6, seed=3)},
    lambda x, y: np.einsum("nchw,nwhu->nchu", x, y),
    tolerance=3e-6,
    flexible=False,
)
q, k, v = numbers(1, 2, 3, 4), numbers(1, 2, 5, 4, seed=1), numbers(1, 2, 5, 6, seed=2)
add(
    "scaled_dot_product_attention",
    lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
    {"q": q, "k": k, "v": v},
    tolerance=3e-6,
)
add(
    "scaled_dot_product_attention",
    lambda mb, q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
    {"q": q, "k": k, "v": v, "m": numbers(1, 1, 3, 5, seed=5)},
    tolerance=3e-6,
    note="mask",
)
some = truths(3, 5)
some[:, 0] = True
add(
    "scaled_dot_product_attention",
    lambda mb, q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
    {"q": q, "k": k, "v": v, "m": some},
    tolerance=3e-6,
    note="truths",
)

# Normalisations.
for axes in ([-1], [1, 2], [1], [0, 2]):
    size = [(2, 3, 4)[axis] for axis in sorted(axis % 3 for axis in axes)]
    gamma, beta = numbers(*size, seed=21), numbers(*size, seed=22)
    call = lambda mb, x, a=axes, g=gamma, b=beta: mb.layer_norm(x=x, axes=a, gamma=g, beta=b, epsilon=np.float32(1e-3))
    add("layer_norm", call, {"x": numbers(2, 3, 4)}, half=False, flexible=False, tolerance=3e-6, note=str(axes))
add(
    "layer_norm",
    lambda mb, x: mb.layer_norm(x=x, axes=[0, 1, 2]),
    {"x": numbers(2, 3, 4)},
    tolerance=5e-6,
    note="defaults",
)
for shape in ((2, 3, 4), (2, 5, 2, 3), (2, 2, 2, 3, 3)):
    add(
        "l2_norm",
        lambda mb, x: mb.l2_norm(x=x, epsilon=np.float32(0.25)),
        {"x": numbers(*shape)},
        half=False,
        note=str(len(shape)),
        flexible=False,
    )
stats = {name: numbers(3, seed=seed, low=0.5) for seed, name in enumerate(("mean", "variance", "gamma", "beta"), 31)}
for shape in ((2, 3, 4), (2, 3, 4, 5)):
    add(
        "batch_norm",
        lambda mb, x: mb.batch_norm(x=x, **stats, epsilon=np.float32(0.5)),
        {"x": numbers(*shape)},
        on_torch(lambda x: functional.batch_norm(x, *map(tensor, stats.values()), False, 0.0, 0.5)),
        half=False,
        tolerance=3e-6,
        note=str(len(shape)),
    )
    add(
        "instance_norm",
        lambda mb, x: mb.instance_norm(x=x, gamma=stats["gamma"], beta=stats["beta"], epsilon=np.float32(0.5)),
        {"x": numbers(*shape)},
        on_torch(
            lambda x: functional.instance_norm(
                x, None, None, tensor(stats["gamma"]), tensor(stats["beta"]), True, 0.0, 0.5
            )
        ),
        half=False,
        tolerance=3e-6,
        note=str(len(shape)),
    )


# Convolution and pooling.
def _convolved(
    x: Array, w: Array, b: Array | None = None, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1
) -> Array:  # type: ignore[no-untyped-def]
    """One number after the other."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[1]), (pads[2], pads[3])))
    reach = [(w.shape[2 + i] - 1) * dilations[i] + 1 for i in (0, 1)]
    size = [(x.shape[2 + i] - reach[i]) // strides[i] + 1 for i in (0, 1)]
    out = np.zeros((len(x), len(w), *size), np.float32)
    each = w.shape[1]
    for n, o, i, j in np.ndindex(*out.shape):
        first = (o // (len(w) // groups)) * each
        rows = slice(i * strides[0], i * strides[0] + reach[0], dilations[0])
        columns = slice(j * strides[1], j * strides[1] + reach[1], dilations[1])
        out[n, o, i, j] = (x[n, first : first + each, rows, columns] * w[o]).sum() + (0 if b is None else b[o])
    return out


X, KERNEL, CB = numbers(2, 4, 7, 6), numbers(6, 4, 3, 2, seed=41), numbers(6, seed=42)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, bias=CB),
    {"x": X},
    lambda x: _convolved(x, KERNEL, CB),
    half=False,
    tolerance=5e-6,
)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, strides=[2, 3], pad_type="custom", pad=[1, 1, 1, 1]),
    {"x": X},
    lambda x: _convolved(x, KERNEL, None, (2, 3), (1, 1, 1, 1)),
    half=False,
    tolerance=5e-6,
    note="strides",
)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, pad_type="custom", pad=[2, 0, 0, 1], dilations=[2, 1]),
    {"x": X},
    lambda x: _convolved(x, KERNEL, None, (1, 1), (2, 0, 0, 1), (2, 1)),
    half=False,
    tolerance=5e-6,
    note="uneven",
)
grouped = numbers(6, 2, 3, 2, seed=43)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=grouped, groups=2),
    {"x": X},
    lambda x: _convolved(x, grouped, groups=2),
    half=False,
    tolerance=5e-6,
    note="groups",
)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, pad_type="same"),
    {"x": X},
    lambda x: _convolved(x, KERNEL, None, (1, 1), (1, 1, 0, 1)),
    half=False,
    tolerance=5e-6,
    note="same",
    flexible=False,
)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, pad_type="same_lower"),
    {"x": X},
    lambda x: _convolved(x, KERNEL, None, (1, 1), (1, 1, 1, 0)),
    half=False,
    tolerance=5e-6,
    note="same_lower",
    flexible=False,
)
LINE = numbers(5, 4, 3, seed=44)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=LINE, strides=[2]),
    {"x": numbers(2, 4, 9)},
    on_torch(lambda x: functional.conv1d(x, tensor(LINE), stride=2)),
    half=False,
    tolerance=5e-6,
    note="line",
)
CUBE = numbers(5, 4, 2, 2, 2, seed=45)
add(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=CUBE),
    {"x": numbers(1, 4, 3, 4, 5)},
    on_torch(lambda x: functional.conv3d(x, tensor(CUBE))),
    half=False,
    tolerance=5e-6,
    note="cube",
)
for name, function in (("max_pool", functional.max_pool2d), ("avg_pool", functional.avg_pool2d)):
    more = {"exclude_padding_from_average": False} if name == "avg_pool" else {}
    plain = lambda mb, x, n=name, o=more: getattr(mb, n)(
        x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="valid", **o
    )
    add(name, plain, {"x": X}, on_torch(lambda x, f=function: f(x, (3, 2), (2, 1))), flexible=False)
    padded = lambda mb, x, n=name, o=more: getattr(mb, n)(
        x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], **o
    )
    add(name, padded, {"x": X}, on_torch(lambda x, f=function: f(x, 3, 2, 1)), note="padded", flexible=False)
    ceiled = lambda mb, x, n=name, o=more: getattr(mb, n)(
        x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True, **o
    )
    add(
        name,
        ceiled,
        {"x": X},
        on_torch(lambda x, f=function: f(x, 2, 2, 1, ceil_mode=True)),
        note="ceiled",
        flexible=False,
    )
add(
    "avg_pool",
    lambda mb, x: mb.avg_pool(
        x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=True
    ),
    {"x": X},
    on_torch(lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    note="excluded",
    flexible=False,
)
add(
    "avg_pool",
    lambda mb, x: mb.avg_pool(
        x=x,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        exclude_padding_from_average=True,
        ceil_mode=True,
    ),
    {"x": numbers(1, 2, 8, 8)},
    on_torch(lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    note="excluded-ceiled",
    flexible=False,
)

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
