"""What others usually gave an item, as a prompt may say it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split

# An item's mean counts as if so many more had given it the mean of all stars.
_PRIOR = 5.0


def usual_text(value: float) -> str:
    """An item's usual stars as a prompt says them: "3.7", "4.0"."""
    return f"{value:.1f}"


def usual_stars(
    split: Split, num_items: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The mean of an item's training stars, drawn to the mean of all of them.

    While training, a prompt that told the mean of all would tell part of its own answer, and so
    would one that left out just this answer. Users are therefore put in a drawn order, and a
    training interaction is told what the users before its own gave the item.

    Args:
        split: the data; must have stars in training.
        num_items: items of the catalogue.
        seed: of the order of the users.

    Returns:
        What may be told with each interaction while training, shape (interactions,), and what is
        told of each item otherwise, shape (items,).
    """
    histories, own = split.histories, split.of_rows
    users, _ = own.positions("train")
    rows, stars = own.rows("train"), own.taught.ratings
    rank = np.random.default_rng([4, seed]).permutation(histories.num_users)[users]
    order = np.lexsort((rank, histories.items[rows]))
    rows, rank = rows[order], rank[order]
    items, given = histories.items[rows], stars[rows].astype(np.float64)
    known = ~np.isnan(given)
    mean = given[known].mean()
    deviations = np.where(known, given - mean, 0.0)
    # Sums over what stands before: the first of an item, the first of a user for an item.
    sums, counts = (np.concatenate([[0], np.cumsum(values)]) for values in (deviations, known))
    item_begins = np.searchsorted(items, items, side="left")
    changes = np.flatnonzero(np.diff(items, prepend=-1) | np.diff(rank, prepend=-1))
    user_begins = changes[np.searchsorted(changes, np.arange(len(rows)), side="right") - 1]
    totals = np.bincount(items, weights=deviations, minlength=num_items)
    of_items = totals / (np.bincount(items, weights=known, minlength=num_items) + _PRIOR)
    of_rows = of_items[histories.items]
    of_rows[rows] = (sums[user_begins] - sums[item_begins]) / (
        counts[user_begins] - counts[item_begins] + _PRIOR
    )
    return (mean + of_rows).astype(np.float32), (mean + of_items).astype(np.float32)
