"""Operations element by element: arithmetic, comparison, logic, activation functions, casts.

Sources: elementwise_binary.py, elementwise_unary.py, activation.py and tensor_operation.py of coremltools' ops/defs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from modelbake.coreml.ops.registry import axis_of, cast_to, floating, op


def _binary(name: str, function: Callable[[Tensor, Tensor], Tensor], logical: bool = False) -> None:
    def call(x: Tensor, y: Tensor) -> Tensor:
        if (x.dtype == torch.bool) != logical or x.dtype != y.dtype:
            raise ValueError(f"of {x.dtype} and {y.dtype}")
        return function(x, y)

    op(name)(call)


_binary("add", torch.add)
_binary("sub", torch.sub)
_binary("mul", torch.mul)
_binary("floor_div", lambda x, y: torch.div(x, y, rounding_mode="floor"))
_binary("mod", torch.remainder)
_binary("pow", torch.pow)
_binary("maximum", torch.maximum)
_binary("minimum", torch.minimum)
_binary("greater", torch.gt)
_binary("greater_equal", torch.ge)
_binary("less", torch.lt)
_binary("less_equal", torch.le)
_binary("logical_and", torch.logical_and, logical=True)
_binary("logical_or", torch.logical_or, logical=True)
_binary("logical_xor", torch.logical_xor, logical=True)


@op()
def equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.eq(x, y)


@op()
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return torch.ne(x, y)


@op()
def real_div(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype != y.dtype:
        raise ValueError(f"of {x.dtype} and {y.dtype}")
    if x.is_floating_point():
        return torch.div(x, y)
    # Of integers, as shapes are divided: the rounding of what does not divide is nowhere written down.
    if bool((y == 0).any()) or bool((torch.remainder(x, y) != 0).any()):
        raise ValueError("integers that do not divide evenly, whose rounding Core ML does not define")
    return torch.div(x, y, rounding_mode="trunc")


def _unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    def call(x: Tensor) -> Tensor:
        floating(x)
        return function(x)

    op(name)(call)


_unary("acos", torch.acos)
_unary("asin", torch.asin)
_unary("atan", torch.atan)
_unary("atanh", torch.atanh)
_unary("ceil", torch.ceil)
_unary("cos", torch.cos)
_unary("cosh", torch.cosh)
_unary("erf", torch.erf)
_unary("exp", torch.exp)
_unary("exp2", torch.exp2)
_unary("floor", torch.floor)
_unary("relu", torch.relu)
_unary("relu6", functional.relu6)
# numpy's, which coremltools infers with, and torch's round halves to the even number.
_unary("round", torch.round)
_unary("sigmoid", torch.sigmoid)
_unary("sign", torch.sign)
_unary("silu", functional.silu)
_unary("sin", torch.sin)
_unary("sinh", torch.sinh)
_unary("softplus", lambda x: functional.softplus(x, threshold=50))
_unary("softsign", functional.softsign)
_unary("sqrt", torch.sqrt)
_unary("tan", torch.tan)
_unary("tanh", torch.tanh)


@op("abs")
def absolute(x: Tensor) -> Tensor:
    return torch.abs(x)


@op()
def square(x: Tensor) -> Tensor:
    return x * x


@op()
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    floating(x)
    return torch.clamp(x, alpha, beta)


@op()
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


@op()
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    floating(x)
    return torch.reciprocal(x + epsilon)


@op()
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    floating(x)
    return torch.log(x + epsilon)


@op()
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    floating(x)
    return torch.rsqrt(x + epsilon)


@op()
def logical_not(x: Tensor) -> Tensor:
    if x.dtype != torch.bool:
        raise ValueError("takes truth values alone")
    return torch.logical_not(x)


@op()
def elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


@op()
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


@op()
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    floating(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@op()
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    floating(x)
    if mode == "EXACT":
        return functional.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return functional.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"the mode {mode!r} is not known")


@op()
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    floating(x)
    return torch.softmax(x, axis_of(axis, x.ndim))


@op()
def cast(x: Tensor, dtype: str) -> Tensor:
    return cast_to(x, dtype)


@op(moves=True)
def identity(x: Tensor) -> Tensor:
    return x


@op(moves=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if cond.dtype != torch.bool or a.dtype != b.dtype:
        raise ValueError(f"of {cond.dtype}, {a.dtype} and {b.dtype}")
    return torch.where(cond, a, b)


@op()
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    axis = axis_of(axis, x.ndim)
    found = x.flip(axis) if reverse else x
    # Less what was added last is what came before: of whole numbers alone exactly, so the sum is shifted.
    total = torch.cumsum(found, axis, dtype=x.dtype)
    if exclusive:
        zero = torch.zeros_like(total.narrow(axis, 0, min(1, total.shape[axis])))
        total = torch.cat([zero, total.narrow(axis, 0, max(0, total.shape[axis] - 1))], axis)
    return total.flip(axis) if reverse else total
