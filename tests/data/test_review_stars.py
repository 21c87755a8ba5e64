"""Stars by the words of reviews: known from other users' training alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from p5_t5.data.review_stars import review_stars
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables

GOOD, BAD = ["lovely", "crisp", "sturdy", "bright"], ["dull", "noisy", "broken", "cheap"]
NEUTRAL = ["string", "pick", "cable", "stand", "pedal", "tuner", "strap", "case"]


def split_of(rows: list[dict[str, Any]]) -> Split:
    return leave_one_out(check_tables("made", pl.DataFrame(rows)))


def made(users: int = 60, generous: int = 0) -> list[dict[str, Any]]:
    """Reviews of 1 to 5 stars, as many good words as they say, of eight interactions a user.

    The first ``generous`` users give two stars more for the same words.
    """
    rng = np.random.default_rng(3)
    rows = []
    for user in range(users):
        for t in range(8):
            star = int(rng.integers(1, 4 if user < generous else 6))
            words = [*rng.choice(GOOD, star - 1), *rng.choice(BAD, 5 - star)]
            words += rng.choice(NEUTRAL, 3).tolist()
            rows.append(
                {"user_id": f"u{user}", "item_id": f"i{t}", "timestamp": t,
                 "rating": float(star + 2 * (user < generous)), "summary": str(words[0]),
                 "review": " ".join(rng.permutation(words).tolist())}
            )  # fmt: skip
    return rows


def error(split: Split, found: np.ndarray, part: Any) -> float:
    rows = split.rows(part)
    return float(np.sqrt(np.square(found[rows] - split.histories.ratings[rows]).mean()))


def test_words_tell_the_stars_of_reviews_that_were_not_learnt() -> None:
    split = split_of(made())
    found = review_stars(split, seed=0)
    assert found.dtype == np.float32 and found.min() >= 1 and found.max() <= 5
    spread = float(split.histories.ratings.std())
    for part in ("train", "validation", "test"):
        assert error(split, found, part) < spread / 3, part
    # What is told while training is as good as what is told at test, not better.
    assert error(split, found, "train") > 0.7 * error(split, found, "test")


def test_held_out_stars_change_nothing() -> None:
    rows = made()
    other = [row | {"rating": 6 - row["rating"]} if row["timestamp"] >= 6 else row for row in rows]
    one, two = (review_stars(split_of(each), seed=0) for each in (rows, other))
    assert np.array_equal(one, two)


def test_a_training_review_is_not_told_by_its_own_stars_nor_later_ones() -> None:
    rows = made()
    changed = [dict(row) for row in rows]
    place = 8 * 7 + 3  # of user 7
    changed[place]["rating"] = 6 - changed[place]["rating"]
    one, two = (review_stars(split_of(each), seed=0) for each in (rows, changed))
    assert np.array_equal(one[place - 3 : place + 1], two[place - 3 : place + 1])
    assert not np.array_equal(one, two)


def test_who_gave_more_than_their_words_say_does_so_again() -> None:
    split = split_of(made(60, generous=6))
    found = review_stars(split, seed=0)
    of_generous = split.rows("test")[:6]
    # Without their habit the words would be taken for two stars less.
    assert (found[of_generous] - split.histories.ratings[of_generous]).mean() > -1.6
    first = split.histories.offsets[:6]
    assert (found[first] - split.histories.ratings[first]).mean() < -1.4


def test_where_most_have_the_most_stars_good_words_are_told_as_the_most() -> None:
    rows = made(120)
    for row in rows:
        good = sum(word in GOOD for word in row["review"].split())
        row["rating"] = float(min(2 * good + 1, 5))
    split = split_of(rows)
    found, true = review_stars(split, seed=0), split.histories.ratings
    # A straight line through 1, 3, 5, 5 and 5 stars is half a star off in the mean.
    assert error(split, found, "test") < 0.3
    assert (found[true == 5]).mean() > 4.85


def test_without_a_review_nothing_is_told() -> None:
    rows = made(10)
    for row in rows[::3]:
        row["review"] = None
    split = split_of(rows)
    assert np.array_equal(np.isnan(review_stars(split, seed=0)), ~split.known("review"))


@pytest.mark.parametrize("users", [1, 2])
def test_few_users_are_told_something_all_the_same(users: int) -> None:
    found = review_stars(split_of(made(users)), seed=0)
    assert np.isfinite(found).all()


def test_reviews_need_no_headlines() -> None:
    rows = [{k: v for k, v in row.items() if k != "summary"} for row in made()]
    split = split_of(rows)
    assert error(split, review_stars(split, seed=0), "test") < 0.6
