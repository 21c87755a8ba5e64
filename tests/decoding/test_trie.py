from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.decoding.trie import Trie, TrieTensors, build_trie

END = 1
CODES = st.lists(
    st.lists(st.integers(2, 6), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=40,
    unique=True,
)


def walk(trie: Trie, node: int = 0, path: tuple[int, ...] = ()) -> dict[tuple[int, ...], int]:
    """All codes below a node with their items, by the children alone."""
    first, last = int(trie.children[node]), int(trie.children[node + 1])
    if first == last:
        leaf = int(trie.leaves[node, 0])
        return {path: int(trie.items[leaf])}
    found: dict[tuple[int, ...], int] = {}
    for child in range(first, last):
        found |= walk(trie, child, (*path, int(trie.token[child])))
    return found


@settings(deadline=None, max_examples=200)
@given(CODES)
def test_the_leaves_are_exactly_the_closed_codes(codes: list[tuple[int, ...]]) -> None:
    assert walk(build_trie(codes, END)) == {(*code, END): i for i, code in enumerate(codes)}


@settings(deadline=None, max_examples=200)
@given(CODES)
def test_a_node_covers_the_leaves_below_it(codes: list[tuple[int, ...]]) -> None:
    trie = build_trie(codes, END)
    for node in range(len(trie.token)):
        first, last = trie.leaves[node]
        assert sorted(trie.items[first:last]) == sorted(walk(trie, node).values())


def test_siblings_have_different_tokens() -> None:
    generator = np.random.default_rng(0)
    codes = [tuple(row) for row in np.unique(generator.integers(2, 30, (3000, 3)), axis=0).tolist()]
    trie = build_trie(codes, END)
    for node in range(int(trie.levels[2])):
        tokens = trie.token[trie.children[node] : trie.children[node + 1]]
        assert len(set(tokens.tolist())) == len(tokens)
    assert len(trie) == len(codes)
    assert trie.depth == 4


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "at least one"),
        ([(2, 3), ()], "item 1 has an empty code"),
        ([(2, 3), (4,), (2, 3)], "items 0 and 2 have the same code"),
        ([(2,), (3, END)], "item 1 holds the closing token 1"),
    ],
)
def test_wrong_codes_are_refused(codes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trie(codes, END)


def test_a_trie_comes_back_from_its_file(tmp_path: Path) -> None:
    trie = build_trie([(4, 2), (3,), (4, 2, 7)], 1)
    trie.save(tmp_path / "trie.safetensors")
    again = Trie.load(tmp_path / "trie.safetensors")
    for field in fields(Trie):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(trie, field.name))


@pytest.mark.parametrize(
    ("codes", "prefix"),
    [
        ([(7, 8, 2), (7, 8, 3), (7, 8, 3, 4)], [7, 8]),
        ([(7,), (7, 8)], [7]),
        ([(7,), (8,)], []),
        ([(7, 8)], []),  # a single item needs no reading at all
    ],
)
def test_what_all_codes_start_with(codes: list[tuple[int, ...]], prefix: list[int]) -> None:
    assert build_trie(codes, 1).prefix == prefix


def test_tensors_know_where_each_item_is() -> None:
    trie = TrieTensors(build_trie([(5,), (3, 2), (3, 4), (9,)], 1), torch.device("cpu"))
    assert trie.items[trie.leaf_of].tolist() == [0, 1, 2, 3]
    for level, tokens in enumerate(trie.level_tokens, start=1):
        nodes = slice(*trie.trie.levels[level : level + 2].tolist())
        assert tokens[trie.column[nodes]].tolist() == trie.token[nodes].tolist()
