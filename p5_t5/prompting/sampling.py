"""How many examples of each task an epoch holds, and how its rows are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import PromptTemplate

Rows = npt.NDArray[np.int64]


def counts_by_share(shares: npt.NDArray[np.float64], total: int) -> Rows:
    """Shares that sum to one as numbers of examples, at least one each, shape (tasks,)."""
    counts: Rows = np.maximum(np.round(shares * total), 1).astype(np.int64)
    return counts


def counts_by_source_row(
    tasks: Sequence[Task], templates: Sequence[Sequence[PromptTemplate]], split: Split
) -> Rows:
    """The examples of P5's program: fixed numbers for each source row, shape (tasks,).

    A source row is a user for tasks with ``user_examples``, where each kind of answer that any
    template asks for adds its number, if that program has the kind; for other tasks it is an
    interaction, with one example.

    Args:
        tasks: what is taught.
        templates: for each task those that training can draw.
        split: the data.
    """
    counts = []
    for task, own in zip(tasks, templates, strict=True):
        rows = [task.examples(split, "train", template.needs)[0] for template in own]
        if task.user_examples:
            kinds = {template.answer for template in own}
            users = max(len(np.unique(asked)) for asked in rows)
            counts.append(users * sum(task.user_examples.get(kind, 0) for kind in kinds))
        else:
            counts.append(max(map(len, rows)))
    return np.array(counts, dtype=np.int64)


def draw_rows(generator: np.random.Generator, size: int, count: int) -> Rows:
    """``count`` of ``size`` rows in a drawn order: all of them before any comes again."""
    rounds = [generator.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate([np.empty(0, dtype=np.int64), *rounds])[:count]


def draw_users(generator: np.random.Generator, users: Rows, count: int) -> Rows:
    """``count`` rows: all users before any comes again, for each one of the own rows.

    Args:
        generator: draws them.
        users: the user of each row, ascending.
        count: how many.

    Returns:
        Indices into ``users``, shape (count,).
    """
    _, first, sizes = np.unique(users, return_index=True, return_counts=True)
    chosen = draw_rows(generator, len(first), count)
    return first[chosen] + generator.integers(0, sizes[chosen])


def list_weights(users: Rows, positions: Rows, longest: int) -> npt.NDArray[np.float64]:
    """How often rows are drawn, against each other, for prompts that answer a whole list at once.

    A list ends at a user's newest row, or, where it holds less than all of a user, at any that
    fills it: ended anywhere, it would seldom have the newest interactions among its answers, which
    are nearest to what will be asked. It is drawn so often that every row is told alike.

    Args:
        users: the user of each row, ascending.
        positions: how many interactions the user has before each row.
        longest: a list holds at most so many.

    Returns:
        Shape (rows,).
    """
    _, which, sizes = np.unique(users, return_inverse=True, return_counts=True)
    newest = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(newest, which, positions)
    full = positions >= np.minimum(newest, longest)[which]
    lists = np.bincount(which, weights=full)
    weights: npt.NDArray[np.float64] = full * (np.maximum(sizes / longest, 1) / lists)[which]
    return weights


def draw_weighted(
    generator: np.random.Generator, weights: npt.NDArray[np.float64], count: int
) -> Rows:
    """``count`` rows in a drawn order, each as often as its share says, rounded up or down."""
    ends = np.cumsum(weights)
    points = (np.arange(count) + generator.random()) * (ends[-1] / max(count, 1))
    # The last point can be rounded to the very end.
    rows = np.minimum(np.searchsorted(ends, points, side="right"), len(weights) - 1)
    return generator.permutation(rows)
