"""How rows are drawn: evenly, and lists so that every interaction is told alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.prompting.sampling import draw_weighted, list_weights


def rows_of(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(len(sizes)), sizes)
    return users, np.concatenate([np.arange(size) for size in sizes])


@given(
    weights=st.lists(st.floats(0, 9), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3),
    count=st.integers(0, 200),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_each_row_is_drawn_as_often_as_its_share(
    weights: list[float], count: int, seed: int
) -> None:
    share = np.array(weights) / sum(weights)
    rows = draw_weighted(np.random.default_rng(seed), np.array(weights), count)
    assert len(rows) == count
    drawn = np.bincount(rows, minlength=len(weights))
    assert np.all(np.abs(drawn - share * count) < 1 + 1e-6)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), longest=st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_lists_are_full_and_tell_every_row_alike(sizes: list[int], longest: int) -> None:
    users, positions = rows_of(sizes)
    weights = list_weights(users, positions, longest)
    for user, size in enumerate(sizes):
        own, before = weights[users == user], positions[users == user]
        # All that a user has, or as much as a list holds.
        assert set(np.minimum(before[own > 0], longest)) == {min(size - 1, longest)}
        assert own[-1] > 0 and len(set(own[own > 0])) == 1
        np.testing.assert_allclose(own.sum() * min(size, longest), size)
