"""What others usually gave an item: never the told star itself, nor anything held out."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.data.usual_stars import expected_stars, usual_stars, usual_text

PRIOR = 5.0

Rows = list[list[tuple[int, float]]]
Worlds = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5).map(float)), min_size=3, max_size=8),
    min_size=2,
    max_size=6,
)


def split_of(users: Rows) -> tuple[Split, int]:
    """One user a list of (item, star), in this order, and how many items there are."""
    rows = [(u, item, star) for u, user in enumerate(users) for item, star in user]
    names, items, ratings = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in names],
            "item_id": [f"i{i}" for i in items],
            "timestamp": range(len(rows)),
        }
    ).with_columns(rating=pl.Series(ratings, dtype=pl.Float64))
    tables = check_tables("made", frame)
    return leave_one_out(tables), len(tables.items)


def drawn_to_the_mean(stars: list[float], mean: float) -> float:
    return mean + sum(star - mean for star in stars) / (len(stars) + PRIOR)


@given(users=Worlds, seed=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_each_interaction_is_told_of_some_other_users_alone(users: Rows, seed: int) -> None:
    split, num_items = split_of(users)
    known = split.taught  # without the stars of items that are held out later
    if np.isnan(known.ratings[split.rows("train")]).all():
        return
    told, of_items = usual_stars(split, num_items, seed)
    owners, _ = split.positions("train")
    train = [
        (int(u), int(known.items[r]), float(known.ratings[r]))
        for u, r in zip(owners.tolist(), split.rows("train").tolist(), strict=True)
    ]
    given_stars = [(u, i, star) for u, i, star in train if not np.isnan(star)]
    mean = float(np.mean([star for *_, star in given_stars]))
    for item in range(num_items):
        everybody = [star for _, i, star in given_stars if i == item]
        assert of_items[item] == pytest.approx(drawn_to_the_mean(everybody, mean), abs=1e-5)
    # There are five groups of the users that explain all of it.
    group = np.random.default_rng([4, seed]).permutation(len(users)) % 5
    for row, (user, item, _) in zip(split.rows("train").tolist(), train, strict=True):
        others = [s for u, i, s in given_stars if i == item and group[u] != group[user]]
        assert told[row] == pytest.approx(drawn_to_the_mean(others, mean), abs=1e-5)
    for part in ("validation", "test"):
        for row in split.rows(part).tolist():  # type: ignore[arg-type]
            assert told[row] == of_items[known.items[row]]


def test_a_star_changes_nothing_that_is_told_with_it() -> None:
    def told(star: float) -> np.ndarray:
        users: Rows = [[(0, star), (1, 3), (2, 4), (3, 4)], [(0, 2), (1, 5), (2, 4), (3, 4)]]
        # The stars of the others make up for it, so that the mean of all stays.
        users.append([(4, 6 - star), (1, 4), (2, 4), (3, 4)])
        split, num_items = split_of(users)
        return usual_stars(split, num_items, seed=1)[0]

    assert told(1.0)[0] == told(5.0)[0]


def test_held_out_stars_are_told_nowhere() -> None:
    def everything(star: float) -> tuple[np.ndarray, np.ndarray]:
        users: Rows = [[(0, 3), (1, 3), (2, star), (1, star)], [(2, 2), (1, 5), (0, 4), (3, star)]]
        split, num_items = split_of(users)
        return usual_stars(split, num_items, seed=0)

    for one, other in zip(everything(1.0), everything(5.0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_as_text() -> None:
    assert [usual_text(value) for value in (3.0, 4.24, 4.26)] == ["3.0", "4.2", "4.3"]


def test_expected_is_the_items_usual_and_the_users_habit() -> None:
    none = np.zeros(0, dtype=np.float32)
    assert expected_stars(3.5, none, none) == 3.5
    given, usual = np.array([5, np.nan, 4], "f4"), np.array([4, 1, 4.4], "f4")
    # One more than others, then .4 less, against five that say nothing.
    assert expected_stars(3.5, given, usual) == pytest.approx(3.5 + (1 - 0.4) / 7)
