"""Reranking for diversity: by hand, against a plain reading of the definition, and its laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.decoding.diversity import Diversity, category_cap, maximal_marginal_relevance

in_any_time = settings(deadline=None)  # a busy machine is no failure

ITEMS, CATEGORIES = 14, 5


def matrix(sets: list[list[int]], columns: int = CATEGORIES) -> sp.csr_array:
    dense = np.zeros((len(sets), columns))
    for row, names in enumerate(sets):
        dense[row, names] = 1
    return sp.csr_array(dense)


def lists_of(*lists: list[int]) -> np.ndarray:
    return np.array(lists, dtype=np.int64)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]], int]:
    """Ranked lists of eight places, some of them padded, with scores, categories and a k."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    requests, wide = draw(st.integers(1, 5)), 8
    items = np.array([rng.permutation(ITEMS)[:wide] for _ in range(requests)], dtype=np.int64)
    scores = -np.sort(rng.exponential(2, size=(requests, wide)), axis=1)
    padded = np.arange(wide) >= rng.integers(0, wide + 1, size=requests)[:, None]
    items[padded], scores[padded] = -1, -np.inf
    sets = [np.flatnonzero(rng.random(CATEGORIES) < 0.3).tolist() for _ in range(ITEMS)]
    sets[0] = [0]
    return items, scores, sets, draw(st.integers(1, wide))


def similarity(one: list[int], other: list[int]) -> float:
    if not one or not other:
        return float(not one and not other)
    return len({*one} & {*other}) / math.sqrt(len(one) * len(other))


def test_marginal_relevance_by_hand() -> None:
    """Two of a kind in front, then one that shares one of two categories, then another kind."""
    categories = matrix([[0], [0], [0, 1], [2]])
    items, scores = lists_of([0, 1, 2, 3]), np.log([[0.4, 0.36, 0.3, 0.1]])
    # Relevance 1, .9, .75, .25; after item 0 these are alike by 1, .707 and 0:
    # .5 · .9 - .5 = -.05, .5 · .75 - .354 = .021 and .5 · .25 = .125.
    found, kept = maximal_marginal_relevance(items, scores, categories, 3, 0.5)
    assert found.tolist() == [[0, 3, 2]]
    assert kept.tolist() == scores[:, [0, 3, 2]].tolist()
    # With .2: .72 - .2 = .52, .6 - .141 = .459 and .2.
    found, _ = maximal_marginal_relevance(items, scores, categories, 4, 0.2)
    assert found.tolist() == [[0, 1, 2, 3]]
    # With .3: .63 - .3 = .33, .525 - .212 = .313, .175; then item 2 before item 3.
    found, _ = maximal_marginal_relevance(items, scores, categories, 4, 0.3)
    assert found.tolist() == [[0, 1, 2, 3]]
    # With .4: .54 - .4 = .14, .45 - .283 = .167, .15; then .15 before .14.
    found, _ = maximal_marginal_relevance(items, scores, categories, 4, 0.4)
    assert found.tolist() == [[0, 2, 3, 1]]


def test_relevance_is_relative_to_the_best_of_each_list() -> None:
    """Neither a larger catalogue nor a list of improbable items changes the trade-off."""
    categories = matrix([[0], [0], [1]])
    items, scores = lists_of([0, 1, 2], [0, 1, 2]), np.log([[0.4, 0.36, 0.3], [0.4, 0.36, 0.3]])
    scores[1] -= 30
    # .9 · .9 - .1 = .71 against .9 · .75 = .675; as probabilities, .224 against .27.
    found, _ = maximal_marginal_relevance(items, scores, categories, 3, 0.1)
    assert found.tolist() == [[0, 1, 2]] * 2


def test_items_without_categories_do_not_fill_a_diverse_list() -> None:
    categories = matrix([[0], [], [], [], [0], [1]])
    items, scores = lists_of([0, 1, 2, 3, 4, 5]), np.log([[0.3, 0.2, 0.2, 0.1, 0.1, 0.05]])
    found, _ = maximal_marginal_relevance(items, scores, categories, 3, 0.9)
    assert found.tolist() == [[0, 1, 5]]


def test_cap_by_hand() -> None:
    categories = matrix([[0], [0], [0, 1], [1], [], []])
    items = lists_of([0, 1, 2, 3, 4], [4, 5, 3, 2, -1])
    scores = np.array([[-1.0, -2, -3, -4, -5], [-1, -2, -3, -4, -np.inf]])
    found, kept = category_cap(items, scores, categories, 3, 1)
    assert found.tolist() == [[0, 3, 4], [4, 5, 3]]
    assert kept.tolist() == [[-1, -4, -5], [-1, -2, -3]]
    # What is held back fills up: items 1 and 2 of the first list, 2 of the second.
    found, _ = category_cap(items, scores, categories, 5, 1)
    assert found.tolist() == [[0, 3, 4, 1, 2], [4, 5, 3, 2, -1]]
    found, _ = category_cap(items, scores, categories, 4, 2)
    assert found.tolist() == [[0, 1, 3, 4], [4, 5, 3, 2]]


def test_both_together_put_the_limit_on_the_new_order() -> None:
    categories = matrix([[0], [0], [1], [1], [2]])
    items, scores = lists_of([0, 1, 2, 3, 4]), np.log([[0.3, 0.29, 0.2, 0.19, 0.02]])
    diversity = Diversity(trade_off=0.3, per_category=1)
    found, _ = diversity.rerank(items, scores, categories, 3)
    assert found.tolist() == [[0, 2, 4]]
    found, _ = Diversity(trade_off=0.3).rerank(items, scores, categories, 3)
    assert found.tolist() == [[0, 2, 1]]


