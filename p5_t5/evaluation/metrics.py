"""The numbers of the field as pure functions: arrays or texts in, one flat dictionary out.

Every dictionary carries ``n``, the number of rows its numbers are means over. The libraries that
compute BLEU, ROUGE and the area under the curve take seconds to import, so each is imported by
the function that needs it.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Integers = npt.NDArray[np.integer]

PADDING = -1
"""Stands in a ranked list behind the last item, where a request had fewer answers than asked."""


def ranking_metrics(
    ranked: npt.ArrayLike, target: npt.ArrayLike, cutoffs: Sequence[int] = (1, 5, 10, 20)
) -> dict[str, float]:
    """Judge ranked lists against one relevant item each (P5, section 5; leave-one-out protocol).

    With one relevant item, HR@K is the share of users whose target is among the first K, and
    NDCG@K is the mean of 1 / log2(1 + rank) over the same users, 0 for the others. MRR is the
    mean of 1 / rank over the whole returned list, 0 where the target is not in it: it grows with
    the list's length, so compare it only between lists of one length.

    Args:
        ranked: item numbers, best first, ``(users, k)``, padded at the end with -1.
        target: the held-out item number of each user, ``(users,)``.
        cutoffs: the values of K; none may exceed ``k``.

    Returns:
        ``hr@K`` and ``ndcg@K`` for every cutoff, ``mrr`` and ``n``, all shares in [0, 1].

    Raises:
        ValueError: the shapes do not fit, there is no user, a cutoff is below 1 or above ``k``, a
            row holds an item twice or padding before an item, or a target is negative.
    """
    lists = _ranked_lists(ranked)
    targets = _integers(target, "target")
    users, k = lists.shape
    if targets.shape != (users,):
        raise ValueError(f"target has shape {targets.shape}, expected ({users},), one item a user")
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs are {tuple(cutoffs)}, expected one or more, each at least 1")
    if max(cutoffs) > k:
        raise ValueError(
            f"cutoff {max(cutoffs)} is larger than the {k} items of each list: hr@{max(cutoffs)} "
            "would be understated; ask for longer lists or smaller cutoffs"
        )
    _refuse_rows(targets < 0, "target", "a negative item number", targets)

    hits = lists == targets[:, None]
    found = hits.any(axis=1)
    rank = np.where(found, hits.argmax(axis=1) + 1, np.inf)
    metrics: dict[str, float] = {}
    for cutoff in cutoffs:
        within = rank <= cutoff
        metrics[f"hr@{cutoff}"] = float(within.mean())
        metrics[f"ndcg@{cutoff}"] = float((within / np.log2(1 + rank)).mean())
    metrics["mrr"] = float((1 / rank).mean())
    metrics["n"] = users
    return metrics


def catalogue_coverage(ranked: npt.ArrayLike, num_items: int) -> float:
    """Share of the catalogue that at least one user is shown.

    Args:
        ranked: item numbers in [0, num_items), ``(users, k)``, padded at the end with -1.
        num_items: size of the catalogue.

    Returns:
        A share in (0, 1].

    Raises:
        ValueError: a row is malformed, an item lies outside the catalogue, or no item is shown.
    """
    return float((_shown(ranked, num_items) > 0).mean())


def gini(ranked: npt.ArrayLike, num_items: int) -> float:
    """Gini index of how often each item of the catalogue is shown.

    With counts sorted upwards c_1 … c_m the index is sum((2i - m - 1) c_i) / (m sum(c_i)).

    Args:
        ranked: item numbers in [0, num_items), ``(users, k)``, padded at the end with -1.
        num_items: size of the catalogue; items never shown count as zeros.

    Returns:
        0 when all items are shown equally often, towards 1 when a few take all the places.

    Raises:
        ValueError: a row is malformed, an item lies outside the catalogue, or no item is shown.
    """
    counts = np.sort(_shown(ranked, num_items))
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float((weights @ counts) / (num_items * counts.sum()))


def intra_list_distance(ranked: npt.ArrayLike, categories: sp.csr_array) -> float:
    """Mean distance of two items of one list, 1 minus the cosine of their sets of categories.

    The diversity of Zhang and Hurley, "Avoiding Monotony" (RecSys 2008), averaged over the lists.

    Args:
        ranked: item numbers, ``(users, k)``, padded at the end with -1.
        categories: nonzero where an item of the catalogue has a category, ``(items, categories)``.

    Returns:
        0 when all items of a list have the same categories, 1 when no two share one. Nothing is
        known of an item without categories, so it is left out, and so are lists with fewer than
        two items that have some; 0 when that leaves no list.

    Raises:
        ValueError: a row is malformed, an item lies outside the catalogue, or no item is shown.
    """
    lists = _ranked_lists(ranked)
    _shown(lists, categories.shape[0])
    user, place = np.nonzero(lists != PADDING)
    rows = categories[lists[user, place]].astype(np.bool_).astype(np.float64)
    sizes = np.diff(rows.indptr)
    rows.data /= np.sqrt(sizes).repeat(sizes)
    own = sp.csr_array(
        (np.ones(len(user)), (user, np.arange(len(user)))), shape=(len(lists), len(user))
    )
    # The sum of unit vectors has as its squared length their number and all their cosines, each
    # pair twice: no pair is looked at.
    squares = (own @ rows).power(2).sum(axis=1)  # (users,)
    known = own @ (sizes > 0).astype(np.float64)
    several = known > 1
    if not several.any():
        return 0.0
    squares, known = squares[several], known[several]
    cosines = (squares - known) / (known * (known - 1))
    return float(np.clip(1 - cosines, 0, 1).mean())


def diversity_metrics(
    ranked: npt.ArrayLike,
    num_items: int,
    categories: sp.csr_array | None = None,
    cutoff: int = 10,
) -> dict[str, float]:
    """Judge ranked lists by what they show, whatever is relevant.

    Args:
        ranked: item numbers in [0, num_items), best first, ``(users, k)``, padded with -1.
        num_items: size of the catalogue.
        categories: see ``intra_list_distance``; ``None`` where the catalogue has none.
        cutoff: how many items of each list count.

    Returns:
        ``coverage@K``, ``gini@K``, with categories ``intra_list_distance@K``, and ``n``.

    Raises:
        ValueError: see ``catalogue_coverage``, or the cutoff is not from 1 to ``k``.
    """
    lists = _ranked_lists(ranked)
    if not 1 <= cutoff <= lists.shape[1]:
        raise ValueError(f"cutoff is {cutoff}, expected 1 to {lists.shape[1]}, the lists' length")
    lists = lists[:, :cutoff]
    metrics = {
        f"coverage@{cutoff}": catalogue_coverage(lists, num_items),
        f"gini@{cutoff}": gini(lists, num_items),
    }
    if categories is not None:
        metrics[f"intra_list_distance@{cutoff}"] = intra_list_distance(lists, categories)
    return metrics | {"n": len(lists)}


def rating_metrics(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> dict[str, float]:
    """Root mean squared and mean absolute error of predicted ratings, in stars.

    Args:
        predicted: ``(rows,)``.
        actual: ``(rows,)``.

    Returns:
        ``rmse``, ``mae`` and ``n``.

    Raises:
        ValueError: the shapes differ, there is no row, or a value is NaN or infinite.
    """
    guesses = _finite(predicted, "predicted")
    truths = _finite(actual, "actual")
    _same_length(guesses, truths, "predicted", "actual")
    error = guesses - truths
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "n": error.size,
    }


def binary_metrics(
    scores: npt.ArrayLike, labels: npt.ArrayLike, threshold: float = 0.5
) -> dict[str, float]:
    """Judge yes/no answers by the probability of "yes".

    Args:
        scores: probability of "yes" (or any score that grows with it), ``(rows,)``.
        labels: 1 or True where "yes" is right, else 0 or False, ``(rows,)``.
        threshold: a score of at least this much counts as the answer "yes".

    Returns:
        ``accuracy``, ``precision``, ``recall``, ``f1``, ``auc`` and ``n``. Precision is 0 when
        nothing is answered with "yes".

    Raises:
        ValueError: the shapes differ, there is no row, a score is not finite, a label is neither
            0 nor 1, or all labels are equal (the area under the curve is then undefined).
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

    chances = _finite(scores, "scores")
    truths = _finite(labels, "labels")
    _same_length(chances, truths, "scores", "labels")
    _refuse_rows((truths != 0) & (truths != 1), "labels", "a value other than 0 and 1", truths)
    if truths.min() == truths.max():
        raise ValueError(
            f"all {truths.size} labels are {int(truths[0])}: auc needs rows of both classes"
        )
    answers = (chances >= threshold).astype(float)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, answers, average="binary", zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(truths, answers)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "auc": float(roc_auc_score(truths, chances)),
        "n": truths.size,
    }


