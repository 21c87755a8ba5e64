"""What others usually gave an item: never the told star itself, nor anything held out."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.data.usual_stars import (
    PRIORS,
    choose_priors,
    expected_stars,
    star_texts,
    usual_stars,
    usual_text,
)

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


def test_every_tenth_of_a_narrow_scale_has_a_text() -> None:
    assert star_texts([1.0, 2.0]) == [f"1.{i}" for i in range(10)] + ["2.0"]
    assert star_texts([0.5, 1.5, 1.0])[0] == "0.5" and len(star_texts([0.5, 1.5])) == 11
    assert star_texts([]) == star_texts([1.0, 100.0]) == []


def test_expected_is_the_items_usual_and_the_users_habit() -> None:
    none = np.zeros(0, dtype=np.float32)
    assert expected_stars(3.5, none, none) == 3.5
    given, usual = np.array([5, np.nan, 4], "f4"), np.array([4, 1, 4.4], "f4")
    # One more than others, then .4 less, against five that say nothing.
    assert expected_stars(3.5, given, usual) == pytest.approx(3.5 + (1 - 0.4) / 7)


def drawn_world(spread: float, seed: int) -> tuple[Split, int]:
    """Many users and items, whose own levels lie about so far apart as said."""
    generator = np.random.default_rng(seed)
    of_item = generator.normal(0, spread, 40)
    users: Rows = []
    for _ in range(120):
        own, items = generator.normal(0, spread), generator.permutation(40)[:12]
        values = 3 + own + of_item[items] + generator.normal(0, 0.8, 12)
        users.append(
            [(int(i), float(v)) for i, v in zip(items, values.round().clip(1, 5), strict=True)]
        )
    return split_of(users)


def test_the_less_items_and_users_differ_the_less_they_are_believed() -> None:
    alike, different = (choose_priors(*drawn_world(spread, 0), seed=0) for spread in (0.1, 0.8))
    assert alike[0] > different[0] and alike[1] > different[1]


def test_the_chosen_priors_foretell_training_best() -> None:
    """Each prior against every other, one interaction at a time."""
    split, num_items = drawn_world(0.4, 1)
    users, positions = split.positions("train")
    rows = split.rows("train").tolist()  # type: ignore[union-attr]
    histories = split.taught

    def error(of_items: float, of_users: float) -> float:
        told, _ = usual_stars(split, num_items, 0, of_items)
        errors = []
        for user, position, row in zip(users.tolist(), positions.tolist(), rows, strict=True):
            before = slice(row - position, row)
            given = histories.ratings[before]
            value = expected_stars(float(told[row]), given, told[before], of_users)
            errors.append(value - float(histories.ratings[row]))
            assert user == np.searchsorted(histories.offsets, row, side="right") - 1
        return float(np.mean(np.square(errors)))

    of_items, of_users = choose_priors(split, num_items, seed=0)
    # An endless prior of users leaves the items alone.
    assert of_items == min(PRIORS, key=lambda prior: error(prior, np.inf))
    assert of_users == min(PRIORS, key=lambda prior: error(of_items, prior))


def test_held_out_stars_choose_no_prior() -> None:
    def chosen(star: float) -> tuple[float, float]:
        rows = [[(i, 1.0 + (i * u) % 5) for i in range(6)] for u in range(1, 9)]
        return choose_priors(*split_of([[*row, (6, star), (7, star)] for row in rows]), seed=0)

    assert chosen(1.0) == chosen(5.0)


def test_where_nothing_speaks_for_a_prior_it_is_the_first() -> None:
    users: Rows = [[(0, 4), (1, 4), (2, 4), (3, 4)], [(2, 4), (1, 4), (0, 4), (3, 4)]]
    assert choose_priors(*split_of(users), seed=0) == (PRIORS[0], PRIORS[0])
