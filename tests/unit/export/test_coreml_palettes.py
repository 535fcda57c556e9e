"""Palettes and rounding: against the best there is where that can be had, else against what they are meant to beat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from modelbake.export.coreml.palettes import cluster, nearest, palettize, row_quantize

HALF, SINGLE = np.dtype("f2"), np.dtype("f4")


def cost(values: np.ndarray, weights: np.ndarray, centres: np.ndarray) -> float:
    return float((weights * (values - centres[nearest(values, centres)]) ** 2).sum())


def best(values: np.ndarray, weights: np.ndarray, count: int) -> float:
    """The least cost of all divisions of the sorted numbers into `count` intervals."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    costs = []
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        parts = [slice(a, b) for a, b in itertools.pairwise((0, *cuts, len(values)))]
        centres = np.array([np.average(values[part], weights=weights[part]) for part in parts])
        costs.append(cost(values, weights, centres))
    return min(costs)


@pytest.mark.parametrize("seed", range(6))
def test_clusters_are_near_the_best_there_are(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, weights = generator.standard_normal(18), generator.uniform(0.1, 3, 18)
    centres = cluster(values, 4, weights)
    assert np.all(np.diff(centres) >= 0)
    assert cost(values, weights, centres) <= 1.5 * best(values, weights, 4)


@pytest.mark.parametrize(("count", "error"), [(4, 0.1175), (16, 0.009497)])
def test_clusters_of_a_normal_law_lose_what_the_textbook_says(count: int, error: float) -> None:
    """Max, Quantizing for minimum distortion (1960), table I: the least mean squared error of N levels."""
    values = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    assert cost(values, np.ones(len(values)), cluster(values, count)) / len(values) == pytest.approx(error, rel=0.03)


def test_fewer_different_numbers_than_clusters_are_kept_as_they_are() -> None:
    for values in (np.zeros(9), np.array([1.0, 1.0, 2.0])):
        centres = cluster(values, 8)
        assert len(centres) == 8
        np.testing.assert_allclose(centres[nearest(values, centres)], values, atol=1e-6)


def test_a_palette_stands_for_its_rows_alone() -> None:
    matrix = np.random.default_rng(2).standard_normal((12, 40)).astype(np.float32)
    matrix[8:] *= 100
    palette = palettize(matrix, 4, 4, HALF)
    assert palette.luts.shape == (3, 16)
    assert palette.luts.astype(np.float16).astype(np.float32).tolist() == palette.luts.tolist()
    for rows in range(0, 12, 4):
        alone = palettize(matrix[rows : rows + 4], 4, 4, HALF)
        np.testing.assert_array_equal(palette.dense()[rows : rows + 4], alone.dense())


def test_rows_that_do_not_divide_share_a_palette_of_fewer() -> None:
    matrix = np.random.default_rng(3).standard_normal((10, 8)).astype(np.float32)
    assert palettize(matrix, 4, 8, SINGLE).rows == 5


@pytest.mark.parametrize("bits", [4, 6])
def test_rounding_with_products_loses_less_of_what_the_layer_gives(bits: int) -> None:
    generator = np.random.default_rng(4)
    mixing = generator.standard_normal((96, 96)) * np.geomspace(0.05, 2, 96)
    inputs = generator.standard_normal((4000, 96)) @ mixing
    matrix = generator.standard_normal((64, 96)).astype(np.float32)
    lost = {}
    for name, products in (("nearest", None), ("compensated", inputs.T @ inputs)):
        dense = palettize(matrix, bits, 8, HALF, products).dense()
        lost[name] = np.square(inputs @ (dense - matrix).T).mean()
    assert lost["compensated"] < 0.5 * lost["nearest"]


def test_columns_that_never_get_anything_do_no_harm() -> None:
    matrix = np.random.default_rng(5).standard_normal((8, 16)).astype(np.float32)
    products = np.diag(np.r_[np.ones(12), np.zeros(4)])
    assert np.abs(palettize(matrix, 6, 8, SINGLE, products).dense() - matrix).max() < 0.5
    np.testing.assert_array_equal(palettize(matrix, 4, 8, SINGLE, np.zeros((16, 16))).dense().shape, matrix.shape)


def test_int8_rows_are_within_half_a_step_and_rows_of_zeros_stay() -> None:
    matrix = np.random.default_rng(6).standard_normal((5, 30)).astype(np.float32)
    matrix[2] = 0
    matrix[3] *= 1e-7
    for kind in (HALF, SINGLE):
        values, scales = row_quantize(matrix, kind)
        step = np.maximum(scales, np.abs(matrix).max(axis=1) / 127)
        assert np.all(np.abs(values * scales[:, None] - matrix) <= np.maximum(step * 0.6, 1e-6)[:, None])
        assert not values[2].any()
