"""Scheduling: every input once, no batch over its budget, nothing of another order than promised."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.runtime.schedule import batches, windows

LENGTHS = st.lists(st.integers(0, 40), max_size=200)


@given(LENGTHS, st.integers(1, 64))
def test_every_input_runs_once_within_the_budget_or_alone(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    assert sorted(np.concatenate([[], *found]).tolist()) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, st.integers(1, 64))
def test_batches_go_from_long_to_short_and_equals_keep_their_order(lengths: list[int], budget: int) -> None:
    order = [int(index) for batch in batches(lengths, budget) for index in batch]
    assert order == sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


@given(LENGTHS, st.integers(1, 64))
def test_a_batch_is_full_when_the_next_begins(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    for batch in found[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > budget


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([], []), ([3], [[0]]), ([9, 2, 2, 2], [[0], [1, 2], [3]]), ([2, 4, 2], [[1], [0, 2]]), ([0, 0], [[0, 1]])],
)
def test_batches_of_at_most_five_tokens(lengths: list[int], expected: list[list[int]]) -> None:
    assert [batch.tolist() for batch in batches(lengths, 5)] == expected


@given(st.lists(st.integers()), st.integers(1, 9))
def test_windows_are_the_inputs_in_their_order(inputs: list[int], size: int) -> None:
    found = list(windows(iter(inputs), size))
    assert [value for window in found for value in window] == inputs
    assert all(len(window) == size for window in found[:-1])
    assert all(0 < len(window) <= size for window in found)


def test_a_window_takes_no_more_than_it_gives() -> None:
    endless = count()
    assert list(islice(windows(endless, 4), 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert next(endless) == 8
