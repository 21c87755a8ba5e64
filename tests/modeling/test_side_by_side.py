"""Batches side by side: the gradients of one after the other, in threads and in processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from p5_t5.modeling import side_by_side
from p5_t5.modeling.forked import can_fork
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.side_by_side import Batch, SideBySide

# Of the labels of three batches.
WEIGHTS = [torch.rand(shape) for shape in ((2, 5), (3, 9), (1, 30))]


@pytest.fixture(
    autouse=True,
    params=[
        "threads",
        pytest.param(
            "processes",
            marks=pytest.mark.skipif(not can_fork(), reason="processes can't be forked here"),
        ),
    ],
)
def two_sides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "threads":
        monkeypatch.setattr(side_by_side, "can_fork", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made_model(dropout: float) -> P5ForConditionalGeneration:
    torch.manual_seed(0)
    config = P5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2,
        num_decoder_layers=2, decoder_start_token_id=0, dropout_rate=dropout,
    )  # fmt: skip
    return P5ForConditionalGeneration(config).train()


def made_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    batches: list[Batch] = []
    for rows, length in ((2, 5), (3, 9), (1, 30)):
        ids = torch.randint(2, 100, (rows, length), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    return batches


def taken(model: P5ForConditionalGeneration) -> list[torch.Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    model.zero_grad(set_to_none=True)
    return found


def test_the_sum_over_batches() -> None:
    model, batches = made_model(0.0), made_batches()
    sums = SideBySide(model, 0, 3).backward(batches, WEIGHTS, 0)
    ours = taken(model)
    for batch, weights, own in zip(batches, WEIGHTS, sums, strict=True):
        loss, expected = model(**batch, weights=weights)
        loss.backward()
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(ours, taken(model), rtol=1e-3, atol=1e-6)


def test_one_step_draws_one_dropout_and_another_another() -> None:
    model, batches = made_model(0.3), made_batches()
    first, again = SideBySide(model, 0, 3), SideBySide(model, 0, 3)
    first.backward(batches, WEIGHTS, 7)
    seventh = taken(model)
    torch.manual_seed(99)  # the state of the program is no part of it
    again.backward(batches, WEIGHTS, 7)
    assert all(map(torch.equal, seventh, taken(model)))
    again.backward(batches, WEIGHTS, 8)
    assert not any(map(torch.equal, seventh, taken(model)))
    SideBySide(model, 1, 3).backward(batches, WEIGHTS, 7)
    assert not any(map(torch.equal, seventh, taken(model)))


@pytest.mark.parametrize("cores", [1, 3, 5])
def test_how_many_batches_go_side_by_side_changes_nothing(cores: int) -> None:
    """A run on one core can be gone on with on two; more cores than batches do no harm."""
    model, batches = made_model(0.3), made_batches()
    SideBySide(model, 0, 3).backward(batches, WEIGHTS, 0)
    two = taken(model)
    torch.set_num_threads(cores)
    SideBySide(model, 0, 3).backward(batches, WEIGHTS, 0)
    assert all(map(torch.equal, two, taken(model)))


def test_every_side_sees_what_an_optimiser_changes_and_the_mode() -> None:
    model, batches = made_model(0.3), made_batches()
    side = SideBySide(model, 0, 3)
    side.backward(batches, WEIGHTS, 0)
    taken(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.eval()
    side.backward(batches, WEIGHTS, 0)
    found = taken(model)
    for batch, weights in zip(batches, WEIGHTS, strict=True):
        model(**batch, weights=weights)[0].backward()
    torch.testing.assert_close(found, taken(model), rtol=1e-3, atol=1e-5)


def test_the_threads_are_given_back_even_after_an_error() -> None:
    model, batches = made_model(0.0), made_batches()
    worker = SideBySide(model, 0, 3)
    worker.backward(batches, WEIGHTS, 0)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError):
        worker.backward(batches, [torch.zeros(0)] * 3, 0)
    assert torch.get_num_threads() == 2
