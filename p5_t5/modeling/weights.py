"""How much each example of a step counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def example_weights(
    tasks: Sequence[torch.Tensor],
    lengths: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    shares: torch.Tensor,
) -> list[torch.Tensor]:
    """Weights of the tokens of a step's examples, with which the loss of each task has its share.

    Args:
        tasks: of each batch the task of each example, (examples,).
        lengths: of each batch the tokens of each target, (examples,).
        given: of each batch what a token of each example weighs within its task, (examples,).
        shares: of the tasks, (tasks,).

    Returns:
        Of each batch the weight of a token of each example, (examples,). Summed over all tokens
        they are 1; tasks that no example has leave their share to the others.
    """
    totals = torch.zeros_like(shares)
    for task, length, weight in zip(tasks, lengths, given, strict=True):
        totals.index_add_(0, task, length * weight.to(shares.dtype))
    present = shares * (totals > 0)
    a_task = present / present.sum() / totals.where(totals > 0, 1)
    return [a_task[task] * weight for task, weight in zip(tasks, given, strict=True)]
