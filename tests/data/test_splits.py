"""The one leave-one-out split: last item test, the one before validation, the rest training."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import Part, Split, leave_one_out
from p5_t5.data.tables import Tables, check_tables, read_tables, write_tables

PARTS: tuple[Part, ...] = ("train", "validation", "test")
# Two users, mixed in the file and out of time order.
ROWS = [
    ("ann", "d", 40),
    ("bob", "x", 9),
    ("ann", "a", 10),
    ("ann", "c", 30),
    ("bob", "z", 7),
    ("ann", "b", 20),
    ("bob", "y", 8),
]

Row = tuple[str, str, int]


def frame(rows: list[Row], **columns: Any) -> pl.DataFrame:
    users, items, times = zip(*rows, strict=True)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times, **columns})


def split_of(folder: Path, interactions: pl.DataFrame, users: pl.DataFrame | None = None) -> Split:
    """Writes a data set, reads it again and splits it."""
    write_tables(folder / "made", interactions, users=users)
    return leave_one_out(read_tables(folder / "made"))


def item_names(interactions: pl.DataFrame) -> list[str]:
    """The catalogue's ids where no items table was given: sorted."""
    return sorted(set(interactions["item_id"]))


def asked(split: Split, names: list[str], part: Part) -> dict[str, list[str]]:
    """The items of a part by user id, in the order that ``positions`` gives them."""
    found: dict[str, list[str]] = defaultdict(list)
    users, positions = split.positions(part)
    for user, position in zip(users.tolist(), positions.tolist(), strict=True):
        item = split.histories.items[split.histories.offsets[user] + position]
        found[split.histories.user_ids[user]].append(names[item])
    return dict(found)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("train", {"ann": ["a", "b"], "bob": ["z"]}),
        ("validation", {"ann": ["c"], "bob": ["y"]}),
        ("test", {"ann": ["d"], "bob": ["x"]}),
    ],
)
def test_each_users_time_decides_the_part(
    tmp_path: Path, part: Part, expected: dict[str, list[str]]
) -> None:
    interactions = frame(ROWS)
    split = split_of(tmp_path, interactions)
    assert split.histories.user_ids == ("ann", "bob")
    assert asked(split, item_names(interactions), part) == expected


@pytest.mark.parametrize(
    ("times", "in_time", "tied_users", "tied_targets"),
    [
        ([1, 2, 3, 4, 5], "abcde", 0, 0),
        ([5, 5, 5, 5, 5], "abcde", 1, 1),
        ([2, 2, 3, 4, 5], "abcde", 1, 0),
        ([1, 2, 3, 4, 4], "abcde", 1, 1),
        ([1, 2, 3, 3, 4], "abcde", 1, 1),
        ([4, 3, 2, 2, 1], "ecdba", 1, 0),
        ([4, 3, 3, 2, 1], "edbca", 1, 1),
        ([9, 1, 9, 1, 1], "bdeac", 1, 1),
    ],
)
def test_ties_keep_the_order_of_the_file_and_are_counted(
    tmp_path: Path, times: list[int], in_time: str, tied_users: int, tied_targets: int
) -> None:
    rows = [("ann", item, time) for item, time in zip("abcde", times, strict=True)]
    split = split_of(tmp_path, frame(rows))
    assert "".join("abcde"[item] for item in split.histories.items) == in_time
    assert (split.tied_users, split.tied_targets) == (tied_users, tied_targets)


def test_equal_times_of_two_users_are_no_tie(tmp_path: Path) -> None:
    """The last time of one user is the first of the next."""
    rows = [("ann", item, i) for i, item in enumerate("abc")]
    rows += [("bob", item, i) for i, item in enumerate("abc", start=2)]
    split = split_of(tmp_path, frame(rows))
    assert (split.tied_users, split.tied_targets) == (0, 0)


def test_only_users_with_a_tie_are_counted(tmp_path: Path) -> None:
    rows = [("ann", item, 1) for item in "abcd"]
    rows += [("bob", item, i) for i, item in enumerate("abcd")]
    rows += [("cyd", item, max(i, 1)) for i, item in enumerate("abcd")]
    split = split_of(tmp_path, frame(rows))
    assert (split.tied_users, split.tied_targets) == (2, 1)


def test_without_timestamps_the_file_is_the_order(tmp_path: Path) -> None:
    split = split_of(tmp_path, frame(ROWS).drop("timestamp"))
    names = item_names(frame(ROWS))
    assert asked(split, names, "test") == {"ann": ["b"], "bob": ["y"]}
    assert (split.tied_users, split.tied_targets) == (0, 0)


def test_rating_texts_and_profile_stay_with_their_interaction(tmp_path: Path) -> None:
    ratings = [float(time) for _, _, time in ROWS]
    reviews = [f"{user} on {item}" for user, item, _ in ROWS]
    split = split_of(
        tmp_path,
        frame(ROWS, rating=ratings, review=reviews),
        users=pl.DataFrame({"user_id": ["bob", "ann"], "age": [30, 40]}),
    )
    assert split.histories.ratings.tolist() == [10, 20, 30, 40, 7, 8, 9]
    assert split.texts["review"] == [
        *("ann on a", "ann on b", "ann on c", "ann on d"),
        *("bob on z", "bob on y", "bob on x"),
    ]
    assert split.histories.profiles == {"age": ["40", "30"]}


