"""T5's training pass, made for short sequences on a CPU.

The same sums as in transformers, with three savings: what is done to each token alone (projections,
feed-forward layers, the output layer) is done without padding; dropout draws eight elements at a
time in attention too; and the scores over the vocabulary, most of what a compact model computes,
never leave the cache, since their gradient follows from them at once.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Block,
    T5LayerNorm,
    T5Stack,
)

from p5_t5.modeling.ragged import Ragged

# Scores over the vocabulary that are held at a time.
_SCORES = 2**19
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed tensors.

    Otherwise it goes back to the system and comes again page by page, a sixth of a training step
    and as much of a search.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc allows
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def target_loss(
    model: T5ForConditionalGeneration,
    embedded: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the targets' tokens, summed with a weight for each.

    Args:
        model: any T5.
        embedded: what the encoder's first layer reads, shape (batch, length, d_model).
        attention_mask: 1 where a token counts, shape (batch, length).
        labels: the target's tokens, negative at padding, shape (batch, target length).
        weights: of the labels, shape (batch, target length).

    Returns:
        The weighted sum, a scalar with a gradient, and the plain sums of the examples, shape
        (batch,), without one.
    """
    source, target = Ragged(attention_mask), Ragged(labels >= 0)
    states = _stack(model.encoder, embedded, source)
    shifted = model.decoder.embed_tokens(model._shift_right(labels))
    hidden = _stack(model.decoder, shifted, target, states, source)
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.model_dim**-0.5
    wanted, each = (target.pack(rows[..., None]).flatten() for rows in (labels, weights))
    example = torch.arange(len(labels), device=labels.device)
    example = target.pack(example[:, None, None].expand(*labels.shape, 1)).flatten()
    # Padding that was not left out weighs nothing.
    counts = (wanted >= 0).to(hidden.dtype)
    each = each.to(hidden.dtype) * counts
    loss, losses = cross_entropy(hidden, model.lm_head.weight, wanted.clamp(min=0), each)
    return loss, losses.new_zeros(len(labels)).index_add_(0, example, losses * counts)


def _stack(
    stack: T5Stack,
    embedded: torch.Tensor,
    tokens: Ragged,
    states: torch.Tensor | None = None,
    source: Ragged | None = None,
) -> torch.Tensor:
    """An encoder, or a decoder over an encoder's ``states``; the last states, (tokens, d_model)."""
    first: T5Attention = stack.block[0].layer[0].SelfAttention
    bias = first.compute_bias(tokens.length, tokens.length)
    if states is None or source is None:
        padding = tokens.key_bias(bias.dtype)
        bias, cross = bias if padding is None else bias + padding, None
    else:
        # Padding stands at the end, where no token that counts looks.
        future = torch.full_like(bias[0, 0], torch.finfo(bias.dtype).min).triu_(1)
        bias, cross = bias + future, source.key_bias(bias.dtype)
    hidden = stack.dropout(tokens.pack(embedded))
    for block in stack.block:
        hidden = _self_attention(block, hidden, tokens, bias)
        if states is not None and source is not None:
            hidden = _cross_attention(block, hidden, tokens, states, source, cross)
        last = block.layer[-1]
        written = last.DenseReluDense(normed(last.layer_norm, hidden))
        hidden = hidden + last.dropout(written)
    last_states: torch.Tensor = stack.dropout(normed(stack.final_layer_norm, hidden))
    return last_states


def _self_attention(
    block: T5Block, hidden: torch.Tensor, tokens: Ragged, bias: torch.Tensor
) -> torch.Tensor:
    layer = block.layer[0]
    attention, entered = layer.SelfAttention, normed(layer.layer_norm, hidden)
    queries, keys, values = tokens.heads(attention, entered, "qkv")
    mixed = _attend(attention, layer.dropout, queries, keys, values, bias)
    return hidden + _dropped(layer, attention.o(tokens.pack(mixed)))


