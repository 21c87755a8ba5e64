"""Which leaves a request may reach, against counting by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.trie import TrieTensors, build_trie

ITEMS, REQUESTS = 8, 3
CODES = [(5, 2), (3,), (3, 4), (5, 6, 7), (2,), (5, 6), (4, 4, 4), (2, 9)]
TRIE = TrieTensors(build_trie(CODES, 1), torch.device("cpu"))
NODES = len(TRIE.trie.token)

shared_masks = st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS).filter(any)
own_masks = st.lists(shared_masks, min_size=REQUESTS, max_size=REQUESTS)
deny_lists = st.lists(
    st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=REQUESTS, max_size=REQUESTS
)


def below(legal: LegalLeaves, nodes: torch.Tensor) -> torch.Tensor:
    """Level by level, as a search asks; shape (requests, nodes)."""
    request = torch.arange(len(nodes))[:, None]
    bounds = TRIE.trie.levels.tolist()
    parts = [
        legal.open(request, nodes[:, begin:end])
        & ~legal.shut(level).holds(request, nodes[:, begin:end])
        for level, (begin, end) in enumerate(pairwise(bounds))
    ]
    return torch.cat(parts, dim=1)


@settings(deadline=None)
@given(st.one_of(st.none(), shared_masks, own_masks), deny_lists)
def test_a_node_is_open_where_a_legal_item_lies_below(
    mask: list[bool] | list[list[bool]] | None, denied: list[list[int]]
) -> None:
    allowed = torch.ones(ITEMS, dtype=torch.bool) if mask is None else torch.tensor(mask)
    expected = allowed.expand(REQUESTS, ITEMS).clone()
    for request, items in enumerate(denied):
        expected[request, items] = False
    lists = [np.array(items, dtype=np.int32) for items in denied]
    legal = LegalLeaves(TRIE) if mask is None else LegalLeaves.allow(TRIE, allowed)
    if not expected.any(dim=1).all():
        request = int((~expected.any(dim=1)).int().argmax())
        with pytest.raises(ValueError, match=f"request {request} allows no item"):
            legal.deny(lists)
        return
    legal = legal.deny(lists)
    legal.check(REQUESTS)
    nodes = torch.arange(NODES).expand(REQUESTS, NODES)
    found = below(legal, nodes)
    for node in range(NODES):
        begin, stop = TRIE.trie.leaves[node].tolist()
        items = TRIE.trie.items[begin:stop].tolist()
        assert found[:, node].tolist() == expected[:, items].any(dim=1).tolist()
    order = torch.tensor([2, 0])
    assert torch.equal(below(legal.select(order), nodes[:2]), found[order])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(7, dtype=torch.bool), "catalogue of 8 items"),
        (torch.ones(2, 7, dtype=torch.bool), r"shape \(2, 7\)"),
        (torch.zeros(8, dtype=torch.bool), "the mask allows no item"),
        (torch.tensor([[True] * 8, [False] * 8]), "request 1 allows no item"),
    ],
)
def test_impossible_masks_are_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LegalLeaves.allow(TRIE, mask)


def test_an_unknown_item_is_named() -> None:
    lists = [np.array([0], dtype=np.int32), np.array([3, 8], dtype=np.int32)]
    with pytest.raises(ValueError, match="request 1 names item 8, expected 0 to 7"):
        LegalLeaves(TRIE).deny(lists)


def test_a_mask_for_other_requests_is_refused() -> None:
    legal = LegalLeaves.allow(TRIE, torch.ones(2, ITEMS, dtype=torch.bool))
    with pytest.raises(ValueError, match="for 2 requests, expected 3"):
        legal.check(3)
