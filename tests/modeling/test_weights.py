from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from p5_t5.modeling.weights import token_weights

tokens = st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0]), min_size=1, max_size=20)
# The last token, the end, is always learnt.
example = st.tuples(st.integers(0, 2), tokens.map(lambda row: [*row, 0.5]))
batches = st.lists(st.lists(example, min_size=1, max_size=8), min_size=1, max_size=4)


@settings(deadline=None)
@given(batches)
def test_each_task_has_its_share_of_the_tokens_of_a_step(
    step: list[list[tuple[int, list[float]]]],
) -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    tasks = [torch.tensor([task for task, _ in batch]) for batch in step]
    weights = [
        pad_sequence([torch.tensor(row) for _, row in batch], batch_first=True) for batch in step
    ]
    sums = torch.zeros(3)
    ratios: dict[int, list[float]] = {}
    for task, own, found in zip(tasks, weights, token_weights(tasks, weights, shares), strict=True):
        assert found.shape == own.shape
        assert torch.equal(found > 0, own > 0)
        sums.index_add_(0, task, found.sum(1))
        for t, before, after in zip(task.tolist(), own, found, strict=True):
            ratios.setdefault(t, []).extend((after[before > 0] / before[before > 0]).tolist())
    present = torch.tensor([float(t in ratios) for t in range(3)])
    assert sums.tolist() == pytest.approx((shares * present / (shares * present).sum()).tolist())
    # Within a task they are as given.
    assert all(max(own) == pytest.approx(min(own), rel=1e-4) for own in ratios.values())
