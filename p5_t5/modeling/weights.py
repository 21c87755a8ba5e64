"""How much each token of a step's targets counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def token_weights(
    tasks: Sequence[torch.Tensor], given: Sequence[torch.Tensor], shares: torch.Tensor
) -> list[torch.Tensor]:
    """Weights of the tokens of a step's targets, with which the loss of each task has its share.

    Args:
        tasks: of each batch the task of each example, (examples,).
        given: of each batch what each token weighs within its task, (examples, longest target), 0
            for padding.
        shares: of the tasks, (tasks,).

    Returns:
        Of each batch the weights of its tokens, (examples, longest target). Summed over all tokens
        they are 1; tasks that no example has leave their share to the others.
    """
    totals = torch.zeros_like(shares)
    for task, weights in zip(tasks, given, strict=True):
        totals.index_add_(0, task, weights.sum(1))
    present = shares * (totals > 0)
    a_task = present / present.sum() / totals.where(totals > 0, 1)
    return [a_task[task, None] * weights for task, weights in zip(tasks, given, strict=True)]
