"""T5's encoder without padding: what a search reads of a request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.layers import attend, feed_forward, normed, position_bias
from p5_t5.modeling.p5 import P5Encoder
from p5_t5.modeling.ragged import Ragged

# Scores of one attention, in elements, that a part of a batch may have: they stay in the cache.
_FEW_SCORES = 2**20


@dataclass(frozen=True)
class Encoded:
    """The encoder's last states of a batch of requests.

    Attributes:
        states: shape (tokens, d_model), padding left out where there is much of it.
        mask: 1 where a token counts, shape (batch, length).
        ragged: where the tokens stand.
    """

    states: torch.Tensor
    mask: torch.Tensor
    ragged: Ragged

    @classmethod
    def of(cls, states: torch.Tensor, mask: torch.Tensor) -> Encoded:
        """What another encoder gave, shapes (batch, length, d_model) and (batch, length)."""
        ragged = Ragged(mask)
        return cls(ragged.pack(states), mask, ragged)

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self.mask)


@torch.no_grad()
def encode(
    model: T5ForConditionalGeneration, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> Encoded:
    """Runs the encoder of any T5, as the model itself does in evaluation mode.

    Args:
        model: whose encoder runs; P5's adds the embedding of whole words.
        input_ids: shape (batch, length).
        attention_mask: 1 where a token counts, shape (batch, length).
    """
    parts = _alike(attention_mask, model.config.num_heads)
    if len(parts) == 1:
        return _encode(model, input_ids, attention_mask)
    states = attention_mask.new_zeros(
        *attention_mask.shape, model.config.d_model, dtype=model.dtype
    )
    for rows, length in parts:
        part = _encode(model, input_ids[rows, :length], attention_mask[rows, :length])
        states[rows, :length] = part.ragged.unpack(part.states)
    return Encoded.of(states, attention_mask)


def _alike(mask: torch.Tensor, heads: int) -> list[tuple[torch.Tensor, int]]:
    """Rows of like length together, so that a long one doesn't pad all others.

    Args:
        mask: 1 where a token counts, shape (batch, length).
        heads: of an attention.

    Returns:
        The rows of each part and the length that holds their tokens. Attention over a part has
        few scores, as far as more than one row has.
    """
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths, order = (mask * place).amax(1).sort()
    parts, end = [], len(mask)
    while end > 0:
        length = max(int(lengths[end - 1]), 1)
        begin = max(end - max(_FEW_SCORES // (heads * length**2), 1), 0)
        parts.append((order[begin:end], length))
        end = begin
    return parts


def _encode(
    model: T5ForConditionalGeneration, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> Encoded:
    """Encodes rows of like length."""
    encoder = model.get_encoder()
    embed = encoder.embed if isinstance(encoder, P5Encoder) else encoder.embed_tokens
    ragged = Ragged(attention_mask)
    encoded = Encoded(ragged.pack(embed(input_ids)), attention_mask, ragged)
    hidden = encoded.states
    place = torch.arange(ragged.length, device=hidden.device)
    first = encoder.block[0].layer[0].SelfAttention
    bias = position_bias(first, place[None, :] - place[:, None], causal=False).permute(2, 0, 1)
    if (padding := ragged.key_bias(hidden.dtype)) is not None:
        bias = bias + padding  # (batch, heads, length, length)
    for block in encoder.block:
        attention = block.layer[0].SelfAttention
        entered = normed(block.layer[0].layer_norm, hidden)
        queries, keys, values = ragged.heads(attention, entered, "qkv")
        mixed = ragged.pack(attend(attention, queries, keys, values, bias))
        hidden = feed_forward(block.layer[1], hidden + attention.o(mixed))
    return Encoded(normed(encoder.final_layer_norm, hidden), attention_mask, ragged)