@in_any_time
@given(cases(), st.floats(0, 1))
def test_marginal_relevance_is_its_definition(case: Any, trade_off: float) -> None:
    """Each chosen item has the best value among those that are left, as the paper writes it."""
    items, scores, sets, k = case
    found, _ = maximal_marginal_relevance(items, scores, matrix(sets), k, trade_off)
    for row, log, chosen in zip(items.tolist(), scores.tolist(), found.tolist(), strict=True):
        relevance = {i: math.exp(s - log[0]) for i, s in zip(row, log, strict=True) if i >= 0}
        for place, item in enumerate(chosen[: len(relevance)]):
            value = {
                i: (1 - trade_off) * relevance[i]
                - trade_off * max((similarity(sets[i], sets[j]) for j in chosen[:place]), default=0)
                for i in relevance
                if i not in chosen[:place]
            }
            assert value[item] >= max(value.values()) - 1e-9


@in_any_time
@given(cases(), st.integers(1, 4))
def test_the_cap_holds_until_it_leaves_too_few(case: Any, per_category: int) -> None:
    items, scores, sets, k = case
    found, _ = category_cap(items, scores, matrix(sets), k, per_category)
    for row, chosen in zip(items.tolist(), found.tolist(), strict=True):
        counts, within = [0] * CATEGORIES, []
        for item in row:
            if item >= 0 and all(counts[c] < per_category for c in sets[item]):
                within.append(item)
                for c in sets[item]:
                    counts[c] += 1
        held_back = [item for item in row if item >= 0 and item not in within]
        expected = (within + held_back)[:k]
        assert chosen == expected + [-1] * (k - len(expected))


@in_any_time
@given(cases(), st.floats(0, 1), st.none() | st.integers(1, 4))
def test_exactly_k_items_of_the_list_come_back(
    case: Any, trade_off: float, per_category: int | None
) -> None:
    items, scores, sets, k = case
    found, kept = Diversity(trade_off, per_category).rerank(items, scores, matrix(sets), k)
    assert found.shape == kept.shape == (len(items), k)
    for row, log, chosen, new in zip(items, scores, found, kept, strict=True):
        legal = chosen[chosen >= 0]
        assert len(legal) == min(k, (row >= 0).sum()) == len(set(legal.tolist()))
        assert (chosen[len(legal) :] == -1).all() and (new[len(legal) :] == -np.inf).all()
        score_of = dict(zip(row.tolist(), log.tolist(), strict=True))
        assert [score_of[item] for item in legal.tolist()] == new[: len(legal)].tolist()


@in_any_time
@given(cases())
def test_neutral_settings_change_nothing(case: Any) -> None:
    items, scores, sets, k = case
    for found, kept in (
        maximal_marginal_relevance(items, scores, matrix(sets), k, 0),
        category_cap(items, scores, matrix(sets), k, k),
        Diversity().rerank(items, scores, matrix(sets), k),
    ):
        assert np.array_equal(found, items[:, :k])
        assert np.array_equal(kept, scores[:, :k])
    assert Diversity().width(k, ITEMS) == k


@in_any_time
@given(cases(), st.floats(0, 1), st.none() | st.integers(1, 4))
def test_a_list_does_not_depend_on_the_lists_beside_it(
    case: Any, trade_off: float, per_category: int | None
) -> None:
    items, scores, sets, k = case
    diversity = Diversity(trade_off, per_category)
    together, _ = diversity.rerank(items, scores, matrix(sets), k)
    alone = [
        diversity.rerank(items[i : i + 1], scores[i : i + 1], matrix(sets), k)[0]
        for i in range(len(items))
    ]
    assert np.array_equal(together, np.concatenate(alone))


def test_the_longer_list_stays_within_the_catalogue() -> None:
    assert Diversity(0.1).width(10, 1000) == 50
    assert Diversity(per_category=2).width(10, 30) == 30
    assert Diversity(per_category=2).width(10, 3) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trade_off": 1.2}, "diversity must be from 0 to 1, not 1.2"),
        ({"trade_off": -0.1}, "diversity must be from 0 to 1, not -0.1"),
        ({"trade_off": float("nan")}, "diversity must be from 0 to 1, not nan"),
        ({"trade_off": "much"}, "diversity must be a number from 0 to 1, not 'much'"),
        ({"trade_off": True}, "diversity must be a number from 0 to 1, not True"),
        ({"per_category": 0}, "per_category must be a whole number from 1 on, not 0"),
        ({"per_category": 1.5}, "per_category must be a whole number from 1 on, not 1.5"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diversity(**options)


@pytest.mark.parametrize("diversity", [Diversity(0.5), Diversity(per_category=1)])
def test_what_cannot_be_chosen_from(diversity: Diversity) -> None:
    items, scores = lists_of([0, 1]), np.array([[-1.0, -2.0]])
    with pytest.raises(ValueError, match="no item of this catalogue has a category"):
        diversity.rerank(items, scores, matrix([[], []], columns=0), 1)
    with pytest.raises(ValueError, match="k is 3, expected 1 to 2, the length of the lists"):
        diversity.rerank(items, scores, matrix([[0], [1]]), 3)
