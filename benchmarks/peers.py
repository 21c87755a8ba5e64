"""Peers in closed form: popularity, EASE and item neighbours, on numpy and scipy alone.

A peer is fitted on training interactions and then scores every item for the histories it is
given, so that at test it reads the validation item without having learnt from it. Settings are
chosen on validation, as many as the minutes hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

LIST_LENGTH = 20
EASE_L2 = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
SHRINKAGES = (0.0, 3.0, 10.0, 30.0, 100.0)
LENGTH_PENALTIES = (0.0, 0.25, 0.5, 0.75)
NEIGHBOURS = (25, 50, 100, 200, 400, 800)
DECAYS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.4)

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Histories:
    """Users' items, oldest first.

    Attributes:
        offsets: user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``, shape (users + 1,).
        items: item numbers, shape (interactions,).
        num_items: size of the catalogue.
    """

    offsets: Integers
    items: Integers
    num_items: int

    def __len__(self) -> int:
        """How many users there are."""
        return len(self.offsets) - 1

    @property
    def users(self) -> Integers:
        """The user of each interaction, shape (interactions,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def ages(self) -> Integers:
        """How many items of the same user are newer, shape (interactions,)."""
        return self.offsets[1:][self.users] - 1 - np.arange(len(self.items))

    @property
    def newest(self) -> Integers:
        """Each user's newest item, shape (users,)."""
        return self.items[self.offsets[1:] - 1]

    def without_newest(self) -> Histories:
        """The same users before their newest item."""
        lengths = np.diff(self.offsets) - 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Histories(offsets, self.items[self.ages > 0], self.num_items)

    def of(self, users: Integers) -> Histories:
        """Some of the users, in the given order."""
        lengths = np.diff(self.offsets)[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.offsets[users] - offsets[:-1], lengths)
        return Histories(offsets, self.items[np.arange(offsets[-1]) + shift], self.num_items)

    def matrix(self, decay: float = 1.0) -> sparse.csr_matrix:
        """Users × items: how much each item of a history weighs, ``decay`` to the power of its age.

        An item that stands in a history twice weighs as its newest occurrence.
        """
        ages, shape = self.ages, (len(self), self.num_items)
        order = np.lexsort((ages, self.items, self.users))
        users, items = self.users[order], self.items[order]
        first = np.ones(len(items), dtype=bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        weights = np.power(decay, ages[order][first], dtype=np.float32)
        return sparse.csr_matrix((weights, (users[first], items[first])), shape=shape)


Scorer = Callable[[Histories], Floats]
Candidates = Iterator[tuple[dict[str, Any], Scorer]]


def rank(
    scorer: Scorer,
    histories: Histories,
    *,
    keep_seen: bool,
    length: int = LIST_LENGTH,
    batch_size: int = 1024,
) -> npt.NDArray[np.int64]:
    """The best items of the whole catalogue for each user.

    Args:
        scorer: gives a score of each item to each user, (users, items); -inf is never recommended.
        histories: what each user has.
        keep_seen: whether what a user has may be recommended.
        length: items a list.
        batch_size: users whose scores are held at once.

    Returns:
        Item numbers, best first, padded with -1, shape (users, length).
    """
    lists = np.full((len(histories), length), -1, dtype=np.int64)
    width = min(length, histories.num_items)
    for start in range(0, len(histories), batch_size):
        batch = histories.of(np.arange(start, min(start + batch_size, len(histories))))
        scores = np.array(scorer(batch))
        if not keep_seen:
            scores[batch.users, batch.items] = -np.inf
        best = np.sort(np.argpartition(-scores, width - 1, axis=1)[:, :width], axis=1)
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best, values = (np.take_along_axis(a, order, axis=1) for a in (best, values))
        lists[start : start + len(batch), :width] = np.where(values > -np.inf, best, -1)
    return lists


def ndcg(lists: Integers, targets: Integers, cutoff: int = 10) -> float:
    """NDCG with one relevant item a user: mean of 1 / log2(1 + rank) within the cutoff."""
    gains = 1 / np.log2(np.arange(2, cutoff + 2))
    return float(((lists[:, :cutoff] == targets[:, None]) * gains).sum(axis=1).mean())


@dataclass(frozen=True)
class Choice:
    """The setting that was best on validation.

    Attributes:
        setting: its values by name.
        scorer: the fitted peer.
        validation: its NDCG@10 there.
        tried: how many settings were judged within the time.
        minutes: what fitting and judging all of them took.
    """

    setting: dict[str, Any]
    scorer: Scorer
    validation: float
    tried: int
    minutes: float


def choose(
    candidates: Candidates,
    histories: Histories,
    targets: Integers,
    *,
    keep_seen: bool,
    minutes: float,
) -> Choice:
    """Fits and judges one candidate after the other until the time is over; at least one.

    Args:
        candidates: settings with the peers fitted with them, made one at a time.
        histories: of the users to judge on.
        targets: the next item of each, shape (users,).
        keep_seen: whether items of the history may be recommended.
        minutes: the time.
    """
    began = time.monotonic()
    best: tuple[float, dict[str, Any], Scorer] | None = None
    tried = 0
    for setting, scorer in candidates:
        tried += 1
        value = ndcg(rank(scorer, histories, keep_seen=keep_seen, length=10), targets)
        if best is None or value > best[0]:
            best = value, setting, scorer
        if time.monotonic() - began > 60 * minutes:
            break
    assert best is not None
    value, setting, scorer = best
    return Choice(setting, scorer, value, tried, (time.monotonic() - began) / 60)


def popularity(train: Histories) -> Candidates:
    """Items by their number of training interactions; the order of the catalogue decides ties."""
    counts = np.bincount(train.items, minlength=train.num_items)
    places = np.empty(train.num_items, dtype=np.float32)
    places[np.argsort(-counts, kind="stable")] = -np.arange(train.num_items)
    yield {}, lambda histories: np.tile(places, (len(histories), 1))


def ease(train: Histories, l2: tuple[float, ...] = EASE_L2) -> Candidates:
    """EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019), by its l2."""
    taken = train.matrix()
    for value in l2:
        weights = ease_weights(taken, value)
        yield {"l2": value}, lambda histories, weights=weights: histories.matrix() @ weights


def ease_weights(taken: sparse.csr_matrix, l2: float) -> Floats:
    """The closed form: minus the inverse of G + l2, each column over its diagonal, diagonal 0.

    Args:
        taken: users × items, 1 where a user has an item.
        l2: the ridge penalty.

    Returns:
        Dense, shape (items, items).
    """
    gram = (taken.T @ taken).toarray(order="F").astype(np.float32)
    gram[np.diag_indices_from(gram)] += l2
    factor, failed = linalg.lapack.spotrf(gram, lower=False, overwrite_a=True)
    assert not failed
    inverse, failed = linalg.lapack.spotri(factor, lower=False, overwrite_c=True)
    assert not failed
    inverse = np.triu(inverse) + np.triu(inverse, 1).T
    inverse /= -np.diag(inverse)[None, :]
    np.fill_diagonal(inverse, 0)
    return inverse


def item_neighbours(train: Histories) -> Candidates:
    """Item neighbours: cosine with shrinkage or BM25, the nearest of each item, recency decay."""
    taken = train.matrix()
    # What no neighbour reaches follows in the order of popularity.
    popular = np.asarray(taken.sum(axis=0)).ravel()
    popular = (1e-6 * popular / popular.sum()).astype(np.float32)
    similarities = [("bm25", value) for value in LENGTH_PENALTIES]
    similarities += [("cosine", value) for value in SHRINKAGES]
    for name, value in similarities:
        similar = cosine(taken, value) if name == "cosine" else bm25(taken, value)
        for neighbours in NEIGHBOURS:
            nearest = nearest_only(similar, neighbours)
            for decay in DECAYS:

                def scorer(
                    histories: Histories,
                    nearest: sparse.csr_matrix = nearest,
                    decay: float = decay,
                ) -> Floats:
                    return (histories.matrix(decay) @ nearest).toarray() + popular

                kind = "shrinkage" if name == "cosine" else "length_penalty"
                setting = {"similarity": name, kind: value, "neighbours": neighbours}
                yield setting | {"decay": decay}, scorer


def cosine(taken: sparse.csr_matrix, shrinkage: float) -> sparse.csr_matrix:
    """Cosine of the items' columns, with a constant added below; without the diagonal."""
    similar = (taken.T @ taken).tocoo()
    norms = np.sqrt(np.asarray(taken.multiply(taken).sum(axis=0)).ravel())
    below = norms[similar.row] * norms[similar.col] + shrinkage
    return _without_diagonal(similar, similar.data / below)


def bm25(
    taken: sparse.csr_matrix, length_penalty: float, saturation: float = 100.0
) -> sparse.csr_matrix:
    """Products of the items' columns weighted by BM25; without the diagonal.

    An item is the document, its users are the words: a user of many items says little, and so
    does each user of an item that many have.
    """
    rarity = np.log(taken.shape[1] / (1 + np.asarray(taken.sum(axis=1)).ravel())).clip(min=0)
    lengths = np.asarray(taken.sum(axis=0)).ravel()
    length = 1 - length_penalty + length_penalty * lengths / lengths.mean()
    weighted = (
        sparse.diags(rarity) @ taken @ sparse.diags((saturation + 1) / (saturation * length + 1))
    )
    similar = (weighted.T @ weighted).tocoo()
    return _without_diagonal(similar, similar.data)


def _without_diagonal(matrix: sparse.coo_matrix, values: Floats) -> sparse.csr_matrix:
    keep = matrix.row != matrix.col
    entries = values[keep].astype(np.float32), (matrix.row[keep], matrix.col[keep])
    return sparse.csr_matrix(entries, shape=matrix.shape)


def nearest_only(similar: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Keeps the largest entries of each row."""
    entries = similar.tocoo()
    order = np.lexsort((-entries.data, entries.row))
    starts = np.concatenate([[0], np.cumsum(np.bincount(entries.row, minlength=similar.shape[0]))])
    place = np.arange(len(order)) - starts[entries.row[order]]
    kept = order[place < neighbours]
    kept_entries = entries.data[kept], (entries.row[kept], entries.col[kept])
    return sparse.csr_matrix(kept_entries, shape=similar.shape)
