"""What must stand beside every result: weak spots of the split, and what is trivial to reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.splits import Part, Split
from p5_t5.evaluation.evaluator import (
    CUTOFF,
    KEEP_SEEN,
    Metrics,
    Questions,
    among_candidates,
    questions,
    word_metrics,
)
from p5_t5.evaluation.metrics import ranking_metrics, rating_metrics, text_metrics
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import AnswerKind, PromptTemplate

# So many users numbered before and after are a user's neighbours.
_NEAR = 5


def audit(split: Split, codes: ItemCodes | None = None) -> dict[str, Any]:
    """Facts about the split that change how its numbers are read.

    Args:
        split: the data.
        codes: of the items.

    Returns:
        ``tied_users`` and ``tied_targets`` (shares of users whose order the file decides, at all
        and at the held-out items), ``repeated_targets`` (share of test items that the user already
        had: they can't be found while seen items are excluded), ``cold_targets`` (share of test
        items that no training interaction shows), ``neighbour_targets`` (share of test items that
        the training of the five users numbered before or after shows: more than by chance where
        the users' order gives items away), ``repeated_pairs`` (training rows of an item
        that the same user's held-out part has too: only histories may show them),
        ``told_targets`` (share of test items about which tasks on single rows train),
        ``derived_explanations`` and, for sequential codes, ``next_numbers`` (share of test items
        whose number is that of the item before plus one).
    """
    histories = split.histories
    users, _ = split.positions("test")
    train_users, _ = split.positions("train")
    train_items = histories.items[split.rows("train")].astype(np.int64)
    size = int(histories.items.max()) + 1
    train_pairs = np.unique(train_users * size + train_items)
    rows = split.rows("test")
    test, before = histories.items[rows], histories.items[rows - 1]
    everyone = np.repeat(users, np.diff(histories.offsets))
    had = np.delete(everyone * size + histories.items, rows)
    # No user lies below the first or above the last, so no pair is found there.
    near = [users + step for step in range(-_NEAR, _NEAR + 1) if step]
    shown = np.isin([other * size + test for other in near], train_pairs).any(axis=0)
    found = {
        "tied_users": split.tied_users / histories.num_users,
        "tied_targets": split.tied_targets / histories.num_users,
        "repeated_targets": float(np.isin(users * size + test, had).mean()),
        "cold_targets": float((~np.isin(test, train_items)).mean()),
        "neighbour_targets": float(shown.mean()),
        "repeated_pairs": int(split.heldout_again().sum()),
        "told_targets": float(np.isin(rows, split.of_rows.rows("train")).mean()),
        "derived_explanations": split.derived_explanations,
    }
    if codes is not None and codes.scheme == "sequential":
        numbers = np.array([int(text) for text in codes.texts])
        found["next_numbers"] = float((numbers[test] - numbers[before] == 1).mean())
    return found


def baselines(
    split: Split,
    tasks: Sequence[Task],
    templates: Sequence[PromptTemplate],
    candidates: Candidates,
    part: Part = "test",
) -> dict[str, dict[str, dict[str, Metrics]]]:
    """What is trivial to reach, from training rows only, by task, kind of answer and name.

    Popularity for items, among the catalogue or among candidates; global, user and item means for
    stars, and what prompts are told of a review's words; the more frequent answer for one of two
    words; the most frequent text of all, of the user and of the item for texts.

    Args:
        split: the data.
        tasks: what is judged.
        templates: the judged templates; a kind that none of them asks for gets no baseline.
        candidates: what the judged questions put forward.
        part: ``validation`` or ``test``.
    """
    report: dict[str, dict[str, dict[str, Metrics]]] = {}
    for task in tasks:
        own_split = task.split(split)
        for name, kind in task.family.answers.items():
            own = [t for t in templates if (t.family, t.answer) == (task.name, name)]
            if not own:
                continue
            needs = frozenset.intersection(*(t.needs for t in own))
            asked = questions(split, task, part, needs=needs)
            found: dict[str, Metrics] = {}
            if kind.form == "item":
                found["popularity"] = _popularity(split, asked, candidates.num_items)
            elif kind.form == "stars":
                found = _means(own_split, asked, candidates.num_items)
                if "review_stars" in task.family.slots and split.review_stars is not None:
                    likely = split.review_stars[asked.rows].astype(np.float64)
                    found["review_words"] = rating_metrics(
                        likely, split.histories.ratings[asked.rows]
                    )
            elif kind.form == "words":
                found["majority"] = _majority(own_split, task, kind, asked, candidates)
            elif kind.form == "text":
                found = _frequent_texts(own_split, kind.slot, asked)
            if kind.form == "choice" or kind.proposes == "item":
                found["popularity"] = _candidate_popularity(split, asked, candidates)
            if found:
                report.setdefault(task.name, {})[name] = found
    return report


def _popularity(split: Split, asked: Questions, num_items: int) -> Metrics:
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
    return ranking_metrics(popular_lists(split, asked, num_items), target) | metrics


def popular_lists(split: Split, asked: Questions, num_items: int) -> npt.NDArray[np.int64]:
    """The items with the most training interactions that a user does not have yet.

    Args:
        split: the data.
        asked: the examples.
        num_items: the size of the catalogue, whose order decides ties.

    Returns:
        Catalogue rows, best first, padded with -1, shape (examples, 20).
    """
    histories = split.histories
    counts = np.bincount(histories.items[split.rows("train")], minlength=num_items)
    order = np.argsort(-counts, kind="stable")
    unseen = np.full((len(asked), CUTOFF), -1)
    starts = histories.offsets[asked.users]
    for i, (start, row) in enumerate(zip(starts.tolist(), asked.rows.tolist(), strict=True)):
        # The first 20 unseen items stand among the first 20 + seen ones.
        head = order[: CUTOFF + row - start]
        kept = head[~np.isin(head, histories.items[start:row])][:CUTOFF]
        unseen[i, : len(kept)] = kept
    return unseen


def _candidate_popularity(split: Split, asked: Questions, candidates: Candidates) -> Metrics:
    histories = split.histories
    target = histories.items[asked.rows]
    train = histories.items[split.rows("train")]
    counts = np.bincount(train, minlength=candidates.num_items)
    lists = [
        candidates.among(user, item)
        for user, item in zip(asked.users.tolist(), target.tolist(), strict=True)
    ]
    return among_candidates([row[np.argsort(-counts[row], kind="stable")] for row in lists], target)


def _majority(
    split: Split, task: Task, kind: AnswerKind, asked: Questions, candidates: Candidates
) -> Metrics:
    """The more frequent word for everybody; what is put forward is true half of the time."""
    like = candidates.settings.like_threshold
    actual = split.histories.ratings
    if kind.proposes is None:
        known = split.rows("train")[split.known("rating")[split.rows("train")]]
        share = float((actual[known] >= like).mean())
        labels = actual[asked.rows] >= like
    else:
        share = 0.5
        pairs = zip(asked.users.tolist(), asked.positions.tolist(), strict=True)
        labels = np.array([candidates.asked(task, kind, *pair).agreed for pair in pairs])
    return word_metrics(np.full(len(asked), share), labels)


def _frequent_texts(split: Split, column: str, asked: Questions) -> dict[str, Metrics]:
    """What training rows say most often; where a user or an item says nothing, all of them do."""
    users, _ = split.positions("train")
    rows = split.rows("train")
    known = split.known(column)[rows]
    users, rows = users[known], rows[known]
    items = split.histories.items
    texts = [split.texts[column][row] or "" for row in rows.tolist()]
    if not texts:
        return {}
    references = [split.texts[column][row] or "" for row in asked.rows.tolist()]
    everybody = _modes([0] * len(texts), texts)[0]
    by_user, by_item = _modes(users.tolist(), texts), _modes(items[rows].tolist(), texts)
    targets = items[asked.rows].tolist()
    said = {
        "frequent_text": [everybody] * len(asked),
        "user_text": [by_user.get(user, everybody) for user in asked.users.tolist()],
        "item_text": [by_item.get(item, everybody) for item in targets],
    }
    return {name: text_metrics(predicted, references) for name, predicted in said.items()}


def _modes(groups: Sequence[int], texts: Sequence[str]) -> dict[int, str]:
    """The most frequent text of each group, the first one on ties."""
    counts: dict[int, Counter[str]] = {}
    for group, text in zip(groups, texts, strict=True):
        counts.setdefault(group, Counter())[text] += 1
    return {group: own.most_common(1)[0][0] for group, own in counts.items()}


def _means(split: Split, asked: Questions, num_items: int) -> dict[str, Metrics]:
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
