"""The catalogue: what it says of an item, and how an item is found."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.tables import check_tables

IDS = ["tt1", "tt2", "tt3", "tt4", "tt5"]
TITLES = ["The Iron Harbour", "The Silver Harbour", "Night Train", "night train", None]


def catalogue(ids: list[str] = IDS, **columns: Any) -> Catalogue:
    """A catalogue as reading a data set makes it, with atomic codes."""
    interactions = pl.DataFrame({"user_id": ["u"] * len(ids), "item_id": ids})
    items = pl.DataFrame({"item_id": ids, **columns})
    tables = check_tables("made", interactions, items, min_interactions=1)
    codes = ItemCodes("atomic", tuple((f"<item_{row}>",) for row in range(len(ids))))
    return Catalogue(tables.items, codes)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("tt1", 0),
        ("tt4", 3),
        ("The Iron Harbour", 0),
        ("the iron harbour", 0),
        ("THE SILVER HARBOUR", 1),
        ("tt5", 4),
    ],
)
def test_an_item_is_found_by_id_or_title(text: str, row: int) -> None:
    assert catalogue(title=TITLES).find(text) == row


def test_case_is_folded_beyond_ascii() -> None:
    assert catalogue(["a", "b"], title=["Die Straße", "Ödland"]).find("DIE STRASSE") == 0
    assert catalogue(["a", "b"], title=["Die Straße", "Ödland"]).find("ödland") == 1


def test_an_id_goes_before_a_title() -> None:
    """Another item's title is this item's id."""
    assert catalogue(["1", "2"], title=["2", "1"]).find("2") == 1


def test_an_ambiguous_title_names_the_ids_to_choose_from() -> None:
    with pytest.raises(ValueError, match=r"'Night Train' is the title of 2 items.*tt3, tt4"):
        catalogue(title=TITLES).find("Night Train")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Silver Harbor", "The Silver Harbour"),
        ("the iron harbor", "The Iron Harbour"),
        ("nighttrain", "Night Train"),
        ("tt9", "tt"),
    ],
)
def test_an_unknown_item_gets_the_nearest_names(text: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"no item has the id or title '{text}'.*nearest.*{near}"):
        catalogue(title=TITLES).find(text)


def test_the_nearest_names_are_at_most_three_of_many() -> None:
    """Parts of a series: more near titles than the message names."""
    ids = [f"x{i}" for i in range(6)]
    series = catalogue(ids, title=[f"Star Voyage {i}" for i in range(6)])
    with pytest.raises(ValueError, match="no item has the id or title 'Star Voyag'") as error:
        series.find("Star Voyag")
    assert str(error.value).count("'Star Voyage ") == 3


def test_nothing_near_gives_no_hint() -> None:
    with pytest.raises(ValueError, match="no item has the id or title '§§§§'$"):
        catalogue(title=TITLES).find("§§§§")


def test_without_titles_only_ids_are_found() -> None:
    bare = catalogue()
    assert not bare.has_titles
    assert bare.find("tt3") == 2
    assert bare.title(2) == "tt3"
    with pytest.raises(ValueError, match="'tt33'; the nearest are 'tt3'"):
        bare.find("tt33")


def test_a_missing_title_falls_back_to_the_id() -> None:
    known = catalogue(title=["A", None, "", "  ", "E"])
    assert known.columns["title"] == ["A", "tt2", "tt3", "tt4", "E"]
    assert [known.title(row) for row in range(5)] == known.columns["title"]


def test_slots_are_named_after_the_columns() -> None:
    """The canonical columns keep their names; any other is item_COLUMN."""
    known = catalogue(
        ["a", "b"],
        title=["A", "B"],
        categories=[["x", "y"], []],
        brand=["Acme", None],
        price=[3.0, 4.5],
        description=["long", "longer"],
        year=[1994, None],
        colour=["red", "  "],
    )
    assert dict(known.columns) == {
        "title": ["A", "B"],
        "categories": ["x, y", "unknown"],
        "brand": ["Acme", "unknown"],
        "price": ["3.0", "4.5"],
        "description": ["long", "longer"],
        "item_year": ["1994", "unknown"],
        "item_colour": ["red", "unknown"],
    }


def test_whole_prices_are_written_without_a_point() -> None:
    assert catalogue(["a", "b"], price=[3.0, None]).columns["price"] == ["3", "unknown"]


def test_categories_are_numbered_by_name() -> None:
    known = catalogue(["a", "b", "c"], categories=[["y", "x"], [], ["z", "y"]])
    assert known.category_names == ("x", "y", "z")
    assert [row.tolist() for row in known.categories] == [[1, 0], [], [2, 1]]
    assert known.category_matrix.toarray().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("columns", [{}, {"categories": [[], []]}])
def test_no_categories_at_all(columns: dict[str, Any]) -> None:
    known = catalogue(["a", "b"], **columns)
    assert known.category_names == ()
    assert [row.tolist() for row in known.categories] == [[], []]
    assert known.category_matrix.shape == (2, 0)


def test_the_same_items_keep_their_codes_in_any_order() -> None:
    turned = catalogue().codes_of(["tt3", "tt1", "tt5", "tt2", "tt4"])
    assert turned.texts == tuple(f"<item_{row}>" for row in (2, 0, 4, 1, 3))
    assert turned.scheme == "atomic"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [*IDS[:4], "new"],
            r"5 items, not the 5 of the data set \('new' is one of 1 it lacks",
        ),
        ([*IDS, "tt6", "tt7"], r"5 items, not the 7 .*'tt6' is one of 2"),
        (IDS[:3], "5 items, not the 3 of the data set; item codes"),
    ],
)
def test_other_items_do_not_take_their_codes(ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue().codes_of(ids)


def test_rows_ids_and_codes_agree() -> None:
    known = catalogue()
    assert len(known) == 5
    assert known.item_ids == tuple(IDS)
    assert known.code_texts == tuple(f"<item_{row}>" for row in range(5))
