"""Lists whose items differ: a longer ranked list, chosen from anew.

Lists of all requests are worked on at once, and no table of items × items is made: what an item
shares with those already chosen follows from the categories that these have together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# How many times longer the list is that k items are chosen from.
WIDER = 5


@dataclass(frozen=True)
class Diversity:
    """How much the items of a list should differ.

    Attributes:
        trade_off: 0 ranks by relevance alone, 1 by difference from the items before alone.
        per_category: the most items of any one category, ``None`` for no limit.

    Raises:
        ValueError: ``trade_off`` is not from 0 to 1, or ``per_category`` is below 1.
    """

    trade_off: float = 0.0
    per_category: int | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        if isinstance(self.trade_off, bool) or not isinstance(self.trade_off, (int, float)):
            raise ValueError(f"diversity must be a number from 0 to 1, not {self.trade_off!r}")
        if not 0 <= self.trade_off <= 1:
            raise ValueError(f"diversity must be from 0 to 1, not {self.trade_off}")
        cap = self.per_category
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
            raise ValueError(f"per_category must be a whole number from 1 on, not {cap!r}")

    def __bool__(self) -> bool:
        """Whether anything but relevance counts."""
        return self.trade_off > 0 or self.per_category is not None

    def width(self, k: int, num_items: int) -> int:
        """How long a list must be to choose k items from it."""
        return max(k, min(WIDER * k, num_items)) if self else k

    def rerank(
        self, items: Rows, scores: Floats, categories: sp.csr_array, k: int
    ) -> tuple[Rows, Floats]:
        """Chooses k items of each list; with both settings the limit is put on the new order.

        Args:
            items: catalogue rows, best first, -1 past the last, shape (requests, wide).
            scores: log-probabilities, shape (requests, wide).
            categories: of the whole catalogue, shape (items, categories).
            k: how many items to choose, at most ``wide``.

        Returns:
            Items and scores in the order of the choice, both (requests, k).

        Raises:
            ValueError: no item has any category, or k is not from 1 to ``wide``.
        """
        if self.trade_off > 0:
            # The limit may need any item of the list, so that all of it is put in a new order.
            first = k if self.per_category is None else items.shape[1]
            items, scores = maximal_marginal_relevance(
                items, scores, categories, first, self.trade_off
            )
        if self.per_category is not None:
            return category_cap(items, scores, categories, k, self.per_category)
        return items[:, :k], scores[:, :k]


def maximal_marginal_relevance(
    items: Rows, scores: Floats, categories: sp.csr_array, k: int, trade_off: float
) -> tuple[Rows, Floats]:
    """Chooses the item that is relevant and unlike all chosen before, again and again.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), their λ being
    ``1 - trade_off``. Two items are alike by the cosine of their sets of categories.

    Args:
        items: catalogue rows, best first, -1 past the last, shape (requests, wide).
        scores: log-probabilities, -inf past the last item, shape (requests, wide).
        categories: of the whole catalogue, shape (items, categories).
        k: how many items to choose, at most ``wide``.
        trade_off: 0 leaves the order as it is; 1 looks at difference alone.

    Returns:
        Items and scores in the order of the choice, both (requests, k).

    Raises:
        ValueError: no item has any category, or k is not from 1 to ``wide``.
    """
    _check(items, categories, k)
    requests, wide = items.shape
    each = np.arange(requests)
    rows = categories[items.clip(min=0).ravel()]
    # Items of which nothing is known count as alike: being unlike all others, they would
    # otherwise fill every diverse list.
    unknown = sp.csr_array((np.diff(rows.indptr) == 0)[:, None].astype(float))
    members = _apart(sp.hstack([rows, unknown], format="csr"), wide)
    counts = np.diff(members.indptr)
    members.data /= np.sqrt(counts).repeat(counts)  # unit vectors: their products are cosines
    # Both sides of the trade-off need one scale, 0 to 1. Log-probabilities have no lower end, and
    # probabilities shrink with the catalogue; relative to the list's best they do neither.
    real = items >= 0
    relevance = np.exp(scores - np.where(real[:, :1], scores[:, :1], 0.0))
    alike = np.zeros((requests, wide))
    taken = np.zeros((requests, wide), dtype=bool)
    order = np.empty((requests, k), dtype=np.int64)
    for place in range(k):
        value = (1 - trade_off) * relevance - trade_off * alike  # -1 to 1
        value = np.where(real, value, -2.0)  # padding is chosen when no item is left
        order[:, place] = np.where(taken, -np.inf, value).argmax(axis=1)
        taken[each, order[:, place]] = True
        # Lists share no columns, so that one vector holds the newly chosen item of each list.
        newest = members[each * wide + order[:, place]].sum(axis=0)
        alike = np.maximum(alike, (members @ newest).reshape(requests, wide))
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def category_cap(
    items: Rows, scores: Floats, categories: sp.csr_array, k: int, per_category: int
) -> tuple[Rows, Floats]:
    """Chooses items in their order, but at most so many of any one category.

    An item without categories is never held back. Where the limit leaves fewer than k items, those
    held back follow in their order.

    Args:
        items: catalogue rows, best first, -1 past the last, shape (requests, wide).
        scores: log-probabilities, shape (requests, wide).
        categories: of the whole catalogue, shape (items, categories).
        k: how many items to choose, at most ``wide``.
        per_category: the most items of a category.

    Returns:
        Items and scores in the order of the choice, both (requests, k).

    Raises:
        ValueError: no item has any category, or k is not from 1 to ``wide``.
    """
    _check(items, categories, k)
    requests, wide = items.shape
    members = _apart(categories[items.clip(min=0).ravel()], wide)
    count = np.zeros(members.shape[1])
    within = np.zeros((requests, wide), dtype=bool)
    for place in range(wide):
        own = members[np.arange(requests) * wide + place]
        within[:, place] = own @ (count >= per_category) == 0
        count += within[:, place] @ own
    within &= items >= 0
    # Stable: first what the limit lets pass, then what it held back, padding last as it was.
    order = np.where(within, 0, np.where(items >= 0, 1, 2)).argsort(axis=1, kind="stable")[:, :k]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _apart(rows: sp.csr_array, wide: int) -> sp.csr_array:
    """Gives each list columns of its own, one for each category that it has.

    Args:
        rows: categories of the items of all lists, list by list; what stands for padding is never
            chosen. Shape (requests * wide, categories).
        wide: the length of a list.

    Returns:
        Shape (requests * wide, pairs of a list and a category).
    """
    cells = rows.tocoo()
    pair = cells.row // wide * np.int64(rows.shape[1]) + cells.col
    known, column = np.unique(pair, return_inverse=True)
    shape = (rows.shape[0], len(known))
    return sp.csr_array((np.ones(len(column)), (cells.row, column)), shape=shape)


def _check(items: Rows, categories: sp.csr_array, k: int) -> None:
    """Raises a ``ValueError`` unless k items can be chosen by their categories."""
    if not categories.nnz:
        raise ValueError("no item of this catalogue has a category to choose diverse items by")
    if not 1 <= k <= items.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to {items.shape[1]}, the length of the lists")
