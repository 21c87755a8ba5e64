"""Explanations from facts, for data without written ones.

An explanation says which category of an item the user's liked history is rich in, and names one or
two liked titles that share it. Only interactions before the explained one are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.splits import Split


def derive_explanations(split: Split, catalogue: Catalogue, like_threshold: float) -> Split:
    """Adds ``explanation`` and ``feature`` for each liked interaction that facts can explain.

    Args:
        split: a split without explanations.
        catalogue: its items; without titles or categories nothing can be derived.
        like_threshold: from so many stars on an item counts as liked.

    Returns:
        The same split with the two text columns, ``None`` where nothing explains.
    """
    if not catalogue.has_titles or not catalogue.category_names:
        return split
    pairs = _category_pairs(split, catalogue, like_threshold)
    group = ["user", "category"]
    liked_item = pl.when("liked").then("item")
    pairs = (
        pairs.with_columns(
            prior=(pl.col("liked").cum_sum() - pl.col("liked")).over(group),
            last=liked_item.shift(1).forward_fill().over(group),
        )
        .with_columns(
            before=pl.when("liked").then("last").shift(1).forward_fill().over(group),
        )
        .filter(pl.col("liked") & (pl.col("prior") > 0))
        .sort(["row", "prior", "category"], descending=[False, True, False])
        .unique("row", keep="first", maintain_order=True)
    )
    explanation: list[str | None] = [None] * len(split.histories.items)
    feature: list[str | None] = [None] * len(split.histories.items)
    names = catalogue.category_names
    for row, category, last, before in pairs.select("row", "category", "last", "before").rows():
        feature[row] = names[category]
        liked = [last] if before is None else [before, last]
        explanation[row] = fact(catalogue, liked, names[category])
    texts = dict(split.texts) | {"explanation": explanation, "feature": feature}
    return replace(split, texts=texts, derived_explanations=True)


def fact(catalogue: Catalogue, liked: Sequence[int], category: str) -> str:
    """The sentence that names a category and the newest two liked items that share it.

    Args:
        catalogue: titles.
        liked: catalogue rows, oldest first; at least one.
        category: its name.
    """
    named = " and ".join(catalogue.title(item) for item in reversed(liked[-2:]))
    return f"you liked {named} , and this is {category} too"


def _category_pairs(split: Split, catalogue: Catalogue, like_threshold: float) -> pl.DataFrame:
    """One row for each interaction and category of its item, in time order."""
    histories = split.histories
    ratings = histories.ratings
    liked = ratings >= like_threshold if histories.has_ratings else np.ones(len(ratings), bool)
    users = np.repeat(np.arange(histories.num_users), np.diff(histories.offsets))
    lengths = np.array([len(row) for row in catalogue.categories])
    counts = lengths[histories.items]
    rows = np.repeat(np.arange(len(histories.items)), counts)
    categories = [catalogue.categories[item] for item in histories.items.tolist()]
    return pl.DataFrame(
        {
            "row": rows,
            "user": users[rows],
            "item": histories.items[rows],
            "liked": liked[rows],
            "category": np.concatenate(categories).astype(np.int64),
        }
        # An item taken again is no reason for itself.
    ).unique(["user", "item", "category"], keep="first", maintain_order=True)
