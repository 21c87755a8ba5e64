"""Users and what they did; any column as text."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.histories import Histories, as_text
from p5_t5.data.splits import leave_one_out
from p5_t5.data.tables import check_tables


def histories(lengths: tuple[int, ...] = (3, 4), **profile: Any) -> Histories:
    """Users u0, u1 … whose interactions are items 0, 1, 2 … with 1, 2, 3 … stars."""
    rows = [(f"u{u}", f"{p:02}", p, p + 1.0) for u, n in enumerate(lengths) for p in range(n)]
    names = ("user_id", "item_id", "timestamp", "rating")
    interactions = pl.DataFrame(rows, schema=names, orient="row")
    users = pl.DataFrame({"user_id": [f"u{u}" for u in range(len(lengths))], **profile})
    return leave_one_out(check_tables("made", interactions, users=users)).histories


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, 2, None], ["1", "2", "unknown"]),
        ([1.0, 25.0, None], ["1", "25", "unknown"]),
        ([-3.0, 0.0], ["-3", "0"]),
        ([1.0, 2.5], ["1.0", "2.5"]),
        (["a", "", "  ", None], ["a", "unknown", "unknown", "unknown"]),
        ([["a", "b"], [], None], ["a, b", "unknown", "unknown"]),
        ([[1, 2], [3]], ["1, 2", "3"]),
        ([True, None], ["true", "unknown"]),
        ([date(2001, 2, 3)], ["2001-02-03"]),
        ([None, None], ["unknown", "unknown"]),
    ],
)
def test_a_column_as_text(values: list[Any], texts: list[str]) -> None:
    assert as_text(pl.Series("column", values)) == texts


def test_an_empty_float_column_is_unknown() -> None:
    assert as_text(pl.Series([None, None], dtype=pl.Float64)) == ["unknown", "unknown"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_floats_that_are_no_whole_numbers_are_text_all_the_same(value: float) -> None:
    texts = as_text(pl.Series([value, 30.0]))
    assert len(texts) == 2
    assert float(texts[1]) == 30


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1))
def test_whole_floats_read_like_the_integers(values: list[int | None]) -> None:
    """A column with a gap arrives as floats; the text is the same."""
    floats = pl.Series([None if v is None else float(v) for v in values], dtype=pl.Float64)
    assert as_text(floats) == as_text(pl.Series(values, dtype=pl.Int64))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(3, 6), min_size=1, max_size=4), st.data())
def test_a_state_is_what_came_before(lengths: list[int], data: st.DataObject) -> None:
    known = histories(tuple(lengths))
    user = data.draw(st.integers(0, len(lengths) - 1))
    position = data.draw(st.integers(0, lengths[user]))
    state = known.state(user, position)
    assert state.items.tolist() == list(range(position))
    assert state.ratings.tolist() == [p + 1.0 for p in range(position)]
    assert state.number == user


def test_a_state_without_a_position_holds_everything() -> None:
    known = histories((3, 4))
    assert known.state(0).items.tolist() == [0, 1, 2]
    assert known.state(1).items.tolist() == [0, 1, 2, 3]


def test_profile_columns_and_the_name() -> None:
    known = histories((3, 3), name=["Ann", None], age=[31, None], job=["clerk", ""])
    assert known.profile_columns == ("age", "job")
    ann, other = known.state(0), known.state(1)
    assert (ann.name, ann.profile) == ("Ann", {"age": "31", "job": "clerk"})
    assert (other.name, other.profile) == ("u1", {"age": "unknown", "job": "unknown"})


def test_without_profiles_nothing_is_known() -> None:
    known = histories((3,))
    assert known.profile_columns == ()
    assert (known.state(0).name, known.state(0).profile) == ("u0", {})


def test_users_are_numbered_in_their_order() -> None:
    known = histories((3, 4, 5))
    assert known.num_users == 3
    assert known.number == {"u0": 0, "u1": 1, "u2": 2}


def test_ratings_are_known_if_one_is() -> None:
    known = histories((3,))
    none = np.full(3, np.nan, dtype=np.float32)
    some = np.array([np.nan, 3, np.nan], dtype=np.float32)

    def with_ratings(ratings: Any) -> Histories:
        return Histories(known.user_ids, known.offsets, known.items, ratings, {})

    assert with_ratings(some).has_ratings
    assert not with_ratings(none).has_ratings
