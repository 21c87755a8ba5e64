"""How well items are found where training knows little: new items and new users."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split
from p5_t5.evaluation.evaluator import Metrics, RankedLists
from p5_t5.evaluation.metrics import ranking_metrics

# The lowest number of each bin; the last one has no end. A user trains on one item at least.
ITEM_BINS = (0, 1, 2, 5)
USER_BINS = (1, 3, 6, 11, 21, 51)

Bins = dict[str, dict[str, Metrics]]


def newcomers(split: Split, lists: Mapping[str, RankedLists]) -> dict[str, Bins]:
    """Judges ranked lists apart by how often training shows the target, and by users' histories.

    Args:
        split: the data.
        lists: what was recommended, by any name.

    Returns:
        ``items`` (by training interactions of the target item) and ``users`` (by the length of the
        user's training history), each name → bin → ``hr@10``, ``ndcg@10`` and ``n``. Bins are
        named "0", "2-4" or "5+"; those without an example are left out.
    """
    histories = split.histories
    trained = np.bincount(histories.items[split.rows("train")], minlength=histories.items.max() + 1)
    report: dict[str, Bins] = {"items": {}, "users": {}}
    for name, ranked in lists.items():
        target = histories.items[ranked.asked.rows]
        report["items"][name] = _by_bin(ranked.items, target, trained[target], ITEM_BINS)
        report["users"][name] = _by_bin(
            ranked.items, target, split.train_lengths[ranked.asked.users], USER_BINS
        )
    return report


def _by_bin(
    items: npt.NDArray[np.int64],
    target: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
    bins: tuple[int, ...],
) -> dict[str, Metrics]:
    place = np.digitize(counts, bins) - 1
    found = {}
    for number, name in enumerate(_names(bins)):
        own = place == number
        if own.any():
            found[name] = {
                key: value
                for key, value in ranking_metrics(items[own], target[own], (10,)).items()
                if key != "mrr"
            }
    return found


def _names(bins: tuple[int, ...]) -> list[str]:
    closed = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(bins)]
    return [*closed, f"{bins[-1]}+"]
