from __future__ import annotations

import pytest
import torch
from torch import nn

from p5_t5.modeling.dropout import ByteDropout, use_byte_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_elements_fall_independently_at_the_rate_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    dropped = ByteDropout(rate).train()(torch.ones(1000, 1000))
    zero = dropped == 0
    assert zero.float().mean().item() == pytest.approx(rate, abs=0.003)
    assert dropped.mean().item() == pytest.approx(1, abs=0.003)
    # Eight elements share one draw: none of the eight places may be treated differently.
    for place in range(8):
        assert zero.flatten()[place::8].float().mean().item() == pytest.approx(rate, abs=0.005)
    both = (zero[:, :-1] & zero[:, 1:]).float().mean().item()
    assert both == pytest.approx(rate**2, abs=0.003)


def test_gradients_fall_where_the_values_fell() -> None:
    torch.manual_seed(0)
    values = torch.ones(37, 5, requires_grad=True)
    dropped = ByteDropout(0.25).train()(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, dropped.detach())


@pytest.mark.parametrize(("rate", "training"), [(0.3, False), (0.0, True)])
def test_nothing_falls_without_training_or_rate(rate: float, training: bool) -> None:
    values = torch.randn(11, 3)
    assert torch.equal(ByteDropout(rate).train(training)(values), values)


def test_one_seed_gives_one_mask() -> None:
    layer = ByteDropout(0.5).train()
    masks = []
    for _ in range(2):
        torch.manual_seed(3)
        masks.append(layer(torch.ones(100)))
    assert torch.equal(*masks)


def test_every_dropout_below_a_module_is_replaced() -> None:
    module = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4)))
    use_byte_dropout(module)
    rates = [m.p for m in module.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.2, 0.4]
    assert all(isinstance(m, ByteDropout) for m in module.modules() if isinstance(m, nn.Dropout))
