"""Batches side by side: the gradients of one after the other, whatever the threads do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.side_by_side import Batch, SideBySide

# Of the labels of three batches.
WEIGHTS = [torch.rand(shape) for shape in ((2, 5), (3, 9), (1, 30))]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
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
    sums = SideBySide(model, 0).backward(batches, WEIGHTS, 0)
    ours = taken(model)
    for batch, weights, own in zip(batches, WEIGHTS, sums, strict=True):
        loss, expected = model(**batch, weights=weights)
        loss.backward()
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(ours, taken(model), rtol=1e-3, atol=1e-6)


def test_one_step_draws_one_dropout_and_another_another() -> None:
    model, batches = made_model(0.3), made_batches()
    first, again = SideBySide(model, 0), SideBySide(model, 0)
    first.backward(batches, WEIGHTS, 7)
    seventh = taken(model)
    torch.manual_seed(99)  # the state of the program is no part of it
    again.backward(batches, WEIGHTS, 7)
    assert all(map(torch.equal, seventh, taken(model)))
    again.backward(batches, WEIGHTS, 8)
    assert not any(map(torch.equal, seventh, taken(model)))
    SideBySide(model, 1).backward(batches, WEIGHTS, 7)
    assert not any(map(torch.equal, seventh, taken(model)))


def test_as_many_threads_as_batches_change_nothing() -> None:
    """A run on one core can be gone on with on two."""
    model, batches = made_model(0.3), made_batches()
    SideBySide(model, 0).backward(batches, WEIGHTS, 0)
    two = taken(model)
    torch.set_num_threads(1)
    SideBySide(model, 0).backward(batches, WEIGHTS, 0)
    assert all(map(torch.equal, two, taken(model)))


def test_the_threads_are_given_back_even_after_an_error() -> None:
    model, batches = made_model(0.0), made_batches()
    worker = SideBySide(model, 0)
    worker.backward(batches, WEIGHTS, 0)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError):
        worker.backward(batches, [torch.zeros(0)] * 3, 0)
    assert torch.get_num_threads() == 2
