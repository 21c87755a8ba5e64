"""Examples side by side in batches, and batches side by side in steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def like_length(rows: Rows, source: Rows, target: Rows, tokens_per_batch: int) -> list[list[int]]:
    """Batches of examples of like length, sorted by it.

    Args:
        rows: the examples, shape (examples,).
        source: tokens of each one's source, shape (examples,).
        target: and of its target.
        tokens_per_batch: a batch holds at most so many, padding included, or one example.
    """
    order = np.lexsort((source, target))
    batches: list[list[int]] = [[]]
    widest = longest = 0
    lengths = (values[order].tolist() for values in (rows, source, target))
    for row, s, t in zip(*lengths, strict=True):
        widest, longest = max(widest, s), max(longest, t)
        if batches[-1] and (widest + longest) * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
            widest, longest = s, t
        batches[-1].append(row)
    return batches


def deal(
    generator: np.random.Generator, batches: list[list[int]], batches_per_step: int
) -> list[list[list[int]]]:
    """Deals batches, sorted by length, into steps that each get short and long ones."""
    strata = np.array_split(np.arange(len(batches)), batches_per_step)
    shuffled = [generator.permutation(stratum).tolist() for stratum in strata]
    steps = []
    for s in generator.permutation(len(strata[0])).tolist():
        own = [stratum[s] for stratum in shuffled if s < len(stratum)]
        # Every process needs a batch: the last step of a pool is filled up from itself.
        filled = [own[i % len(own)] for i in range(batches_per_step)]
        steps.append([batches[i] for i in filled])
    return steps
