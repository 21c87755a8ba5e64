"""Masks: by lists, by what the catalogue says of an item, and both in a search."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import ItemCodes
from p5_t5.decoding.beam_search import NO_ITEM, beam_search
from p5_t5.decoding.constraints import CatalogueFilters, allow, deny
from p5_t5.decoding.trie import TrieTensors, build_trie


def catalogue() -> Catalogue:
    table = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d", "e"],
            "categories": [["Toys", "Games"], ["Toys"], [], None, ["Garden", "Toys & Games"]],
            "price": [9.99, 10.0, None, 3.0, float("nan")],
            "in_stock": [True, False, True, None, True],
            "market": ["DE", "FR", None, "DE", "de"],
            "pieces": [1, 2, None, 1, 0],
        }
    )
    return Catalogue(table, ItemCodes("atomic", tuple((f"<item_{row}>",) for row in range(5))))


def rows(mask: torch.Tensor) -> list[int]:
    assert mask.dtype == torch.bool
    assert mask.shape == (5,)
    return mask.nonzero().flatten().tolist()


def lists_of(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int32) for row in lists]


def test_lists_allow_and_deny() -> None:
    lists = lists_of([0, 2], [], [1, 1, 2])
    denied = torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    assert torch.equal(deny(lists, 3), denied)
    assert torch.equal(allow(lists, 3), ~denied)


@pytest.mark.parametrize("mask", [allow, deny])
def test_no_lists_make_an_empty_mask(mask) -> None:
    assert mask([], 4).shape == (0, 4)
    assert mask(lists_of([], []), 4).shape == (2, 4)


@pytest.mark.parametrize("mask", [allow, deny])
@pytest.mark.parametrize("item", [-1, 3])
def test_a_list_names_only_rows_of_the_catalogue(mask, item: int) -> None:
    with pytest.raises(ValueError, match=f"request 1 names item {item}, expected 0 to 2"):
        mask(lists_of([0, 1], [2, item]), 3)


@pytest.mark.parametrize(
    ("name", "items"), [("Toys", [0, 1]), ("Games", [0]), ("Toys & Games", [4])]
)
def test_a_category_is_one_whole_name(name: str, items: list[int]) -> None:
    assert rows(CatalogueFilters(catalogue()).category(name)) == items


@pytest.mark.parametrize(
    ("value", "items"), [(10, [0, 3]), (10.01, [0, 1, 3]), (3, []), (float("inf"), [0, 1, 3])]
)
def test_an_unknown_price_is_never_low(value: float, items: list[int]) -> None:
    assert rows(CatalogueFilters(catalogue()).price_below(value)) == items


@pytest.mark.parametrize(
    ("column", "value", "items"),
    [
        ("in_stock", True, [0, 2, 4]),
        ("in_stock", False, [1]),
        ("market", "DE", [0, 3]),
        ("market", "US", []),
        ("pieces", 1, [0, 3]),
        ("pieces", 2.0, [1]),
        ("item_id", "c", [2]),
    ],
)
def test_a_column_equals_a_value(column: str, value: str | float | bool, items: list[int]) -> None:
    assert rows(CatalogueFilters(catalogue()).column_equals(column, value)) == items


def test_unknown_names_are_told_the_nearest() -> None:
    filters = CatalogueFilters(catalogue())
    with pytest.raises(ValueError, match="unknown category 'Game'; the nearest is 'Games'"):
        filters.category("Game")
    with pytest.raises(ValueError, match="no column 'markets'; the nearest is 'market'"):
        filters.column_equals("markets", "DE")
    bare = CatalogueFilters(Catalogue(catalogue().table.select("item_id"), catalogue().codes))
    with pytest.raises(ValueError, match="no column 'price'; the nearest is 'item_id'"):
        bare.price_below(3)
    with pytest.raises(ValueError, match="unknown category 'Toys': there is none"):
        bare.category("Toys")


@pytest.mark.parametrize(
    ("column", "value"), [("market", 1), ("pieces", "1"), ("pieces", True), ("in_stock", 1),
    ("in_stock", "True"), ("categories", "Toys")],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(column: str, value: str | float | bool) -> None:
    filters = CatalogueFilters(catalogue())
    filters.column_equals("in_stock", True)
    filters.column_equals("pieces", 1)
    with pytest.raises(ValueError, match=f"the column '{column}' holds .* can equal {value!r}"):
        filters.column_equals(column, value)


def test_a_condition_is_worked_out_once_and_old_ones_are_forgotten() -> None:
    filters = CatalogueFilters(catalogue(), remembered=2)
    toys, cheap = filters.category("Toys"), filters.price_below(5)
    assert filters.category("Toys") is toys
    assert filters.price_below(5.0) is cheap
    assert filters.category("Toys") is toys
    filters.column_equals("market", "DE")
    assert filters.category("Toys") is toys
    again = filters.price_below(5)
    assert again is not cheap
    assert torch.equal(again, cheap)
    with pytest.raises(ValueError, match="remembered must be at least 1, not 0"):
        CatalogueFilters(catalogue(), remembered=0)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_a_search_obeys_combined_masks(data: st.DataObject) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    trie = TrieTensors(build_trie([(2, 3), (2, 4), (5,), (5, 3), (6, 2)], 1), torch.device("cpu"))
    filters = CatalogueFilters(catalogue())
    seen = st.lists(st.integers(0, 4), max_size=3)
    lists = lists_of(data.draw(seen), data.draw(seen))
    condition = (filters.category("Toys") | filters.column_equals("market", "DE")) & (
        filters.price_below(data.draw(st.sampled_from([4, 10, 11])))
    )
    allowed = deny(lists, 5) & condition
    ids = torch.tensor([[4, 5, 1], [7, 1, 0]])
    if not allowed.any(dim=1).all():
        with pytest.raises(ValueError, match="allows no item at all"):
            beam_search(model, trie, ids, (ids > 0).long(), k=5, beams=5, allowed=allowed)
        return
    found = beam_search(model, trie, ids, (ids > 0).long(), k=5, beams=5, allowed=allowed).items
    for items, legal in zip(found.tolist(), allowed, strict=True):
        assert sorted(item for item in items if item != NO_ITEM) == legal.nonzero()[:, 0].tolist()
