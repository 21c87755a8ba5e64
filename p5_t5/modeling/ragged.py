"""Sequences of different lengths without padding, for what is done to each token alone.

Projections, norms, feed-forward and output layers need no padding; attention does.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.models.t5.modeling_t5 import T5Attention

# Leaving padding out costs a copy at each attention: less padding than this share stays.
_LITTLE_PADDING = 0.05


class Ragged:
    """Where the tokens of a padded batch stand, to lay them side by side and back."""

    def __init__(self, mask: torch.Tensor) -> None:
        """Finds the tokens that are kept.

        Args:
            mask: 1 where a token counts, shape (batch, length).
        """
        self.batch, self.length = mask.shape
        self.mask = mask.bool()
        real = self.mask.flatten().nonzero().flatten()
        self.real = real if len(real) < (1 - _LITTLE_PADDING) * mask.numel() else None
        self.full = len(real) == mask.numel()

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, length, ...) to (tokens, ...), without padding where there is much of it."""
        flat = padded.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(tokens, width) to (batch, length, width), zero at padding that was left out."""
        if self.real is not None:
            padded = packed.new_zeros(self.batch * self.length, packed.shape[1])
            packed = padded.index_copy_(0, self.real, packed)
        return packed.view(self.batch, self.length, -1)

    def heads(
        self, attention: T5Attention, packed: torch.Tensor, names: str
    ) -> tuple[torch.Tensor, ...]:
        """Projections of (tokens, d_model), each (batch * heads, length, d_kv), zero at padding.

        Args:
            attention: has the projections.
            packed: what enters them.
            names: which of q, k and v; all are one product and one copy.
        """
        weights = [getattr(attention, name).weight for name in names]
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        padded = self.unpack(functional.linear(packed, whole))
        width = attention.key_value_proj_dim
        split = padded.view(self.batch, self.length, len(names), attention.n_heads, width)
        apart = split.permute(2, 0, 3, 1, 4).reshape(len(names), -1, self.length, width)
        return apart.unbind()

    def key_bias(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Masks padding among the keys, shape (batch, 1, 1, length); nothing if there is none."""
        if self.full:
            return None
        bias = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
        return bias.masked_fill_(~self.mask, torch.finfo(dtype).min)[:, None, None, :]


def heads(attention: T5Attention, projected: torch.Tensor) -> torch.Tensor:
    """(batch, length, heads * d_kv) to (batch * heads, length, d_kv)."""
    batch, length, _ = projected.shape
    split = projected.view(batch, length, attention.n_heads, attention.key_value_proj_dim)
    return split.transpose(1, 2).reshape(-1, length, attention.key_value_proj_dim)
