"""The order of the users says nothing of them."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import leave_one_out
from p5_t5.data.tables import Tables, check_tables
from p5_t5.data.user_order import in_drawn_order


def made(ids: list[str], **profile: list[str | None]) -> Tables:
    """Users who each have the items 0 to 3, with 1 to 4 stars."""
    rows = [(id_, f"i{n}", n, n + 1.0) for id_ in ids for n in range(4)]
    names = ("user_id", "item_id", "timestamp", "rating")
    users = pl.DataFrame({"user_id": ids, **profile}, schema_overrides=dict.fromkeys(profile, str))
    return check_tables("made", pl.DataFrame(rows, schema=names, orient="row"), users=users)


@settings(deadline=None)
@given(st.lists(st.text("abc123", min_size=1), min_size=2, unique=True), st.randoms())
def test_the_order_does_not_depend_on_the_file(ids: list[str], chance: object) -> None:
    other = sorted(ids, key=lambda _: chance.random())  # type: ignore[attr-defined]
    one, two = in_drawn_order(made(ids)), in_drawn_order(made(other))
    assert one.interactions.equals(two.interactions)
    assert one.users.equals(two.users)
    assert sorted(one.users["user_id"]) == sorted(ids)


def test_neighbours_in_the_file_are_far_from_each_other() -> None:
    ids = [f"{n}" for n in range(1, 1001)]
    drawn = in_drawn_order(made(ids)).users["user_id"].cast(pl.Int64)
    near = (drawn.diff().abs() <= 10).mean()
    # Two of a thousand are ten apart or less in 2% of all pairs.
    assert near < 0.05


def test_everyone_keeps_their_own_rows() -> None:
    ids = ["u", "v", "w", "x"]
    tables = made(ids, job=["a", "b", "c", "d"])
    before, after = (
        leave_one_out(tables).histories,
        leave_one_out(tables, drawn_order=True).histories,
    )
    assert after.user_ids != before.user_ids
    for id_ in ids:
        old, new = before.state(before.number[id_]), after.state(after.number[id_])
        assert new.profile == old.profile
        assert new.items.tolist() == old.items.tolist()
        assert new.ratings.tolist() == old.ratings.tolist()
        assert new.name == id_


@pytest.mark.parametrize("prefix", ["", "user_"])
def test_an_id_that_counts_is_no_name(prefix: str) -> None:
    tables = made([f"{prefix}{n}" for n in range(50)], name=["Ann", None, " ", *["B. 2"] * 47])
    known = leave_one_out(tables, drawn_order=True).histories
    assert known.state(known.number[f"{prefix}0"]).name == "Ann"
    for n in (1, 2):
        place = known.number[f"{prefix}{n}"]
        assert known.state(place).name == str(place + 1)
    assert known.state(known.number[f"{prefix}3"]).name == "B. 2"


def test_other_ids_stay_names() -> None:
    known = leave_one_out(made(["A2IB4", "ann", "17"]), drawn_order=True).histories
    assert known.state(known.number["A2IB4"]).name == "A2IB4"
    assert known.state(known.number["ann"]).name == "ann"
    assert known.state(known.number["17"]).name == str(known.number["17"] + 1)
