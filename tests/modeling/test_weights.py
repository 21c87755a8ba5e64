from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.modeling.weights import example_weights

example = st.tuples(st.integers(0, 2), st.integers(1, 60), st.sampled_from([0.125, 0.5, 1.0]))
batches = st.lists(st.lists(example, min_size=1, max_size=8), min_size=1, max_size=4)


@settings(deadline=None)
@given(batches)
def test_each_task_has_its_share_of_the_tokens_of_a_step(
    step: list[list[tuple[int, int, float]]],
) -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    tasks, lengths, weights = (
        [torch.tensor(column) for column in columns]
        for columns in zip(*(zip(*batch, strict=True) for batch in step), strict=True)
    )
    sums = torch.zeros(3)
    ratios: dict[int, set[float]] = {}
    found = example_weights(tasks, lengths, weights, shares)
    for task, length, own, weight in zip(tasks, lengths, weights, found, strict=True):
        sums.index_add_(0, task, length * weight)
        for t, ratio in zip(task.tolist(), (weight / own).tolist(), strict=True):
            ratios.setdefault(t, set()).add(ratio)
    present = torch.tensor([float(t in ratios) for t in range(3)])
    assert sums.tolist() == pytest.approx((shares * present / (shares * present).sum()).tolist())
    # Within a task they are as given.
    assert all(max(own) == pytest.approx(min(own), rel=1e-4) for own in ratios.values())