def text_metrics(predicted: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Judge generated texts against one reference each, and against one another.

    BLEU is sacrebleu's corpus score up to 4-grams and up to 2-grams (13a tokens, case kept).
    ROUGE is the mean F-measure of rouge_score with Porter stemming. ``distinct`` tells whether a
    model says something of its own to everyone: the share of different texts among all texts.

    Args:
        predicted: one text a row; an empty one is allowed and scores 0.
        references: one text a row.

    Returns:
        ``bleu-2``, ``bleu-4``, ``rouge-1``, ``rouge-2``, ``rouge-l`` in [0, 100]; ``distinct`` in
        (0, 1]; ``n``.

    Raises:
        ValueError: the lengths differ, or there is no row.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    _same_rows(predicted, references, "predicted", "references")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    f_measure = np.array(
        [
            [scores[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
            for scores in map(scorer.score, references, predicted)
        ]
    )  # (rows, 3)
    rouge_1, rouge_2, rouge_l = 100 * f_measure.mean(axis=0)
    corpus = (list(predicted), [list(references)])
    return {
        "bleu-2": BLEU(max_ngram_order=2).corpus_score(*corpus).score,
        "bleu-4": BLEU(max_ngram_order=4).corpus_score(*corpus).score,
        "rouge-1": float(rouge_1),
        "rouge-2": float(rouge_2),
        "rouge-l": float(rouge_l),
        "distinct": len(set(predicted)) / len(predicted),
        "n": len(predicted),
    }


def feature_match(
    predicted: Sequence[str], feature_words: Sequence[str | None]
) -> dict[str, float]:
    """Share of explanations that name the feature they were asked about.

    A feature counts as named when it stands in the text as whole words, letter case and the
    amount of white space aside: "art" is not in "party", "sound quality" is in "Sound  Quality!".
    This is the feature matching ratio of Li et al., "Generate Neural Template Explanations for
    Recommendation" (CIKM 2020).

    Args:
        predicted: one text a row.
        feature_words: one feature a row; rows with None or a blank feature are left out.

    Returns:
        ``feature_match`` in [0, 1] and ``n``, the rows that have a feature. When no row has one
        there is nothing to report, and only ``n``, 0, is returned.

    Raises:
        ValueError: the lengths differ, or there is no row.
    """
    _same_rows(predicted, feature_words, "predicted", "feature_words")
    named = [
        re.search(rf"(?<!\w){re.escape(feature)}(?!\w)", _plain(text)) is not None
        for text, feature in zip(predicted, map(_plain, feature_words), strict=True)
        if feature
    ]
    if not named:
        return {"n": 0}
    return {"feature_match": sum(named) / len(named), "n": len(named)}


def _plain(text: str | None) -> str:
    """Fold case and runs of white space; None becomes the empty text."""
    return " ".join((text or "").casefold().split())


def _shown(ranked: npt.ArrayLike, num_items: int) -> npt.NDArray[np.int64]:
    """Count how often each item is shown, ``(num_items,)``."""
    lists = _ranked_lists(ranked)
    if lists.max() >= num_items:
        row = int(np.argmax(lists.max(axis=1)))
        raise ValueError(
            f"ranked: row {row} holds item {lists.max()}, but the catalogue has {num_items} items"
        )
    shown = lists[lists != PADDING]
    if not shown.size:
        raise ValueError("ranked holds nothing but padding: no item is shown to anyone")
    return np.bincount(shown, minlength=num_items)


def _ranked_lists(ranked: npt.ArrayLike) -> Integers:
    """Read ranked lists, ``(users, k)``, and refuse rows that no search could have returned."""
    lists = _integers(ranked, "ranked")
    if lists.ndim != 2 or not lists.size:
        raise ValueError(f"ranked has shape {lists.shape}, expected (users, k), neither of them 0")
    ordered = np.sort(lists, axis=1)
    _refuse_rows(ordered[:, 0] < PADDING, "ranked", "an item number below -1", lists)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)
    _refuse_rows(twice.any(axis=1), "ranked", "an item twice", lists)
    gap = (lists[:, :-1] == PADDING) & (lists[:, 1:] != PADDING)
    _refuse_rows(gap.any(axis=1), "ranked", "padding (-1) before an item", lists)
    return lists


def _integers(values: npt.ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} holds {array.dtype} values, expected integer item numbers")
    return array.astype(np.int64, copy=False)


def _finite(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}, expected one number a row")
    _refuse_rows(
        np.isnan(array) | np.isinf(array), name, "a value that is not a finite number", array
    )
    return array


def _refuse_rows(
    bad: npt.NDArray[np.bool_], name: str, fault: str, values: npt.NDArray[np.generic]
) -> None:
    """Raise a ValueError that names the first bad row, shows it, and counts the others."""
    rows = np.flatnonzero(bad)
    if rows.size:
        raise ValueError(
            f"{name}: row {rows[0]} holds {fault}: {values[rows[0]].tolist()} "
            f"({rows.size} of {bad.size} rows are like this)"
        )


def _same_length(
    one: npt.NDArray[np.generic], other: npt.NDArray[np.generic], name: str, other_name: str
) -> None:
    if one.shape != other.shape:
        raise ValueError(f"{name} has {one.size} rows, {other_name} {other.size}: expected as many")


def _same_rows(one: Sequence[object], other: Sequence[object], name: str, other_name: str) -> None:
    if len(one) != len(other):
        raise ValueError(f"{name} has {len(one)} rows, {other_name} {len(other)}: expected as many")
    if not one:
        raise ValueError(f"{name} is empty: expected at least one row")
