"""T5's span corruption (Raffel et al., JMLR 2020, section 3.1.4) over histories of items.

Runs of whole items are masked: a source shows a sentinel in the place of each run, a target gives
each sentinel and what stood there. As in T5 the first item is never masked and the newest always
is, so that the newest item is the last word of a target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# T5 masks so large a share, in runs of so many tokens in the mean, here of items.
DENSITY, MEAN_SPAN = 0.15, 3.0
# T5's vocabulary ends with them.
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))

Counts = npt.NDArray[np.int64]


def span_counts(lengths: Counts) -> tuple[Counts, Counts]:
    """How many items of histories are masked, and in how many spans: length alone decides.

    Args:
        lengths: items of each history, at least 2, shape (histories,).

    Returns:
        Masked items and spans, both (histories,); at least one of each, at most a span a sentinel.
    """
    masked = np.clip(np.round(lengths * DENSITY), 1, lengths - 1)
    spans = np.clip(np.round(masked / MEAN_SPAN), 1, len(SENTINELS))
    return masked.astype(np.int64), spans.astype(np.int64)


def span_mask(length: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which items of a history are masked, shape (length,).

    Args:
        length: items of the history, at least 2.
        generator: of the draw; every way to cut kept and masked items into runs is as likely.
    """
    (masked,), (spans,) = span_counts(np.array([length]))
    kept = _runs(length - masked, spans, generator)
    runs = np.stack([kept, _runs(masked, spans, generator)], axis=1)
    return np.repeat(np.tile([False, True], spans), runs.ravel())


def _runs(total: int, count: int, generator: np.random.Generator) -> Counts:
    """Lengths of ``count`` runs, each at least 1, that make ``total`` together."""
    cuts = np.sort(generator.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(words: Sequence[str], mask: npt.NDArray[np.bool_]) -> tuple[list[str], list[str]]:
    """The words of source and target.

    Args:
        words: one for each item, oldest first.
        mask: which of them are masked, shape (items,).
    """
    source: list[str] = []
    target: list[str] = []
    numbers = iter(SENTINELS)
    before = False
    for word, masked in zip(words, mask.tolist(), strict=True):
        if masked and not before:
            sentinel = next(numbers)
            source.append(sentinel)
            target.append(sentinel)
        (target if masked else source).append(word)
        before = masked
    return source, target
