"""Which way words lean: the stars of the texts that have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

# A word of fewer texts would only say which these are.
_FEWEST_TEXTS = 3
_RIDGE = 2.0


def word_leanings(
    texts: Sequence[Sequence[int]], stars: npt.NDArray[np.float32], num_words: int
) -> npt.NDArray[np.float64]:
    """How much more or fewer stars a text has by each of its words: ridge regression.

    A text is told by its words' counts, as 1 + log(count), at length one.

    Args:
        texts: the numbers of each one's words.
        stars: of each text, shape (texts,).
        num_words: how many different ones there are.

    Returns:
        Shape (words,), in the mean one away from nought over all texts' words; 0 for words of
        fewer than three texts.
    """
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    words = np.fromiter((word for text in texts for word in text), dtype=np.int64)
    counts = sp.csr_matrix((np.ones(words.size), words, offsets), shape=(len(texts), num_words))
    counts.sum_duplicates()
    uses = np.bincount(counts.indices, minlength=num_words)
    known = np.flatnonzero(uses >= _FEWEST_TEXTS)
    leanings = np.zeros(num_words)
    if not known.size:
        return leanings
    counts.data = 1 + np.log(counts.data)
    fit = Ridge(alpha=_RIDGE, solver="lsqr").fit(normalize(counts[:, known]), stars)
    spread = np.sqrt(np.average(fit.coef_**2, weights=uses[known]))
    if spread > 1e-6:  # smaller is rounding
        leanings[known] = fit.coef_ / spread
    return leanings
