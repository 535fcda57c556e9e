"""Cases of reductions, products, normalisations, convolution and pooling."""

# ruff: noqa: E731

from __future__ import annotations

import numpy as np
from torch.nn import functional

from tests.unit.coreml.cases import add, integers, numbers, on_torch, truths
from tests.unit.coreml.programs import Array, tensor

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
