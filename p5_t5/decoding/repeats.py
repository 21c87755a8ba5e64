"""Items that a user already has, as probable as they come again.

A compact model leaves some probability to what was there before, also where training shows nothing
twice. One number, added to the log-probability of all that a user has and fitted on validation,
makes it true on average; all items together stay as probable as they were, for certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar

from p5_t5.prompting.prompter import Prompt

if TYPE_CHECKING:
    from p5_t5.decoding.predictor import Predictor

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Had = Sequence[npt.NDArray[np.int32]]

# What a user has is neither impossible nor all that is probable, whatever float32 sums up to.
_LEAST = 1e-6
# So many examples' worth of doubt stands for the shift, and it is no larger than the second.
_PRIOR, _FURTHEST = 1.0, 20.0


def seen_probability(predictor: Predictor, prompts: Sequence[Prompt], had: Had) -> Floats:
    """How probable all that each user has is together, as the model says, shape (prompts,)."""
    _, scores = predictor.choose(prompts, [np.unique(rows).astype(np.int64) for rows in had])
    return _together(scores)


def fit_repeats(seen: Floats, again: npt.NDArray[np.bool_]) -> float:
    """What to add to the log-probability of each item that a user already has.

    Args:
        seen: the probability of all that the user has, together, shape (examples,), of a model
            that has not learnt these examples.
        again: whether it was one of these.
    """

    def loss(shift: float) -> float:
        said = np.logaddexp(np.log1p(-seen), np.log(seen) + shift)
        return float(_PRIOR * shift**2 / 2 + said.sum() - shift * again.sum())

    return float(minimize_scalar(loss, bounds=(-_FURTHEST, _FURTHEST), method="bounded").x)


def rank_again(
    predictor: Predictor,
    prompts: Sequence[Prompt],
    k: int,
    had: Had,
    allowed: torch.Tensor | None,
) -> tuple[Rows, Floats]:
    """``Predictor.rank`` where what a user has may come again, shifted by ``predictor.repeats``.

    What is new and what is not are ranked apart and put together.
    """
    own = [np.unique(rows).astype(np.int64) for rows in had]
    items = np.full((len(prompts), k + max(map(len, own), default=0)), -1, dtype=np.int64)
    scores = np.full(items.shape, -np.inf)
    every = torch.ones(len(predictor.trie), dtype=torch.bool) if allowed is None else allowed.cpu()
    masks = torch.atleast_2d(every)
    may, left = masks.expand(len(prompts), -1), masks.sum(dim=1).expand(len(prompts))
    new = [i for i, rows in enumerate(own) if left[i] > may[i, rows].sum()]
    if new:
        items[new, :k], scores[new, :k] = predictor.rank(
            [prompts[i] for i in new],
            k,
            [had[i] for i in new],
            None if allowed is None else may[new],
        )
    old = [i for i, rows in enumerate(own) if len(rows)]
    if old:
        again, found = predictor.choose([prompts[i] for i in old], [own[i] for i in old])
        total = np.log1p(_together(found) * np.expm1(predictor.repeats))[:, None]
        scores[old] -= total
        legal = (again >= 0) & np.take_along_axis(may[old].numpy(), again, axis=1)
        items[old, k:] = np.where(legal, again, -1)
        scores[old, k:] = np.where(legal, found + predictor.repeats - total, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _together(scores: Floats) -> Floats:
    """The probability of any of some items, shape (prompts,), by those of each."""
    together: Floats = np.clip(np.exp(scores).sum(axis=1), _LEAST, 1 - _LEAST)
    return together