def _cross_attention(
    block: T5Block,
    hidden: torch.Tensor,
    tokens: Ragged,
    states: torch.Tensor,
    source: Ragged,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    layer = block.layer[1]
    attention = layer.EncDecAttention
    (queries,) = tokens.heads(attention, normed(layer.layer_norm, hidden), "q")
    keys, values = source.heads(attention, states, "kv")
    mixed = _attend(attention, layer.dropout, queries, keys, values, bias)
    return hidden + _dropped(layer, attention.o(tokens.pack(mixed)))


def _dropped(layer: Any, written: torch.Tensor) -> torch.Tensor:
    dropped: torch.Tensor = layer.dropout(written)
    return dropped


def _attend(
    attention: T5Attention,
    dropout: Callable[[torch.Tensor], torch.Tensor],
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with T5's unscaled scores, before its output projection.

    Args:
        attention: says how many heads there are.
        dropout: of the attention's shares; T5 has one rate for all.
        queries: shape (batch * heads, queries, d_kv).
        keys: shape (batch * heads, keys, d_kv).
        values: like the keys.
        bias: is added to the scores; expands to (batch, heads, queries, keys).

    Returns:
        Shape (batch, queries, heads * d_kv).
    """
    count, new, width = queries.shape
    shape = (count // attention.n_heads, attention.n_heads, new)
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(*shape, -1)
    if bias is not None:
        scores = scores.add_(bias)
    shares = dropout(scores.softmax(-1)).view(count, new, -1)
    mixed = torch.bmm(shares, values).view(*shape, width)
    return mixed.transpose(1, 2).reshape(shape[0], new, -1)


def normed(norm: T5LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    """T5's root mean square norm over the last dimension of (tokens, d_model)."""
    if norm.weight.dtype != torch.float32 or hidden.dtype != torch.float32:
        scaled: torch.Tensor = norm(hidden)
        return scaled
    apply: Any = _Norm.apply
    written: torch.Tensor = apply(hidden, norm.weight, norm.variance_epsilon)
    return written


class _Norm(torch.autograd.Function):
    """The norm with the fewest passes over the data, both ways."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> Any:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = length.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        scaled = hidden * scale
        ctx.save_for_backward(scaled, weight, scale)
        return scaled * weight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        scaled, weight, scale = ctx.saved_tensors
        product = gradient * scaled
        for_weight = product.sum(0)
        along = (product @ weight).div_(-scaled.shape[-1])[:, None]
        for_hidden = torch.addcmul(gradient * weight, scaled, along).mul_(scale)
        return for_hidden, for_weight, None


def cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of an output layer, summed with a weight for each token.

    Args:
        hidden: shape (tokens, d_model).
        weight: of the output layer, shape (vocabulary, d_model).
        labels: shape (tokens,).
        weights: shape (tokens,); no gradient.

    Returns:
        The weighted sum, and each token's own without a gradient, shape (tokens,).
    """
    if hidden.device.type == "cpu" and hidden.dtype == weight.dtype == torch.float32:
        apply: Any = _CrossEntropy.apply
        loss, losses = apply(hidden, weight, labels, weights)
        return loss, losses
    logits = functional.linear(hidden, weight).float()
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (losses * weights).sum(), losses.detach()


class _CrossEntropy(torch.autograd.Function):
    """A few tokens at a time: their scores, their losses, and at once their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
    ) -> Any:
        few = max(_SCORES // len(weight), 32)
        room = hidden.new_empty(min(few, len(hidden)), len(weight))
        for_hidden, for_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        losses = hidden.new_empty(len(hidden))
        for begin in range(0, len(hidden), few):
            own = slice(begin, begin + few)
            label, part = labels[own, None], hidden[own]
            scores = torch.mm(part, weight.t(), out=room[: len(part)])
            highest = scores.amax(1, keepdim=True)
            wanted = scores.gather(1, label)
            total = scores.sub_(highest).exp_().sum(1, keepdim=True)
            losses[own] = (total.log() + highest - wanted).squeeze(1)
            # From here on the scores are their own gradient.
            each = weights[own, None]
            scores.mul_(each / total).scatter_add_(1, label, -each)
            torch.mm(scores, weight, out=for_hidden[own])
            for_weight.addmm_(scores.t(), part)
        ctx.save_for_backward(for_hidden, for_weight)
        ctx.mark_non_differentiable(losses)
        return losses.dot(weights), losses

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> Any:
        for_hidden, for_weight = ctx.saved_tensors
        return for_hidden * gradient, for_weight * gradient, None, None
