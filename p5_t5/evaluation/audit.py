"""What must stand beside every result: weak spots of the split, and what is trivial to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Part, Split
from p5_t5.evaluation.evaluator import CUTOFF, KEEP_SEEN, Metrics, questions
from p5_t5.evaluation.metrics import ranking_metrics, rating_metrics
from p5_t5.prompting.tasks import Task


def audit(split: Split) -> dict[str, Any]:
    """Facts about the split that change how its numbers are read.

    Returns:
        ``tied_users`` and ``tied_targets`` (shares of users whose order the file decides, at all
        and at the held-out items), ``repeated_targets`` (share of test items that the user already
        had: they can't be found while seen items are excluded), ``cold_targets`` (share of test
        items that no training interaction shows), ``repeated_pairs`` (training rows of an item
        that the same user's held-out part has too: only histories may show them) and
        ``derived_explanations``.
    """
    histories = split.histories
    users, _ = split.positions("test")
    train_users, _ = split.positions("train")
    train_items = histories.items[split.rows("train")].astype(np.int64)
    size = int(histories.items.max()) + 1
    train_pairs = np.unique(train_users * size + train_items)
    test, validation = (
        histories.items[split.rows("test")],
        histories.items[split.rows("validation")],
    )
    in_train = np.isin(users * size + test, train_pairs)
    repeated = in_train | (test == validation)
    return {
        "tied_users": split.tied_users / histories.num_users,
        "tied_targets": split.tied_targets / histories.num_users,
        "repeated_targets": float(repeated.mean()),
        "cold_targets": float((~np.isin(test, train_items)).mean()),
        "repeated_pairs": int(split.heldout_again().sum()),
        "derived_explanations": split.derived_explanations,
    }


def baselines(
    split: Split, tasks: Sequence[Task], num_items: int, part: Part = "test"
) -> dict[str, dict[str, Metrics]]:
    """Popularity for items; global, user and item means for stars; all from training rows only."""
    report: dict[str, dict[str, Metrics]] = {}
    for task in tasks:
        if task.form == "item":
            report[task.name] = {"popularity": _popularity(split, task, num_items, part)}
        elif task.form == "rating":
            report[task.name] = _means(split, task, num_items, part)
    return report


def _popularity(split: Split, task: Task, num_items: int, part: Part) -> Metrics:
    asked = questions(split, task, part)
    histories = split.histories
    target = histories.items[asked.rows]
    counts = np.bincount(histories.items[split.rows("train")], minlength=num_items)
    order = np.argsort(-counts, kind="stable")
    width = min(CUTOFF, num_items)
    everyone = np.full((len(asked), CUTOFF), -1)
    everyone[:, :width] = order[:width]
    metrics = {
        f"{name}{KEEP_SEEN}": value
        for name, value in ranking_metrics(everyone, target).items()
        if name != "n"
    }
    unseen = np.full((len(asked), CUTOFF), -1)
    starts = histories.offsets[asked.users]
    for i, (start, row) in enumerate(zip(starts.tolist(), asked.rows.tolist(), strict=True)):
        # The first 20 unseen items stand among the first 20 + seen ones.
        head = order[: CUTOFF + row - start]
        kept = head[~np.isin(head, histories.items[start:row])][:CUTOFF]
        unseen[i, : len(kept)] = kept
    return ranking_metrics(unseen, target) | metrics


def _means(split: Split, task: Task, num_items: int, part: Part) -> dict[str, Metrics]:
    asked = questions(split, task, part)
    histories = split.histories
    users, _ = split.positions("train")
    rows = split.rows("train")
    known = ~np.isnan(histories.ratings[rows])
    users, rows = users[known], rows[known]
    ratings = histories.ratings[rows].astype(np.float64)
    mean = float(ratings.mean())
    by_user = _group_means(users, ratings, histories.num_users, mean)
    by_item = _group_means(histories.items[rows], ratings, num_items, mean)
    predicted = {
        "global_mean": np.full(len(asked), mean),
        "user_mean": by_user[asked.users],
        "item_mean": by_item[histories.items[asked.rows]],
    }
    actual = histories.ratings[asked.rows]
    return {name: rating_metrics(values, actual) for name, values in predicted.items()}


def _group_means(
    groups: npt.NDArray[Any], values: npt.NDArray[np.float64], size: int, default: float
) -> npt.NDArray[np.float64]:
    counts = np.bincount(groups, minlength=size)
    sums = np.bincount(groups, weights=values, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), default)
