"""How far a run is, and the learning rate there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """How far a run is; saved in every checkpoint.

    Attributes:
        step: optimiser steps done.
        seconds: time since the run began, without what lies between a stop and its resumption.
        evaluations: validations that were due so far.
        best: the best validation value, higher is better, NaN before the first.
        best_step: the step of the best value.
        waited: validations since then.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    best: float = math.nan
    best_step: int = 0
    waited: int = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds, and what processes tell each other."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state_dict`` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def judge(self, value: float) -> bool:
        """Takes note of a validation; says whether it is the best so far."""
        better = math.isnan(self.best) or value > self.best
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best, self.best_step = value, self.step
        return better


@dataclass(frozen=True)
class Schedule:
    """The limits of a run and its learning rate.

    Attributes:
        steps: most steps; infinite without a limit.
        minutes: most minutes, ``None`` without a limit.
        rate: the highest learning rate.
        warmup: the share of the run in which the rate rises.
    """

    steps: float
    minutes: float | None
    rate: float
    warmup: float

    def share(self, progress: Progress) -> float:
        """How much of the run is over, 0 to 1, by the limit that is reached first."""
        share = progress.step / self.steps
        if self.minutes is not None:
            timed = progress.seconds / (60 * self.minutes)
            # A step takes its time: until the clock is ahead by a whole one it changes nothing, so
            # that a run that ends by its steps is the same whenever it is repeated.
            if timed > (progress.step + 1) / self.steps:
                share = timed
        return min(share, 1.0)

    def learning_rate(self, share: float) -> float:
        """Linear rise, then linear fall to zero."""
        factor = share / self.warmup if share < self.warmup else (1 - share) / (1 - self.warmup)
        # The first step of a run would otherwise have no rate at all.
        return self.rate * max(factor, 1e-3)


def most_steps(max_train_steps: int | None, epochs: float | None, steps_an_epoch: int) -> float:
    """The most steps that limits in steps and in epochs allow; infinite without any."""
    limits = [math.inf if max_train_steps is None else max_train_steps]
    if epochs is not None:
        limits.append(max(round(epochs * steps_an_epoch), 1))
    return min(limits)
