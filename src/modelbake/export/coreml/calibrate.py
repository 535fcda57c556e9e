"""What flows through a module's linear layers, and what rounding one of them does to its output: measured on inputs that need no data.

All of it is computed in float64, and products are rounded coarsely, so that another processor's last bits do not change a choice that
is made by them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.export.coreml.palettes import Doubles, Floats

Inputs = tuple[NDArray[np.generic], ...]

SEED = 20240601
# Of the inputs, so many are what a loss is measured on: it is done once a weight, and is much the same on each.
MEASURED = 8
# Products are multiples of their mean power by this: well above what float64 leaves uncertain, well below GPTQ's damping.
_QUANTUM = 2.0**-16


def word_salad(vocabulary: int, first: int, last: int, lowest: int, count: int = 64, length: int = 24) -> list[Inputs]:
    """`count` texts of tokens drawn from [lowest, vocabulary) between `first` and `last`.

    Each as input_ids and attention_mask, int32 [1, length].
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    ids = generator.integers(lowest, vocabulary, (count, length), dtype=np.int32)
    ids[:, 0], ids[:, -1] = first, last
    return [(row[None], np.ones((1, length), np.int32)) for row in ids]


class Calibration:
    """A float64 copy of `module` (eval mode), and inputs to call it with."""

    def __init__(self, module: Any, inputs: Iterable[Inputs]) -> None:
        import torch

        self._module = copy.deepcopy(module).double()
        self._inputs = [tuple(torch.from_numpy(np.array(one)) for one in given) for given in inputs]
        self._parameters = dict(self._module.named_parameters())
        self._given = self._outputs(self._inputs[:MEASURED])
        self._products: dict[str, Doubles] = {}

    def parameter_of(self, name: str, matrix: Floats) -> str | None:
        """The parameter that became the constant `name` of these numbers; None where none did as it is.

        coremltools names constants after parameters; only the numbers prove it.
        """
        known = {one.replace(".", "_"): one for one in self._parameters}
        found = known.get(name.removesuffix("_to_fp16"))
        if found is None:
            return None
        own = self._parameters[found].detach().numpy().astype(np.float32)
        same = own.size == matrix.size and np.array_equal(
            own.reshape(matrix.shape).astype(np.float16), matrix.astype(np.float16)
        )
        return found if same else None

    def products(self, names: Iterable[str]) -> dict[str, Doubles]:
        """For each of these parameters that linear layers multiply by: the sums of x xᵀ [inputs, inputs] over all that they get."""
        import torch
        from torch.overrides import TorchFunctionMode

        names = list(names)
        wanted = {id(self._parameters[name]): name for name in names if name not in self._products}
        sums: dict[str, Any] = {}

        class Watch(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = wanted.get(id(args[1])) if func is torch.nn.functional.linear else None
                if name is not None:
                    rows = args[0].reshape(-1, args[0].shape[-1])
                    sums[name] = sums.get(name, 0) + rows.T @ rows
                return func(*args, **(kwargs or {}))

        if wanted:
            with Watch():
                self._outputs(self._inputs)
        self._products |= {name: _coarse(total.numpy()) for name, total in sums.items()}
        return {name: self._products[name] for name in names if name in self._products}

    def loss(self, changed: Mapping[str, Floats]) -> float:
        """1 - the mean cosine, over the first inputs, of what the module gives with these parameters in place of its own, and without."""
        import torch

        kept = {name: self._parameters[name].detach().clone() for name in changed}
        with torch.no_grad():
            for name, values in changed.items():
                self._parameters[name].copy_(torch.from_numpy(values).reshape(kept[name].shape))
            found = self._outputs(self._inputs[:MEASURED])
            for name, own in kept.items():
                self._parameters[name].copy_(own)
        cosines = (
            (found * self._given).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(self._given, axis=1)
        )
        return float(1 - cosines.mean())

    def _outputs(self, inputs: list[Any]) -> Doubles:
        import torch

        with torch.inference_mode():
            return np.concatenate([self._module(*given).numpy() for given in inputs])


def _coarse(products: Doubles) -> Doubles:
    quantum = float(np.diag(products).mean()) * _QUANTUM
    return products if quantum == 0 else np.rint(products / quantum) * quantum
