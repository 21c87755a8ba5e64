"""What others usually gave an item, and what is expected of a user, as a prompt may say it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split

# A mean of an item or a user counts as if it had so many more stars that say nothing; the first
# where nothing speaks for another.
PRIORS = (5.0, 1.0, 2.0, 3.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)
# A scale of so many stars at most has a token for each tenth.
_WIDEST = 20.0
# Users of one group are told nothing of each other while training.
_GROUPS = 5


def usual_text(value: float) -> str:
    """An item's usual stars as a prompt says them: "3.7", "4.0"."""
    return f"{value:.1f}"


def star_texts(ratings: Sequence[float]) -> list[str]:
    """All that ``usual_text`` says between the fewest and the most stars; none of a wide scale."""
    if not ratings or max(ratings) - min(ratings) > _WIDEST:
        return []
    tenths = np.arange(round(10 * min(ratings)), round(10 * max(ratings)) + 1)
    return [usual_text(tenth / 10) for tenth in tenths.tolist()]


def expected_stars(
    of_item: float,
    given: npt.NDArray[np.float32],
    usual: npt.NDArray[np.float32],
    prior: float = PRIORS[0],
) -> float:
    """The baseline estimate of Koren (KDD 2008), with the user's part from what came before.

    Args:
        of_item: the usual stars of the item.
        given: the user's stars so far, NaN where there are none, shape (history,).
        usual: the usual stars of their items, shape (history,).
        prior: so many stars that are as usual are added to the user's.
    """
    more = given - usual
    known = more[~np.isnan(more)]
    return of_item + float(known.sum()) / (len(known) + prior)


def usual_stars(
    split: Split, num_items: int, seed: int, prior: float = PRIORS[0]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The mean of an item's training stars, drawn to the mean of all of them.

    While training, a prompt that told the mean of all would tell part of its own answer, and so
    would one that left out just this answer. Users are therefore put into a few groups, and a
    training interaction is told what the users of the other groups gave the item.

    Args:
        split: the data; must have stars in training.
        num_items: items of the catalogue.
        seed: of the groups.
        prior: so many mean stars are added to an item's.

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
    of_items = sums.sum(0) / (counts.sum(0) + prior)
    of_others = (sums.sum(0) - sums) / (counts.sum(0) - counts + prior)
    of_rows = of_items[histories.items]
    of_rows[rows] = of_others[group, items]
    return (mean + of_rows).astype(np.float32), (mean + of_items).astype(np.float32)


def choose_priors(split: Split, num_items: int, seed: int) -> tuple[float, float]:
    """The priors of items and of users that foretell the stars of training best.

    What is told while training comes from other users and from earlier stars, so it is judged on
    stars that it doesn't know. Without the right priors the training stars, which less is known
    before than at test, teach a model to trust what it is told too little or too much.

    Args:
        split: the data; must have stars in training.
        num_items: items of the catalogue.
        seed: of the groups, as ``usual_stars`` has it.

    Returns:
        What ``usual_stars`` and what ``expected_stars`` are given.
    """
    own, offsets = split.of_rows, split.histories.offsets
    users, _ = own.positions("train")
    rows, ratings = own.rows("train"), own.taught.ratings
    known = ~np.isnan(ratings[rows])
    users, rows = users[known], rows[known]
    stars = ratings[rows].astype(np.float64)

    def error(expected: npt.NDArray[np.float64]) -> float:
        return float(np.square(expected - stars).mean())

    told = {p: usual_stars(split, num_items, seed, p)[0].astype(np.float64) for p in PRIORS}
    of_items = min(PRIORS, key=lambda prior: error(told[prior][rows]))
    more = ratings - told[of_items]
    # How much more than usual the user gave before each row in sum, and how often anything.
    summed = (
        np.concatenate([[0.0], np.cumsum(values)])
        for values in (np.nan_to_num(more), ~np.isnan(more))
    )
    habit, times = (sums[rows] - sums[offsets[users]] for sums in summed)
    of_users = min(PRIORS, key=lambda prior: error(told[of_items][rows] + habit / (times + prior)))
    return of_items, of_users
