"""Which parameters the optimiser moves at which rate, and which of them decay."""

from __future__ import annotations

from typing import Any

from transformers import T5ForConditionalGeneration


def parameter_groups(
    model: T5ForConditionalGeneration, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for ``torch.optim.AdamW``; each has a ``rate_scale`` for the learning rate.

    T5 doesn't divide attention scores by the root of d_kv: its queries' weights are smaller by that
    factor instead. Adam moves every weight alike, so it would turn the queries d_kv ** .5 times as
    fast as all else, and attention settles on some token before it has learnt where to look.

    Args:
        model: any T5.
        weight_decay: of matrices; the scales of the norms don't decay.
    """
    queries, matrices, scales = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            scales.append(parameter)
        elif name.endswith(".q.weight"):
            queries.append(parameter)
        else:
            matrices.append(parameter)
    slower = model.config.d_kv**-0.5
    return [
        {"params": matrices, "weight_decay": weight_decay, "rate_scale": 1.0},
        {"params": queries, "weight_decay": weight_decay, "rate_scale": slower},
        {"params": scales, "weight_decay": 0.0, "rate_scale": 1.0},
    ]
