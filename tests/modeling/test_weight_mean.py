"""The mean of the newest weights."""

from __future__ import annotations

import pytest
import torch

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.weight_mean import WeightMean

SHAPE = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}


def small_model() -> P5ForConditionalGeneration:
    return P5ForConditionalGeneration(P5Config(vocab_size=20, **SHAPE))


@torch.no_grad()
def step(model: P5ForConditionalGeneration, mean: WeightMean, value: float) -> None:
    for parameter in model.parameters():
        parameter.fill_(value)
    mean.update_parameters(model)


def values(model: P5ForConditionalGeneration) -> set[float]:
    return {value for p in model.parameters() for value in p.flatten().tolist()}


def test_the_first_step_is_the_mean_of_one_step() -> None:
    model = small_model()
    mean = WeightMean(model)
    step(model, mean, 3)
    assert values(mean.module) == {3}


@pytest.mark.parametrize("steps", [20, 200, 1000])
def test_it_lags_behind_by_a_share_of_the_steps_however_many_they_are(steps: int) -> None:
    model = small_model()
    mean = WeightMean(model)
    for number in range(steps):
        step(model, mean, number)
    assert values(model) == {steps - 1}  # which it does not touch
    (found,) = values(mean.module)
    assert steps / 13 < steps - 1 - found < steps / 10


def test_output_and_input_embeddings_stay_one() -> None:
    mean = WeightMean(
        P5ForConditionalGeneration(P5Config(vocab_size=20, tie_lm_head=True, **SHAPE))
    )
    assert mean.module.lm_head.weight is mean.module.shared.weight


def test_it_goes_on_from_what_was_saved() -> None:
    model = small_model()
    whole, stopped = WeightMean(model), WeightMean(model)
    for number in range(5):
        step(model, whole, number)
        stopped.update_parameters(model)
    resumed = WeightMean(small_model())
    resumed.load_state_dict(stopped.state_dict())
    for number in range(5):
        step(model, whole, -number)
        resumed.update_parameters(model)
    assert values(resumed.module) == values(whole.module)
