"""T5's decoder over a growing tree of tokens.

Beams are positions of one sequence, not rows of a batch: every token that was ever read keeps its
keys and values in one store per request, and a mask says which of them are its ancestors. So the
encoder's states, and the keys and values of the cross-attention, exist once per request, and
nothing is copied when beams are chosen or dropped.
"""

from __future__ import annotations

import copy

import torch
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.encoder import Encoded
from p5_t5.decoding.layers import attend, feed_forward, normed, position_bias
from p5_t5.modeling.ragged import heads


class TreeDecoder:
    """Reads tokens that hang on a tree, for a batch of requests.

    Works for any T5, whatever its encoder adds.
    """

    def __init__(self, model: T5ForConditionalGeneration, encoded: Encoded) -> None:
        """Computes the keys and values of the cross-attention once.

        Args:
            model: the model, in evaluation mode.
            encoded: the encoder's last states.
        """
        self.decoder = model.decoder
        self.blocks = model.decoder.block
        self.cross_bias = encoded.ragged.key_bias(encoded.states.dtype)
        attentions = [block.layer[1].EncDecAttention for block in self.blocks]
        self.cross = [encoded.ragged.heads(a, encoded.states, "kv") for a in attentions]
        # Beyond this distance T5 makes no difference any more.
        first = self.blocks[0].layer[0].SelfAttention
        back = torch.arange(first.relative_attention_max_distance + 1, device=encoded.mask.device)
        self.bias_of = position_bias(first, -back, causal=True)
        self.store: list[tuple[torch.Tensor, torch.Tensor]] = []
        shape, device = (len(encoded), 0), encoded.states.device
        self.positions = torch.empty(shape, dtype=torch.long, device=device)

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
            attention = block.layer[0].SelfAttention
            entered = normed(block.layer[0].layer_norm, hidden)
            queries, keys, values = (
                heads(attention, projection(entered))
                for projection in (attention.q, attention.k, attention.v)
            )
            if self.store:
                keys = torch.cat([self.store[number][0], keys], dim=1)
                values = torch.cat([self.store[number][1], values], dim=1)
            fresh.append((keys, values))
            hidden = hidden + attention.o(attend(attention, queries, keys, values, bias))
            attention = block.layer[1].EncDecAttention
            queries = heads(attention, attention.q(normed(block.layer[1].layer_norm, hidden)))
            keys, values = self.cross[number]
            mixed = attend(attention, queries, keys, values, self.cross_bias)
            hidden = feed_forward(block.layer[2], hidden + attention.o(mixed))
        self.store = fresh
        return normed(self.decoder.final_layer_norm, hidden)

    def branch(self, columns: torch.Tensor) -> TreeDecoder:
        """A second decoder that remembers only some of the tokens read so far.

        Neither sees what the other reads from now on. The cross-attention is shared, so what a
        branch costs is the keys and values of the tokens that it takes along.

        Args:
            columns: which tokens, counted in the order of reading, shape (kept,).
        """
        other = copy.copy(self)
        other.store = [(keys[:, columns], values[:, columns]) for keys, values in self.store]
        other.positions = self.positions[:, columns]
        return other

    def select(self, rows: torch.Tensor) -> None:
        """Goes on with some of the requests only.

        Args:
            rows: their numbers, shape (kept,).
        """
        batch = len(self.positions)

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.view(batch, -1, *tensor.shape[1:])[rows].flatten(0, 1)

        self.positions = self.positions[rows]
        if self.cross_bias is not None:
            self.cross_bias = self.cross_bias[rows]
        self.store = [(kept(keys), kept(values)) for keys, values in self.store]
        self.cross = [(kept(keys), kept(values)) for keys, values in self.cross]

    def _bias(self, positions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """T5's relative position bias by depth, and what is invisible masked out.

        Returns:
            Shape (batch, heads, new, before + new).
        """
        back = (positions[:, :, None] - self.positions[:, None, :]).clamp_(0, len(self.bias_of) - 1)
        bias = self.bias_of[back].permute(0, 3, 1, 2)
        return bias.masked_fill(~visible[:, None], torch.finfo(bias.dtype).min)
