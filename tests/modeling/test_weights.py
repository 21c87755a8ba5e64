from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.modeling.weights import example_weights

batches = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(batches)
def test_each_task_has_its_share_of_the_tokens_of_a_step(
    step: list[list[tuple[int, int]]],
) -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    tasks = [torch.tensor([task for task, _ in batch]) for batch in step]
    lengths = [torch.tensor([length for _, length in batch]) for batch in step]
    sums = torch.zeros(3)
    roots: dict[int, set[float]] = {}
    for task, length, weight in zip(
        tasks, lengths, example_weights(tasks, lengths, shares), strict=True
    ):
        sums.index_add_(0, task, length * weight)
        for t, ratio in zip(task.tolist(), (weight * length.sqrt()).tolist(), strict=True):
            roots.setdefault(t, set()).add(round(ratio, 5))
    present = torch.tensor([float(t in roots) for t in range(3)])
    assert sums.tolist() == pytest.approx((shares * present / (shares * present).sum()).tolist())
    assert all(len(own) == 1 or max(own) - min(own) < 1e-4 for own in roots.values())
