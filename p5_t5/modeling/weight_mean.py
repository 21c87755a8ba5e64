"""The mean of a model's weights over the newest part of its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.swa_utils import AveragedModel

from p5_t5.modeling.p5 import P5ForConditionalGeneration

# About the newest tenth of the steps counts.
_PARTS = 10


class WeightMean(AveragedModel):
    """A copy of a model, ``module``, whose weights are the mean of its newest ones.

    While the learning rate is high the weights of a step lie around the ones that the tasks have in
    common, each step's on another side. The mean over a part of the steps so far (polynomial
    averaging, Shamir and Zhang, ICML 2013) is good for all tasks wherever a run is judged or ends.
    """

    module: P5ForConditionalGeneration

    def __init__(self, model: P5ForConditionalGeneration) -> None:
        """Copies the model; ``update_parameters(model)`` is for after each step."""
        super().__init__(model, multi_avg_fn=_newest)


def _newest(
    means: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], steps: torch.Tensor | int
) -> None:
    """Takes one more step's weights into the means, where they lie."""
    share = _PARTS / (_PARTS + torch.as_tensor(steps))
    for mean, own in zip(means, weights, strict=True):
        mean.lerp_(own, share.to(mean))
