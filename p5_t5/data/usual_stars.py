"""What others usually gave an item, and what is expected of a user, as a prompt may say it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split

# A mean of an item or a user counts as if it had so many more stars that say nothing.
_PRIOR = 5.0
# Users of one group are told nothing of each other while training.
_GROUPS = 5


def usual_text(value: float) -> str:
    """An item's usual stars as a prompt says them: "3.7", "4.0"."""
    return f"{value:.1f}"


def expected_stars(
    of_item: float, given: npt.NDArray[np.float32], usual: npt.NDArray[np.float32]
) -> float:
    """The baseline estimate of Koren (KDD 2008), with the user's part from what came before.

    Args:
        of_item: the usual stars of the item.
        given: the user's stars so far, NaN where there are none, shape (history,).
        usual: the usual stars of their items, shape (history,).
    """
    more = given - usual
    known = more[~np.isnan(more)]
    return of_item + float(known.sum()) / (len(known) + _PRIOR)


def usual_stars(
    split: Split, num_items: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The mean of an item's training stars, drawn to the mean of all of them.

    While training, a prompt that told the mean of all would tell part of its own answer, and so
    would one that left out just this answer. Users are therefore put into a few groups, and a
    training interaction is told what the users of the other groups gave the item.

    Args:
        split: the data; must have stars in training.
        num_items: items of the catalogue.
        seed: of the groups.

    Returns:
        What may be told with each interaction while training, shape (interactions,), and what is
        told of each item otherwise, shape (items,).
    """
    histories, own = split.histories, split.of_rows
    users, _ = own.positions("train")
    rows, stars = own.rows("train"), own.taught.ratings
    group = np.random.default_rng([4, seed]).permutation(histories.num_users)[users] % _GROUPS
    items, given = histories.items[rows], stars[rows].astype(np.float64)
    known = ~np.isnan(given)
    mean = given[known].mean()
    deviations = np.where(known, given - mean, 0.0)
    cell, cells = group * num_items + items, _GROUPS * num_items
    sums, counts = (
        np.bincount(cell, weights=values, minlength=cells).reshape(_GROUPS, num_items)
        for values in (deviations, known)
    )
    of_items = sums.sum(0) / (counts.sum(0) + _PRIOR)
    of_others = (sums.sum(0) - sums) / (counts.sum(0) - counts + _PRIOR)
    of_rows = of_items[histories.items]
    of_rows[rows] = of_others[group, items]
    return (mean + of_rows).astype(np.float32), (mean + of_items).astype(np.float32)
