"""How much each example of a step counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def example_weights(
    tasks: Sequence[torch.Tensor], lengths: Sequence[torch.Tensor], shares: torch.Tensor
) -> list[torch.Tensor]:
    """Weights of the tokens of a step's examples, with which the loss of each task has its share.

    Within a task an example counts as the root of its target's length: by all tokens alike, as in
    T5, a list of fifty stars would leave nothing to a question about one; by examples alike, as in
    P5, a token of the list would teach next to nothing.

    Args:
        tasks: of each batch the task of each example, (examples,).
        lengths: of each batch the tokens of each target, (examples,).
        shares: of the tasks, (tasks,).

    Returns:
        Of each batch the weight of a token of each example, (examples,). Summed over all tokens
        they are 1; tasks that no example has leave their share to the others.
    """
    each = [own.clamp(min=1).to(shares.dtype).rsqrt() for own in lengths]
    totals = torch.zeros_like(shares)
    for task, own, weight in zip(tasks, lengths, each, strict=True):
        totals.index_add_(0, task, own * weight)
    present = shares * (totals > 0)
    a_task = present / present.sum() / totals.where(totals > 0, 1)
    return [a_task[task] * weight for task, weight in zip(tasks, each, strict=True)]
