"""The training pass against transformers' own: the same loss, the same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.training import cross_entropy, keep_freed_memory

Gradients = dict[str, torch.Tensor]


def made_model(**options: object) -> P5ForConditionalGeneration:
    torch.manual_seed(0)
    config = P5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2,
        num_decoder_layers=3, decoder_start_token_id=0, dropout_rate=0.0, **options,
    )  # fmt: skip
    model = P5ForConditionalGeneration(config)
    model.set_word_starts(np.arange(300) % 2 == 1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and word embeddings away from one and nought, attention away from even.
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.train()


def made_batch(lengths: list[int], targets: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 300, (len(lengths), max(lengths)), generator=generator)
    labels = torch.randint(1, 300, (len(targets), max(targets)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels[torch.arange(max(targets)) >= torch.tensor(targets)[:, None]] = -100
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels}


def by_transformers(
    model: P5ForConditionalGeneration, batch: dict[str, torch.Tensor], weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Gradients]:
    model.zero_grad()
    logits = model(**batch).logits
    labels = batch["labels"]
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    loss = (losses.view_as(labels) * weights).sum()
    loss.backward()
    return loss, losses.view_as(labels).sum(1), gradients(model)


def gradients(model: P5ForConditionalGeneration) -> Gradients:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_lm_head": True},
        {"feed_forward_proj": "gated-gelu", "whole_word_embeddings": False},
    ],
)
@pytest.mark.parametrize(
    ("lengths", "targets"),
    [
        ([9, 9, 9], [4, 4, 4]),
        ([40, 3, 11, 5], [2, 30, 7, 1]),
        ([20] * 15 + [19], [12] * 15 + [11]),  # too little padding to be left out
        ([300], [90]),
    ],
)
def test_loss_and_gradients_are_those_of_transformers(
    options: dict[str, object], lengths: list[int], targets: list[int]
) -> None:
    model, batch = made_model(**options), made_batch(lengths, targets)
    weights = torch.linspace(0.1, 1.3, len(lengths))[:, None].repeat(1, max(targets))
    weights[:, 1:-1:3] *= 0.2
    loss, sums, expected = by_transformers(model, batch, weights)
    model.zero_grad()
    own_loss, own_sums = model(**batch, weights=weights)
    own_loss.backward()
    torch.testing.assert_close(own_loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_sums, sums, rtol=1e-5, atol=1e-5)
    assert not own_sums.requires_grad
    for name, gradient in gradients(model).items():
        apart = (gradient - expected[name]).abs().max() / expected[name].abs().max()
        assert apart < 3e-5, name  # of float32


def test_dropout_is_drawn_in_every_layer() -> None:
    """With a rate, two passes differ, and on the mean of many the rate does no harm."""
    model, batch = made_model(), made_batch([12, 7], [5, 9])
    weights = torch.ones(2, 9)
    plain, _ = model(**batch, weights=weights)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.05
    with torch.no_grad():
        losses = torch.stack([model(**batch, weights=weights)[0] for _ in range(200)])
        assert losses.std() > 0.001 * plain.item()
        torch.testing.assert_close(losses.mean(), plain, rtol=0.05, atol=0)
        model.eval()
        assert torch.equal(*(model(**batch, weights=weights)[0] for _ in range(2)))


def test_cross_entropy_in_parts_is_torchs() -> None:
    """More tokens than are held at a time, with very large scores among them."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(150, 8, generator=generator)
    hidden[3] *= 1000
    weight = torch.randn(9000, 8, generator=generator)
    labels = torch.randint(0, 9000, (150,), generator=generator)
    weights = torch.rand(150, generator=generator)
    found, expected = [], []
    for own in (True, False):
        h, w = (tensor.clone().requires_grad_() for tensor in (hidden, weight))
        if own:
            loss, losses = cross_entropy(h, w, labels, weights)
        else:
            losses = functional.cross_entropy(h @ w.t(), labels, reduction="none")
            loss = (losses * weights).sum()
        (3 * loss).backward()
        (found if own else expected).extend([loss, losses, h.grad, w.grad])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_memory_can_be_kept_on_any_system() -> None:
    """Whatever the C library: nothing is raised and tensors are made as before."""
    keep_freed_memory()
    assert torch.ones(2**22).sum() == 2**22
