"""The stars that the words of a review make likely, as a prompt may say them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from p5_t5.data.splits import Split

Stars = npt.NDArray[np.float64]

# Users of one group are told nothing of each other while training.
_GROUPS = 5
# Words and pairs of words, and marks that are shouted or asked with, fall into so many buckets.
_BUCKETS = 2**18
_WORD = r"(?u)\w+|[!?]+"
_RIDGE = 1.0
# A fit reads so many reviews at most.
_REVIEWS = 100_000
# A user's earlier reviews count as if there were so many more that say nothing.
_PRIOR = 10.0


def review_stars(split: Split, seed: int) -> npt.NDArray[np.float32]:
    """Ridge regression on a review's words and its headline's, and how the user's stars differ.

    A word counts as much as it tells reviews above the mean from the others, as in the naive Bayes
    features of Wang and Manning (2012). What the regression says is bent to the stars that follow
    it in training: most reviews have the most stars, and nothing is above these. A user who so far
    gave half a star more than the words say is expected to do so again. While training, a review
    is told what those of other users say, and earlier ones of its own.

    Args:
        split: the data; must have reviews with stars in training.
        seed: of the groups of users.

    Returns:
        Shape (interactions,), between the fewest and the most stars; NaN without a review.
    """
    histories, own = split.histories, split.of_rows
    ratings = own.taught.ratings.astype(np.float64)
    said = np.flatnonzero(split.known("review"))
    words = _words([split.texts.get(name) for name in ("review", "summary")], said)
    taught = np.zeros(len(ratings), dtype=bool)
    taught[own.rows("train")] = True
    learnt = (taught & ~np.isnan(ratings))[said]
    users = np.repeat(np.arange(histories.num_users), np.diff(histories.offsets))
    generator = np.random.default_rng([9, seed])
    group = (generator.permutation(histories.num_users) % _GROUPS)[users[said]]
    stars, likely = ratings[said], np.empty(len(said))

    @cache
    def without(left: frozenset[int]) -> Stars:
        """What training without some groups says of all reviews."""
        rows = np.flatnonzero(learnt & ~np.isin(group, list(left)))
        if not rows.size:  # all reviews of training are of these groups
            return np.full(len(said), stars[learnt].mean())
        if rows.size > _REVIEWS:
            rows = generator.choice(rows, _REVIEWS, replace=False)
        return _regression(words, stars, rows)

    # Without a group is what it is told itself; without none what is not learnt is told.
    for left in (frozenset[int](), *(frozenset([told]) for told in range(_GROUPS))):
        asked = learnt & np.isin(group, list(left)) if left else ~learnt
        if not asked.any():
            continue
        others = learnt & ~np.isin(group, list(left))
        unseen = np.empty(len(said))
        for told in set(range(_GROUPS)) - left:
            own = others & (group == told)
            unseen[own] = without(left | {told})[own]
        likely[asked] = without(left)[asked]
        if others.any():
            bend = IsotonicRegression(out_of_bounds="clip").fit(unseen[others], stars[others])
            likely[asked] = bend.predict(likely[asked])
    more = np.where(learnt, stars - likely, 0.0)
    # Sums over all before a row, less those over all before its user's first.
    first = np.searchsorted(said, histories.offsets[users[said]])
    summed, times = (np.concatenate([[0.0], np.cumsum(values)]) for values in (more, learnt))
    place = np.arange(len(said))
    likely += (summed[place] - summed[first]) / (times[place] - times[first] + _PRIOR)
    found = np.full(len(ratings), np.nan, dtype=np.float32)
    found[said] = np.clip(likely, stars[learnt].min(), stars[learnt].max())
    return found


def _regression(words: Sequence[sp.csr_matrix], stars: Stars, rows: npt.NDArray[np.int64]) -> Stars:
    """The stars of all reviews as those of some rows say, shape (reviews,)."""
    above = stars[rows] > stars[rows].mean()
    columns = []
    for counts in words:
        more, less = (1.0 + counts[rows[own]].sum(axis=0).A1 for own in (above, ~above))
        telling = np.abs(np.log(more / more.sum()) - np.log(less / less.sum()))
        columns.append(normalize(counts @ sp.diags(telling)))
    told = sp.hstack(columns).tocsr()
    found: Stars = Ridge(alpha=_RIDGE, solver="lsqr").fit(told[rows], stars[rows]).predict(told)
    return found


def _words(
    columns: Sequence[Sequence[str | None] | None], rows: npt.NDArray[np.int64]
) -> list[sp.csr_matrix]:
    """How often each text of each column has each word, as 1 + log(count)."""
    counter = HashingVectorizer(
        n_features=_BUCKETS, ngram_range=(1, 2), alternate_sign=False, norm=None,
        token_pattern=_WORD, dtype=np.float32,
    )  # fmt: skip
    parts = []
    for column in columns:
        if column is not None:
            counts = counter.transform(column[row] or "" for row in rows.tolist())
            counts.data = 1 + np.log(counts.data)
            parts.append(counts)
    return parts
