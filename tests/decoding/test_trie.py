from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.decoding.trie import Trie, build_trie

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
