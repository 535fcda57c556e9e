"""Which inputs run together: batches of like length that keep a budget of tokens, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

# Tokens of a batch, padding included: of the powers of two from 256 to 2048 the fastest on MiniLM. It bounds memory as well.
TOKENS = 512
# Inputs that are sorted together: enough to find equals in length, and few enough that their tokens are a few megabytes.
WINDOW = 1024

T = TypeVar("T")


def batches(lengths: Sequence[int], budget: int = TOKENS) -> list[NDArray[np.int64]]:
    """Indices into `lengths` (tokens of each input), in batches: every index once, the longest inputs first.

    A batch costs its size times its longest input, which it is padded to, and costs at most `budget`; an input that is longer
    than the budget runs alone. Inputs of the same length keep their order.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    found = []
    start = 0
    while start < len(order):
        # The first is the longest, so it alone says how many fit.
        end = start + max(1, budget // max(1, lengths[order[start]]))
        found.append(order[start:end])
        start = end
    return found


def windows(inputs: Iterable[T], size: int = WINDOW) -> Iterator[list[T]]:
    """The inputs in their order, as lists of `size` and a shorter one at the end; takes no more than it gives."""
    waiting = iter(inputs)
    while window := list(islice(waiting, size)):
        yield window
