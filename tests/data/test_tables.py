"""Reading, checking, writing and describing the three tables."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import p5_t5.data.tables as tables_module
from p5_t5.data.tables import check_tables, data_card, describe, read_tables, write_tables

TIMES = [30, 10, 20, 5, 5, 5, 7, 8, 9]
USERS = ["u2", "u2", "u2", "u1", "u1", "u1", "007", "007", "007"]
ITEMS = ["a", "b", "c", "c", "a", "b", "a", "b", "c"]
RATINGS = [5.0, 4.0, 3.5, 1.0, 2.0, 3.0, 5.0, 5.0, 1.0]


def interactions(**columns: Any) -> pl.DataFrame:
    """Three users with three interactions each; a column is replaced, None takes it out."""
    data = {"user_id": USERS, "item_id": ITEMS, "rating": RATINGS, "timestamp": TIMES, **columns}
    return pl.DataFrame({name: values for name, values in data.items() if values is not None})


def items(**columns: Any) -> pl.DataFrame:
    data = {
        "item_id": ["b", "a", "c"],
        "title": ["Bee", "Ay", None],
        "categories": [["x", "y"], ["x"], []],
        "price": [1.5, None, 3.0],
        **columns,
    }
    return pl.DataFrame(data)


def users(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"user_id": ["007", "u1", "u2"], "age": [30, 40, 50], **columns})


def save(folder: Path, form: str, **parts: pl.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    for part, frame in parts.items():
        path = folder / f"{part}.{form}"
        if form == "parquet":
            frame.write_parquet(path)
        elif form == "jsonl":
            frame.write_ndjson(path)
        else:
            lists = [name for name, kind in frame.schema.items() if kind == pl.List(pl.String)]
            frame.with_columns(pl.col(lists).list.join("|")).write_csv(path)
    return folder


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_three_forms_give_the_same_tables(tmp_path: Path, form: str) -> None:
    read = read_tables(
        save(tmp_path / "shop", form, interactions=interactions(), items=items(), users=users())
    )
    assert read.name == "shop"
    assert read.interactions.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "rating": pl.Float64,
        "timestamp": pl.Int64,
    }
    # u2 is put in time order; u1's equal times keep the file's order; 007 keeps its zeros
    assert read.interactions["user_id"].to_list() == ["u2"] * 3 + ["u1"] * 3 + ["007"] * 3
    assert read.interactions["item_id"].to_list() == ["b", "c", "a", "c", "a", "b", "a", "b", "c"]
    assert read.items.equals(items())
    assert read.users.rows() == [("u2", 50), ("u1", 40), ("007", 30)]
    assert read.notes == ("items without a title: 1",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_whole_number_ids_become_text(tmp_path: Path, form: str) -> None:
    frame = interactions(user_id=[3, 3, 3, 1, 1, 1, 2, 2, 2], item_id=[7, 8, 9] * 3)
    read = read_tables(save(tmp_path, form, interactions=frame))
    assert read.users["user_id"].to_list() == ["3", "1", "2"]
    assert read.items["item_id"].to_list() == ["7", "8", "9"]


def test_ids_that_arrive_as_floats_lose_the_point() -> None:
    frame = interactions(user_id=[float(i // 3) for i in range(9)])
    assert check_tables("x", frame).users["user_id"].to_list() == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"interactions, row 1: user_id is 0\.5; expected an id"):
        check_tables("x", interactions(user_id=[0.5] * 9))


def test_csv_profiles_get_their_types_back_but_codes_stay_text(tmp_path: Path) -> None:
    profiles = users(zip=["01234", "55555", "10000"], score=[0.5, 1.25, None], name=["1", "2", "3"])
    read = read_tables(save(tmp_path, "csv", interactions=interactions(), users=profiles))
    assert read.users.schema["age"] == pl.Int64
    assert read.users.schema["score"] == pl.Float64
    assert read.users["zip"].to_list() == ["10000", "55555", "01234"]
    assert read.users["name"].to_list() == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2014-07-23", 1406073600),
        ("2014-07-23 10:30", 1406111400),
        ("2014-07-23T10:30:15", 1406111415),
        ("2014-07-23T10:30:15.250Z", 1406111415),
        ("2014-07-23T10:30:15+02:00", 1406104215),
        ("1406111415", 1406111415),
        ("1406111415.75", 1406111415),
        (1406111415.75, 1406111415),
        (datetime.date(2014, 7, 23), 1406073600),
        (datetime.datetime(2014, 7, 23, 10, 30), 1406111400),
    ],
)
def test_times_in_many_forms(given: Any, seconds: int) -> None:
    read = check_tables("x", interactions(timestamp=[given] * 9))
    assert read.interactions["timestamp"].to_list() == [seconds] * 9


def test_without_timestamps_the_file_is_in_time_order() -> None:
    for column in (None, [None] * 9):
        read = check_tables("x", interactions(timestamp=column))
        assert read.interactions.columns == ["user_id", "item_id", "rating"]
        assert read.interactions["item_id"].to_list() == ITEMS
        assert "no timestamps: the order of the file is taken as the order of time" in read.notes
        assert describe(read)["time_range"] is None


def bad(values: list[Any], row: int, value: Any) -> list[Any]:
    return [*values[: row - 1], value, *values[row:]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (interactions(user_id=None), "interactions: the column 'user_id' is missing"),
        (
            interactions(item_id=None).with_columns(itemid=pl.lit("a")),
            "the column 'item_id' is missing; found user_id, rating, timestamp, itemid; "
            "did you mean to rename 'itemid'?",
        ),
        (interactions(user_id=bad(USERS, 4, None)), "interactions, row 4: user_id is None"),
        (interactions(item_id=bad(ITEMS, 2, "  ")), "interactions, row 2: item_id is '  '"),
        (
            interactions(user_id=[True] * 9),
            "user_id has the type Boolean; expected text or whole numbers",
        ),
        (interactions(rating=bad(RATINGS, 3, None)), "row 3: rating is None; expected a rating in"),
        (interactions(rating=bad(RATINGS, 5, float("nan"))), "row 5: rating is None"),
        (
            interactions(rating=bad(RATINGS, 6, float("inf"))),
            "row 6: rating is inf; expected a fin",
        ),
        (
            interactions(rating=["5"] * 7 + ["five", "4"]),
            "row 8: rating is 'five'; expected a number",
        ),
        (
            interactions(rating=bad(RATINGS, 9, 6.0)),
            "row 9: rating is 6.0; expected a rating from 1 to 5",
        ),
        (interactions(rating=[[1.0]] * 9), "rating has the type List(Float64); expected numbers"),
        (
            interactions(timestamp=["2014-01-01"] * 2 + ["last May"] * 7),
            "row 3: timestamp is 'last May'; expected seconds since 1970 or a time such as",
        ),
        (interactions(timestamp=bad(TIMES, 7, None)), "row 7: timestamp is None"),
        (
            interactions(timestamp=[1406111415000] * 9),
            "row 1: timestamp is 1406111415000; expected seconds since 1970 or a time such as "
            "2014-07-23T10:00:00; milliseconds must be divided by 1000",
        ),
    ],
)
def test_interactions_that_cannot_be_used(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_tables("x", frame, rating_range=(1, 5))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"items": items(item_id=["a", "b", "a"])}, "items, row 3: item_id is 'a'; expected an id"),
        ({"items": items(item_id=["a", "b", None])}, "items, row 3: item_id is None"),
        ({"items": items(price=["1", "cheap", ""])}, "items, row 2: price is 'cheap'"),
        ({"items": items(categories=[1, 2, 3])}, "categories has the type Int64; expected lists"),
        (
            {"items": items(categories=[[["x"]]] * 3)},
            "items: categories has the type List(List(String)); expected text, numbers or a list",
        ),
        (
            {"items": items(title=[["a"], ["b"], ["c"]])},
            "items: title has the type List(String); expected text",
        ),
        ({"items": items(cover=[b"a"] * 3)}, "items: cover has the type Binary; expected text"),
        (
            {"users": users(friends=[{"a": 1}] * 3)},
            "users: friends has the type Struct({'a': Int64}); expected text",
        ),
        ({"items": items().drop("item_id")}, "items: the column 'item_id' is missing"),
        (
            {"items": items(item_id=["a", "y", "z"])},
            "interactions: 2 items have no row in items, the first: 'b', 'c'; expected a row",
        ),
        ({"users": users(user_id=["u1", "u1", "u2"])}, "users, row 2: user_id is 'u1'; expected"),
        ({"users": users(user_id=["u1", "", "u2"])}, "users, row 2: user_id is ''"),
        ({"min_interactions": 4}, "no interactions are left with min_interactions=4 and k_core=0"),
        ({"min_interactions": -1}, "min_interactions must be 0 or more, but is -1"),
        ({"k_core": -2}, "k_core must be 0 or more, but is -2"),
    ],
)
def test_other_tables_and_options_that_cannot_be_used(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_tables("x", interactions(), **parts)


def test_errors_name_the_file(tmp_path: Path) -> None:
    save(tmp_path, "csv", interactions=interactions(rating=bad(RATINGS, 2, None)))
    with pytest.raises(ValueError, match=r"interactions\.csv, row 2: rating"):
        read_tables(tmp_path)


def test_files_that_are_missing_twice_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: expected a folder"):
        read_tables(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected one of interactions\.parquet, .*found nothing"):
        read_tables(tmp_path)
    path = tmp_path / "interactions.jsonl"
    path.write_text('{"user_id": "u", "item_id": "a"}\n{"user_id": "u", \n')
    with pytest.raises(ValueError, match=r"interactions\.jsonl, line 2: not readable as jsonl"):
        read_tables(tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"interactions\.jsonl"):
        read_tables(tmp_path)
    save(tmp_path, "csv", interactions=interactions())
    with pytest.raises(ValueError, match=r"found interactions\.csv and interactions\.jsonl"):
        read_tables(tmp_path)
    path.unlink()
    (tmp_path / "items.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"items\.parquet: not readable as parquet"):
        read_tables(tmp_path)


def test_copied_rows_go_and_repeated_pairs_stay() -> None:
    frame = pl.concat([interactions(), interactions().head(2), interactions().tail(1)])
    again = interactions().head(1).with_columns(timestamp=pl.lit(99, pl.Int64))
    read = check_tables("x", pl.concat([frame, again]))
    assert read.interactions.height == 10
    assert read.notes[:2] == (
        "exact copies of another row, left out: 3",
        "rows that repeat a user's item with other values, kept: 1",
    )


def test_an_empty_rating_column_and_unused_columns_are_noted() -> None:
    read = check_tables("x", interactions(rating=[None] * 9, helpful=[1] * 9))
    assert read.interactions.columns == ["user_id", "item_id", "timestamp"]
    assert "columns of interactions that are not used: helpful" in read.notes
    assert "the column rating is empty in every row: left out" in read.notes
    assert describe(read)["rating_mean"] is None


def test_empty_texts_are_null_and_counted() -> None:
    read = check_tables("x", interactions(review=["fine", "", " ", *["good"] * 6]))
    assert read.interactions["review"].null_count() == 2
    assert describe(read)["share_with_review"] == pytest.approx(7 / 9)
    assert describe(read)["share_with_explanation"] == 0


def test_users_with_few_interactions_are_left_out_and_counted() -> None:
    frame = pl.concat([interactions(), interactions(user_id=["v"] * 9).head(2)])
    read = check_tables("x", frame, users=users())
    assert read.users["user_id"].to_list() == ["u2", "u1", "007"]
    assert read.notes == (
        "users with fewer than 3 interactions, left out: 1 (with 2 interactions)",
        "no items table: a catalogue of 3 ids without titles",
    )
    assert check_tables("x", frame, min_interactions=1).users.height == 4


def test_unknown_and_unused_profiles_are_noted() -> None:
    read = check_tables("x", interactions(), users=users(user_id=["u1", "u8", "u9"]))
    assert read.users.rows() == [("u2", None), ("u1", 30), ("007", None)]
    assert read.notes[1:] == (
        "users without a row in the users table, profile left empty: 2",
        "rows of the users table without interactions, left out: 2",
    )


def test_catalogue_without_items_table_is_in_sorted_order() -> None:
    frame = interactions(item_id=["z", "b", "a", "a", "z", "b", "b", "a", "z"])
    assert check_tables("x", frame).items["item_id"].to_list() == ["a", "b", "z"]


def test_k_core_is_applied_until_nothing_changes() -> None:
    # d is rare; without it user s falls below 3, without s item c falls below 3, and so on
    pairs = [(user, item) for user in "pqr" for item in "abe"]
    pairs += [("s", "c"), ("s", "d"), ("s", "a"), ("p", "c"), ("q", "c"), ("p", "d")]
    frame = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    catalogue = pl.DataFrame({"item_id": list("fedcba")})
    read = check_tables("x", frame, catalogue, k_core=3)
    assert read.users["user_id"].to_list() == ["p", "q", "r"]
    assert read.items["item_id"].to_list() == ["e", "b", "a"]
    assert "outside the 3-core, left out: 1 users, 2 items, 6 interactions" in read.notes
    with pytest.raises(ValueError, match="no interactions are left with .* k_core=5"):
        check_tables("x", frame, k_core=5)
    assert check_tables("x", frame, catalogue).items.height == 6


def test_written_tables_are_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shop"
    write_tables(folder, interactions(), items(), users(), "# Shop\n")
    read = read_tables(folder)
    assert read.items.equals(items())
    assert (folder / "README.md").read_text() == "# Shop\n"
    write_tables(folder, interactions().reverse())
    assert sorted(path.name for path in folder.iterdir()) == ["interactions.parquet"]
    assert read_tables(folder).users["user_id"].to_list() == ["007", "u1", "u2"]
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failure_while_writing_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "shop"
    write_tables(folder, interactions(), items(), users(), "old")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    if moment == "write":
        original = pl.DataFrame.write_parquet
        monkeypatch.setattr(
            pl.DataFrame,
            "write_parquet",
            lambda frame, path: (fail if path.name == "users.parquet" else original)(frame, path),
        )
    else:
        rename = tables_module.Path.rename
        monkeypatch.setattr(
            tables_module.Path,
            "rename",
            lambda path, to: (fail if path.name.endswith(".new") else rename)(path, to),
        )
    with pytest.raises(OSError, match="the disk is full"):
        write_tables(folder, interactions().head(3), items(), users(), "new")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_only_data_sets_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"found 'thesis\.txt', which is no part of one"):
        write_tables(tmp_path, interactions())
    with pytest.raises(ValueError, match="it is a file"):
        write_tables(tmp_path / "thesis.txt", interactions())
    with pytest.raises(ValueError, match="items: the column 'item_id' is missing"):
        write_tables(tmp_path / "new", interactions(), items().drop("item_id"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_describe_and_card_agree() -> None:
    read = check_tables("x", interactions(), items(), users())
    numbers = describe(read)
    assert json.loads(json.dumps(numbers)) == {
        "users": 3,
        "items": 3,
        "interactions": 9,
        "density": 1.0,
        "interactions_per_user": 3.0,
        "time_range": ["1970-01-01", "1970-01-01"],
        "tie_share": pytest.approx(1 / 3),
        "rating_mean": pytest.approx(sum(RATINGS) / 9),
        "share_with_review": 0.0,
        "share_with_explanation": 0.0,
    }
    card = data_card(read, title="Corner shop", origin="Made up.", terms="Free.")
    for line in (
        "# Corner shop",
        "| interactions | 9 |",
        "| density | 100.000% |",
        "| users with equal timestamps | 33.3% |",
        "| mean rating | 3.28 |",
        "Made up.",
        "Free.",
        "- items without a title: 1",
    ):
        assert line in card.splitlines()
