"""T5's layers in evaluation mode, made for short sequences on a CPU.

torch's fused attention spends most of its time on overhead where a request has twenty queries and
fifty keys, as it has here; two batched matrix products take half as long. Where the scores would
be large, and on other devices, the fused attention is used.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5DenseActDense,
    T5LayerFF,
    T5LayerNorm,
)

# Scores of one batch, in elements, up to which two matrix products are the faster way.
_FEW_SCORES = 2**22


def attend(
    attention: T5Attention,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """One attention with T5's unscaled scores, before its output projection.

    Args:
        attention: says how many heads there are.
        queries: shape (batch * heads, queries, d_kv).
        keys: shape (batch * heads, keys, d_kv).
        values: like the keys.
        bias: is added to the scores; expands to (batch, heads, queries, keys).

    Returns:
        Shape (batch, queries, heads * d_kv).
    """
    count, new, width = queries.shape
    shape = (count // attention.n_heads, attention.n_heads)
    size = count * new * keys.shape[1]
    if queries.device.type == "cpu" and size <= _FEW_SCORES:
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if bias is not None:
            scores.view(*shape, new, -1).add_(bias)
        mixed = torch.bmm(scores.softmax(-1), values).view(*shape, new, width)
    else:
        mixed = functional.scaled_dot_product_attention(
            queries.view(*shape, new, width),
            keys.view(*shape, -1, width),
            values.view(*shape, -1, width),
            attn_mask=bias,
            scale=1.0,
        )
    return mixed.transpose(1, 2).reshape(shape[0], new, -1)


def normed(norm: T5LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    """T5's root mean square norm over the last dimension, in two passes over the data."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    mean = length.square_().div_(hidden.shape[-1])
    scale = mean.add_(norm.variance_epsilon).rsqrt_()
    scaled: torch.Tensor = (hidden * scale.to(hidden.dtype)).mul_(norm.weight)
    return scaled


def feed_forward(layer: T5LayerFF, hidden: torch.Tensor) -> torch.Tensor:
    """A feed-forward layer with its residual connection, shape (..., d_model) in and out."""
    dense = layer.DenseReluDense
    entered = normed(layer.layer_norm, hidden)
    if isinstance(dense, T5DenseActDense) and isinstance(dense.act, torch.nn.ReLU):
        written: torch.Tensor = dense.wo(dense.wi(entered).relu_())
    else:
        written = dense(entered)
    return hidden + written


def position_bias(attention: T5Attention, relative: torch.Tensor, causal: bool) -> torch.Tensor:
    """T5's learnt bias for how far a key stands from a query.

    Args:
        attention: a stack's first self-attention, which holds the table.
        relative: position of the key minus that of the query, any shape.
        causal: whether keys after the query don't count, as in a decoder.

    Returns:
        The shape of ``relative`` and the heads as a last dimension.
    """
    buckets = attention._relative_position_bucket(
        relative,
        bidirectional=not causal,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: torch.Tensor = attention.relative_attention_bias(buckets)
    return bias
