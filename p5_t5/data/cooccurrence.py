"""Items or words as vectors: what stands near what in histories or texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

_WINDOW = 10  # neighbours in a row that count as co-occurring, each way

Vectors = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def cooccurrence_vectors(
    offsets: npt.NDArray[np.int64],
    items: Indices,
    num_items: int,
    dimensions: int,
    rng: np.random.Generator,
) -> Vectors:
    """(items, dimensions) unit vectors; items of the same rows point the same way.

    The leading singular vectors of the positive pointwise mutual information of neighbours (Levy
    and Goldberg, NeurIPS 2014).

    Args:
        offsets: row ``r``, a history or a text, is ``items[offsets[r]:offsets[r + 1]]``, shape
            (rows + 1,).
        items: all rows' items or words in their order, shape (all,).
        num_items: how many different ones there are.
        dimensions: at most so many.
        rng: of the approximate decomposition.

    Returns:
        Shape (items, dimensions found); zeros for an item without neighbours.
    """
    counts = _cooccurrence(offsets, items, num_items)
    if not counts.nnz:
        return np.zeros((num_items, 1))
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    # Flattening the context's share keeps rare items from being everyone's best neighbour.
    flattened = totals**0.75
    with np.errstate(divide="ignore"):
        log_item = np.log(totals).astype(np.float32)
        log_context = np.log(flattened / flattened.sum()).astype(np.float32)
    row_lengths = np.diff(counts.indptr)
    information = np.log(counts.data)
    information -= np.repeat(log_item, row_lengths)
    information -= log_context[counts.indices]
    counts.data = np.maximum(information, 0)
    counts.eliminate_zeros()

    left, strength, _ = randomized_svd(
        counts, min(dimensions, num_items), n_iter=4, random_state=int(rng.integers(2**31))
    )
    # What small catalogues have too few directions for, and what is left of an item without
    # neighbours or in a far corner of the graph, is rounding alone.
    strong = strength > 1e-4 * strength[0]
    vectors: Vectors = (left * np.sqrt(strength))[:, strong].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    known = lengths > 1e-4 * lengths.max()
    vectors[known] /= lengths[known, None]
    vectors[~known] = 0
    return vectors


def _cooccurrence(offsets: npt.NDArray[np.int64], items: Indices, num_items: int) -> sp.csr_matrix:
    """(items, items) sparse, symmetric counts of two items at most a window apart in a row."""
    rows = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    items = items.astype(np.int32)
    counts = sp.csr_matrix((num_items, num_items), dtype=np.float32)
    for step in range(1, min(_WINDOW, len(items) - 1) + 1):
        before, after = items[:-step], items[step:]
        pair = (rows[:-step] == rows[step:]) & (before != after)
        low, high = np.minimum(before, after)[pair], np.maximum(before, after)[pair]
        weights = np.ones(low.size, dtype=np.float32)
        counts = counts + sp.csr_matrix((weights, (low, high)), shape=counts.shape)
    return sp.csr_matrix(counts + counts.T)