def test_without_ratings_all_are_unknown(tmp_path: Path) -> None:
    split = split_of(tmp_path, frame(ROWS))
    assert np.isnan(split.histories.ratings).all()
    assert not split.histories.has_ratings
    assert split.texts == {}


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_interactions_are_refused(tmp_path: Path, count: int) -> None:
    rows = [("ann", item, i) for i, item in enumerate("abc")]
    rows += [("tiny", item, i) for i, item in enumerate("abc"[:count])]
    write_tables(tmp_path / "made", frame(rows))
    tables = read_tables(tmp_path / "made", min_interactions=1)
    with pytest.raises(ValueError, match=rf"made: user 'tiny' has {count} inter.*at least 3"):
        leave_one_out(tables)


def test_three_interactions_are_enough(tmp_path: Path) -> None:
    split = split_of(tmp_path, frame([("ann", item, i) for i, item in enumerate("abc")]))
    assert [split.rows(part).tolist() for part in PARTS] == [[0], [1], [2]]


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[Row], Tables]:
    """Rows in file order, each pair once, times with many ties; every user has three or more."""
    rows: list[Row] = []
    for user in range(draw(st.integers(1, 5))):
        items = draw(st.lists(st.integers(0, 9), min_size=3, max_size=8, unique=True))
        times = draw(st.lists(st.integers(0, 6), min_size=len(items), max_size=len(items)))
        rows += [(f"u{user}", f"i{i}", t) for i, t in zip(items, times, strict=True)]
    rows = draw(st.permutations(rows))
    return rows, check_tables("made", frame(rows))


@settings(deadline=None, max_examples=60)
@given(data_sets())
def test_the_parts_are_disjoint_and_together_everything(data: tuple[list[Row], Tables]) -> None:
    rows, tables = data
    split = leave_one_out(tables)
    parts = [split.rows(part) for part in PARTS]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    assert [len(part) for part in parts[1:]] == [split.histories.num_users] * 2


@settings(deadline=None, max_examples=60)
@given(data_sets())
def test_every_part_is_what_a_stable_sort_gives(data: tuple[list[Row], Tables]) -> None:
    rows, tables = data
    split, names = leave_one_out(tables), tables.items["item_id"].to_list()
    histories: dict[str, list[str]] = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        histories[user].append(item)
    assert asked(split, names, "train") == {u: items[:-2] for u, items in histories.items()}
    assert asked(split, names, "validation") == {u: items[-2:-1] for u, items in histories.items()}
    assert asked(split, names, "test") == {u: items[-1:] for u, items in histories.items()}


@settings(deadline=None, max_examples=60)
@given(data_sets(), st.integers(0, 3))
def test_validation_asks_behind_a_held_back_item(data: tuple[list[Row], Tables], seed: int) -> None:
    rows, tables = data
    histories: dict[str, list[str]] = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        histories[user].append(item)
    enough = [user for user, items in histories.items() if len(items) >= 4]
    assume(enough)
    split = leave_one_out(tables, held_back=len(enough) // 2 + 1, seed=seed)
    names = tables.items["item_id"].to_list()
    validated = asked(split, names, "validation")
    assert len(validated) == len(enough) // 2 + 1
    assert validated == {user: histories[user][-2:-1] for user in validated}
    shown = {u: items[: -3 if u in validated else -2] for u, items in histories.items()}
    assert asked(split, names, "train") == shown
    offsets, items = split.train_histories()
    assert np.diff(offsets).tolist() == [len(shown[u]) for u in split.histories.user_ids]
    assert [names[i] for i in items] == [i for u in split.histories.user_ids for i in shown[u]]
    assert asked(split, names, "test") == {u: items[-1:] for u, items in histories.items()}


def test_holding_back_needs_users_with_four_interactions() -> None:
    tables = check_tables("made", frame(ROWS))  # ann has four, bob has three
    leave_one_out(tables, held_back=1)
    with pytest.raises(ValueError, match=r"made: --held_back_users 2: only 1 users have the 4"):
        leave_one_out(tables, held_back=2)


@settings(deadline=None, max_examples=60)
@given(data_sets())
def test_held_out_pairs_never_reach_the_training_histories(
    data: tuple[list[Row], Tables],
) -> None:
    split = leave_one_out(data[1])
    offsets, items = split.train_histories()
    assert len(offsets) == split.histories.num_users + 1
    assert (offsets[0], offsets[-1]) == (0, len(items))
    for user in range(split.histories.num_users):
        own = items[offsets[user] : offsets[user + 1]].tolist()
        full = split.histories.state(user).items.tolist()
        assert own == full[:-2]
        assert not set(own) & set(full[-2:])


@settings(deadline=None, max_examples=60)
@given(data_sets())
def test_tied_targets_are_those_that_another_file_order_would_change(
    data: tuple[list[Row], Tables],
) -> None:
    """Reversing the file changes the held-out items of exactly the counted users."""
    rows, tables = data
    split, other = leave_one_out(tables), leave_one_out(check_tables("made", frame(rows[::-1])))
    names = tables.items["item_id"].to_list()
    last = [asked(s, names, part) for s in (split, other) for part in PARTS[1:]]
    # A tie of the two held-out items alone swaps them; any other tie brings in another item.
    changed = {u for u in last[0] if (last[0][u], last[1][u]) != (last[2][u], last[3][u])}
    assert split.tied_targets == len(changed)
