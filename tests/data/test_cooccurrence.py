"""Vectors of items: near what stands beside them, nought for what stands beside nothing."""

from __future__ import annotations

import numpy as np
import pytest

from p5_t5.data.cooccurrence import Vectors, cooccurrence_vectors


def vectors_of(histories: list[list[int]], num_items: int, dimensions: int = 16) -> Vectors:
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    items = np.array([item for row in histories for item in row], dtype=np.int64)
    rng = np.random.default_rng(0)
    return cooccurrence_vectors(offsets, items, num_items, dimensions, rng)


def test_items_of_the_same_histories_point_the_same_way() -> None:
    rng = np.random.default_rng(5)
    # Even and odd rows are never met by the same user.
    histories = [(2 * rng.integers(0, 30, 12) + user % 2).tolist() for user in range(300)]
    found = vectors_of(histories, 62)
    assert np.linalg.norm(found[:60], axis=1) == pytest.approx(1)
    alike = found[:60] @ found[:60].T
    same = np.add.outer(np.arange(60), np.arange(60)) % 2 == 0
    assert alike[same].mean() > alike[~same].mean() + 0.2
    assert not found[60:].any()


def test_there_are_no_more_dimensions_than_asked_for() -> None:
    histories = [[0, 1, 2], [3, 4, 5], [1, 4]]
    assert vectors_of(histories, 6, dimensions=2).shape == (6, 2)
    assert vectors_of(histories, 6).shape[1] <= 6


@pytest.mark.parametrize("histories", [[], [[1], [2]], [[1, 1]]])
def test_without_neighbours_there_are_noughts(histories: list[list[int]]) -> None:
    assert not vectors_of(histories, 4).any()
