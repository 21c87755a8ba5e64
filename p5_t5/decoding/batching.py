"""Prompts of like length together, as many at once as memory allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from transformers import T5Config

from p5_t5.decoding.trie import TrieTensors

Ints = npt.NDArray[np.int64]


def request_bytes(
    config: T5Config, trie: TrieTensors, beams: int, length: Ints, given: Ints
) -> Ints:
    """About how much memory a search holds for each request, in bytes.

    Args:
        config: the model's shape.
        trie: the item codes.
        beams: beginnings of codes kept at each level.
        length: tokens of the source, shape (requests,).
        given: tokens that the answer starts with, shape (requests,).
    """
    inner = config.num_heads * config.d_kv
    read = given + 1 + beams * trie.trie.depth
    # Keys and values of all decoder layers; states, scores and feed-forward of the one at work.
    store = 2 * config.num_decoder_layers * inner * (length + read)
    widest = np.maximum(length, read)
    working = widest * (2 * config.d_ff + 6 * config.d_model) + config.num_heads * widest**2
    # Of each candidate: node, score, parent, span and what chooses among them.
    logits = beams * max(map(len, trie.level_tokens))
    candidates = beams * trie.most_children
    total: Ints = 4 * (store + working + 2 * logits) + 64 * candidates
    return total


def batches(order: Ints, sizes: Ints, *, most: int, budget: int) -> Iterator[Ints]:
    """Cuts prompts, sorted by length, into batches that memory holds.

    Args:
        order: numbers of prompts, from short to long.
        sizes: bytes that a search holds for each prompt, in the same order, shape (prompts,).
        most: prompts a batch at most.
        budget: bytes a batch at most, but a prompt alone is always a batch.

    Returns:
        The numbers of each batch. All of a batch are padded to its longest prompt, so that counts
        for all.
    """
    begin = 0
    while begin < len(order):
        end = min(begin + most, len(order))
        largest = int(sizes[begin:end].max())
        end = min(end, begin + max(budget // largest, 1))
        yield order[begin:end]
        begin = end
