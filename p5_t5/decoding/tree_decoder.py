"""T5's decoder over a growing tree of tokens.

Beams are positions of one sequence, not rows of a batch: every token that was ever read keeps its
keys and values in one store per request, and a mask says which of them are its ancestors. So the
encoder's states, and the keys and values of the cross-attention, exist once per request, and
nothing is copied when beams are chosen or dropped.
"""

from __future__ import annotations

import copy

import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention


class TreeDecoder:
    """Reads tokens that hang on a tree, for a batch of requests.

    Works for any T5, whatever its encoder adds.
    """

    def __init__(
        self, model: T5ForConditionalGeneration, states: torch.Tensor, mask: torch.Tensor
    ) -> None:
        """Computes the keys and values of the cross-attention once.

        Args:
            model: the model, in evaluation mode.
            states: the encoder's last states, shape (batch, length, d_model).
            mask: 1 where a state counts, shape (batch, length).
        """
        self.decoder = model.decoder
        self.blocks = model.decoder.block
        dtype = states.dtype
        lowest = torch.finfo(dtype).min
        self.cross_mask = (1 - mask[:, None, None, :].to(dtype)) * lowest
        self.cross = [
            (_heads(layer.EncDecAttention, layer.EncDecAttention.k(states)),
             _heads(layer.EncDecAttention, layer.EncDecAttention.v(states)))
            for layer in (block.layer[1] for block in self.blocks)
        ]  # fmt: skip
        self.store: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.positions = torch.empty(len(states), 0, dtype=torch.long, device=states.device)

    def read(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """Reads new tokens and remembers their keys and values.

        Args:
            tokens: shape (batch, new).
            positions: each token's depth in the tree, shape (batch, new).
            visible: for each new token which tokens it sees, itself included: those read before
                in the order of reading, then the new ones; shape (batch, new, before + new).

        Returns:
            The decoder's last states, shape (batch, new, d_model).
        """
        self.positions = torch.cat([self.positions, positions], dim=1)
        bias = self._bias(positions, visible)
        hidden = self.decoder.embed_tokens(tokens)
        fresh = []
        for number, block in enumerate(self.blocks):
            layer = block.layer[0]
            attention = layer.SelfAttention
            normed = layer.layer_norm(hidden)
            keys, values = (
                _heads(attention, attention.k(normed)),
                _heads(attention, attention.v(normed)),
            )
            if self.store:
                keys = torch.cat([self.store[number][0], keys], dim=2)
                values = torch.cat([self.store[number][1], values], dim=2)
            fresh.append((keys, values))
            hidden = hidden + _attend(attention, normed, keys, values, bias)
            layer = block.layer[1]
            normed = layer.layer_norm(hidden)
            hidden = hidden + _attend(
                layer.EncDecAttention, normed, *self.cross[number], self.cross_mask
            )
            hidden = block.layer[2](hidden)
        self.store = fresh
        states: torch.Tensor = self.decoder.final_layer_norm(hidden)
        return states

    def branch(self, columns: torch.Tensor) -> TreeDecoder:
        """A second decoder that remembers only some of the tokens read so far.

        Neither sees what the other reads from now on. The cross-attention is shared, so what a
        branch costs is the keys and values of the tokens that it takes along.

        Args:
            columns: which tokens, counted in the order of reading, shape (kept,).
        """
        other = copy.copy(self)
        other.store = [(keys[:, :, columns], values[:, :, columns]) for keys, values in self.store]
        other.positions = self.positions[:, columns]
        return other

    def _bias(self, positions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """T5's relative position bias by depth, and what is invisible masked out.

        Returns:
            Shape (batch, heads, new, before + new).
        """
        attention = self.blocks[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            self.positions[:, None, :] - positions[:, :, None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias: torch.Tensor = attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)
        return bias.masked_fill(~visible[:, None], torch.finfo(bias.dtype).min)


def _heads(attention: T5Attention, projected: torch.Tensor) -> torch.Tensor:
    """(batch, length, heads * d_kv) to (batch, heads, length, d_kv)."""
    batch, length, _ = projected.shape
    shape = (batch, length, attention.n_heads, attention.key_value_proj_dim)
    return projected.view(shape).transpose(1, 2)


def _attend(
    attention: T5Attention,
    normed: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """One attention, unscaled as in T5; shapes (batch, new, d_model) in and out."""
    queries = _heads(attention, attention.q(normed))
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias, scale=1.0
    )
    batch, _, new, _ = mixed.shape
    projected: torch.Tensor = attention.o(mixed.transpose(1, 2).reshape(batch, new, -1))
    return projected
