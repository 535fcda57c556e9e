"""Weights in few bits: palettes by 1-D k-means, linear int8, and rounding that makes up for its own errors (GPTQ).

All of it is numpy on matrices [rows, columns], without randomness: the same numbers give the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# GPTQ's: the share of the mean power that is added to every column's, and how many columns are made up for at once.
DAMPING = 0.01
BLOCK = 64
# Without weights, so many of the numbers, at most, choose the centres.
SAMPLED = 1 << 20


@dataclass(frozen=True)
class Palette:
    """A matrix as indices uint8 [rows, columns] into palettes float32 [groups, 2**bits], each ascending.

    `rows` consecutive rows share one, the groups following each other: number [i, j] is luts[i // rows, indices[i, j]].
    """

    indices: NDArray[np.uint8]
    luts: Floats
    rows: int

    def dense(self) -> Floats:
        """The matrix that it stands for, float32 [rows, columns]."""
        groups = np.repeat(np.arange(len(self.luts)), self.rows)
        dense: Floats = self.luts[groups[:, None], self.indices]
        return dense


def cluster(
    values: NDArray[np.floating], count: int, weights: NDArray[np.floating] | None = None, rounds: int = 60
) -> Doubles:
    """`count` ascending centres of the numbers in `values` by weighted k-means (Lloyd), float64 [count].

    In one dimension a cluster is an interval of the sorted numbers, so that a round costs but a search of the boundaries. The first
    centres are quantiles of the density's cube root, which for many centres is where the best ones lie (Panter and Dite, 1951).
    """
    if weights is None:
        ordered = np.sort(values, axis=None)
        # Of a table's millions, evenly many: their quantiles are the same, in a tenth of the memory.
        ordered = ordered[:: -(-len(ordered) // SAMPLED)].astype(np.float64)
        weighed = np.ones(len(ordered))
    else:
        order = np.argsort(values, axis=None, kind="stable")
        ordered = values.reshape(-1)[order].astype(np.float64)
        weighed = weights.reshape(-1)[order].astype(np.float64)
    mass = np.concatenate([[0.0], np.cumsum(weighed)])
    moment = np.concatenate([[0.0], np.cumsum(weighed * ordered)])
    centres = _first_centres(ordered, weighed, count)
    for _ in range(rounds):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        inside = mass[bounds[1:]] - mass[bounds[:-1]]
        sums = moment[bounds[1:]] - moment[bounds[:-1]]
        moved = np.where(inside > 0, sums / np.where(inside > 0, inside, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres


def _first_centres(ordered: Doubles, weights: Doubles, count: int) -> Doubles:
    low, high = ordered[0], ordered[-1]
    if low == high:
        return np.full(count, low)
    density, edges = np.histogram(ordered, bins=512, range=(low, high), weights=weights)
    shares = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    wanted = (np.arange(count) + 0.5) / count * shares[-1]
    centres: Doubles = np.interp(wanted, shares, edges)
    return centres


def nearest(values: NDArray[np.floating], centres: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The index of the nearest of the ascending `centres`, for each number."""
    edges = (centres[1:].astype(np.float64) + centres[:-1]) / 2
    return np.searchsorted(edges, values).astype(np.uint8)


def palettize(matrix: Floats, bits: int, rows: int, kind: np.dtype[Any], products: Doubles | None = None) -> Palette:
    """`matrix` [rows, columns] as a palette of `bits` bits for every `rows` rows (the last number that divides them), kept as `kind`.

    `products` [columns, columns] are the sums of x xᵀ over the vectors that the matrix is multiplied by. With them the numbers are
    weighed by their column's power, and each column's rounding errors are made up for in the columns that follow (GPTQ, Frantar et al.,
    2022), the strongest column first. Without them each number goes to its nearest.
    """
    group = max(count for count in range(1, min(rows, len(matrix)) + 1) if len(matrix) % count == 0)
    power = None if products is None else np.maximum(np.diag(products), np.diag(products).mean() * DAMPING)
    centres = np.stack(
        [
            cluster(part, 1 << bits, None if power is None else np.broadcast_to(power, part.shape))
            for part in matrix.reshape(-1, group, matrix.shape[1])
        ]
    )
    luts: Floats = centres.astype(kind).astype(np.float32)
    if products is None:
        parts = zip(matrix.reshape(-1, group, matrix.shape[1]), luts, strict=True)
        indices = np.concatenate([nearest(part, lut) for part, lut in parts])
    else:
        indices = _compensated(matrix, luts, group, products)
    return Palette(indices, luts, group)


def _compensated(matrix: Floats, luts: Floats, group: int, products: Doubles) -> NDArray[np.uint8]:
    """GPTQ's rounding to given palettes; indices [rows, columns]."""
    count = matrix.shape[1]
    power = np.diag(products)
    # Columns that never get anything would have no inverse.
    damped = products + np.eye(count) * (DAMPING * power.mean() or 1.0)
    order = np.argsort(-power, kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(damped[order][:, order])).T
    # Transposed, so that a column lies in one piece.
    left = np.ascontiguousarray(matrix[:, order].T, np.float64)
    of_rows = np.repeat(luts.astype(np.float64), group, axis=0)
    edges = np.ascontiguousarray(((of_rows[:, 1:] + of_rows[:, :-1]) / 2).T)
    everywhere = np.arange(len(matrix))
    indices = np.empty((count, len(matrix)), np.uint8)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.empty((end - start, len(matrix)))
        for column in range(start, end):
            chosen = (left[column] > edges).sum(axis=0)
            indices[order[column]] = chosen
            error = (left[column] - of_rows[everywhere, chosen]) / upper[column, column]
            left[column + 1 : end] -= upper[column, column + 1 : end, None] * error
            errors[column - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    return np.ascontiguousarray(indices.T)


def row_quantize(matrix: Floats, kind: np.dtype[Any]) -> tuple[NDArray[np.int8], Floats]:
    """Each row as int8 within ±127 and its scale [rows], a number that `kind` can hold: value * scale."""
    scales = (np.abs(matrix).max(axis=1) / 127).astype(kind).astype(np.float32)
    # A row of zeros, or of numbers too small for float16, has no scale: 0 it is.
    safe = np.where(scales > 0, scales, 1)
    values = np.clip(np.rint(matrix / safe[:, None]), -127, 127).astype(np.int8)
    return values, scales
