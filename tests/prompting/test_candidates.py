"""What is drawn beside the truth: laws of candidate lists and of proposals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import TASKS

STARS = [1.0, 2.0, 3.0, 4.0, 5.0]
DRAWS = st.none() | st.integers(0, 2**31 - 1)


def made(lengths: list[int], items: int) -> Split:
    """Users who each take the items from some point on, in a catalogue of ``items``."""
    rows = [
        (f"u{u}", f"{(7 * u + p) % items:04}", float(p % 5 + 1))
        for u, n in enumerate(lengths)
        for p in range(n)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    catalogue = pl.DataFrame({"item_id": [f"{i:04}" for i in range(items)]})
    return leave_one_out(check_tables("made", frame, catalogue))


def candidates_of(split: Split, items: int, count: int = 100) -> Candidates:
    return Candidates(split, items, STARS, PromptSettings(candidates=count))


def own(split: Split, user: int, draw: int | None = None) -> set[int]:
    """All items of a user, held-out ones included; those of training where a draw is given."""
    begin, end = split.histories.offsets[user : user + 2]
    end = end if draw is None else begin + split.train_lengths[user]
    return set(split.histories.items[begin:end].tolist())


@settings(deadline=None)
@given(
    st.lists(st.integers(3, 9), min_size=1, max_size=4),
    st.integers(9, 150),
    st.integers(2, 120),
    DRAWS,
    st.data(),
)
def test_candidates_are_the_true_item_and_items_that_the_user_does_not_have(
    lengths: list[int], items: int, count: int, draw: int | None, data: st.DataObject
) -> None:
    split = made(lengths, items)
    user = data.draw(st.integers(0, len(lengths) - 1))
    item = data.draw(st.sampled_from(sorted(own(split, user, draw))))
    found = candidates_of(split, items, count).among(user, item, draw).tolist()
    assert found.count(item) == 1
    assert len(set(found)) == len(found)
    assert set(found) & own(split, user, draw) == {item}
    assert set(found) <= set(range(items))
    assert len(found) == min(count, items - len(own(split, user, draw)) + 1)
    assert found == candidates_of(split, items, count).among(user, item, draw).tolist()


@pytest.mark.parametrize("spared", [False, True])
def test_negatives_are_drawn_evenly_and_the_true_item_stands_anywhere(spared: bool) -> None:
    # Of the five items the last two are held out: to training they are as wrong as any other.
    known = 5 if spared else 3
    candidates = Candidates(made([5], 50), 50, STARS, PromptSettings(candidates=10), spared=spared)
    lists = np.stack([candidates.among(0, 2, draw) for draw in range(4000)])
    counts = np.bincount(lists[lists != 2], minlength=50)
    expected = 4000 * 9 / (50 - known)
    assert counts[:known].tolist() == [0] * known
    assert abs(counts[known:] - expected).max() < 5 * np.sqrt(expected)
    places = np.bincount((lists == 2).argmax(axis=1), minlength=10)
    assert abs(places - 400).max() < 5 * np.sqrt(400)


@pytest.mark.parametrize("family", ["sequential", "direct"])
def test_choosing_and_saying_yes_are_judged_by_the_same_list(family: str) -> None:
    """Whatever the family and the template, and however often it is asked."""
    split = made([8, 6], 300)
    candidates, task = candidates_of(split, 300), TASKS[family]
    chosen = candidates.asked(task, task.family.answers["choice"], 1, 5)
    assert chosen.item is not None and chosen.candidates is not None
    assert np.array_equal(chosen.candidates, candidates.among(1, chosen.item))
    other = candidates.among(0, split.histories.items[7])
    assert not np.array_equal(chosen.candidates, other)


def test_picking_is_among_candidates_that_no_prompt_lists() -> None:
    candidates, task = candidates_of(made([8, 6], 300), 300), TASKS["direct"]
    chosen, picked = (
        candidates.asked(task, task.family.answers[kind], 1, 5) for kind in ("choice", "pick")
    )
    assert chosen.candidates is not None and picked.candidates is not None
    assert np.array_equal(picked.candidates, chosen.candidates)
    # While training nothing needs them.
    assert candidates.asked(task, task.family.answers["pick"], 1, 5, draw=3).candidates is None


@pytest.mark.parametrize("judging", [True, False])
@pytest.mark.parametrize(
    ("family", "slot"), [("sequential", "item"), ("direct", "item"), ("rating", "star")]
)
def test_half_of_what_is_put_forward_is_true(family: str, slot: str, judging: bool) -> None:
    users = 2000 if judging else 1
    split = made([6] * users, 40)
    candidates, task = candidates_of(split, 40), TASKS[family]
    kind = task.family.answers["yes_no"]
    agreed = 0
    position = 4 if judging else 3
    for i in range(2000):
        user, draw = (i, None) if judging else (0, i)
        asked = candidates.asked(task, kind, user, position, draw)
        true = task.asked(split, user, position)
        agreed += bool(asked.agreed)
        truth = true.item if slot == "item" else true.rating
        assert (getattr(asked, slot) == truth) == asked.agreed
        if slot == "item" and not asked.agreed:
            assert asked.item not in own(split, user, draw)
        assert asked.star is None or asked.star in STARS
    assert abs(agreed - 1000) < 5 * np.sqrt(500)


def test_where_there_is_nothing_else_the_truth_is_put_forward() -> None:
    split = made([9], 9)
    candidates = Candidates(split, 9, [1.0], PromptSettings(), spared=True)
    direct, rating = TASKS["direct"], TASKS["rating"]
    assert candidates.among(0, 3).tolist() == [3]
    for draw in (None, *range(20)):
        assert candidates.asked(direct, direct.family.answers["yes_no"], 0, 3, draw).agreed
        assert candidates.asked(rating, rating.family.answers["yes_no"], 0, 0, draw).agreed


def test_nothing_is_drawn_for_an_answer_that_needs_nothing() -> None:
    split, task = made([6], 20), TASKS["sequential"]
    candidates = candidates_of(split, 20)
    for draw in (None, 5):
        asked = candidates.asked(task, task.family.answers["next_item"], 0, 3, draw)
        assert asked == task.asked(split, 0, 3)
