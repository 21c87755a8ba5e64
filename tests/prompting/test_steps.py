"""Batches of examples of like length, dealt into steps."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p5_t5.prompting.steps import deal, like_length

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=80)


@given(LENGTHS, st.integers(20, 300))
def test_every_example_is_in_one_batch_that_keeps_its_budget(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    source, target = np.array(lengths).T
    rows = np.arange(len(lengths)) + 1000
    batches = like_length(rows, source, target, budget)
    assert sorted(row for batch in batches for row in batch) == rows.tolist()
    for batch in batches:
        own = np.array(batch) - 1000
        padded = len(batch) * (source[own].max() + target[own].max())
        assert len(batch) == 1 or padded <= budget


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 9))
def test_every_step_is_full_and_every_batch_is_dealt(count: int, wide: int, seed: int) -> None:
    batches = [[number] for number in range(count)]
    steps = deal(np.random.default_rng(seed), batches, wide)
    assert all(len(step) == wide for step in steps)
    times = Counter(row for step in steps for batch in step for row in batch)
    assert times.keys() == set(range(count))
    # Only a last step that is not full repeats what it has.
    assert sum(times.values()) - count < wide


def test_a_step_has_short_and_long_batches() -> None:
    steps = deal(np.random.default_rng(0), [[number] for number in range(40)], 4)
    assert all(
        sorted(row // 10 for batch in step for row in batch) == [0, 1, 2, 3] for step in steps
    )
