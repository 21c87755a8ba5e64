"""The catalogue as arrays: a prefix tree of item codes.

Nodes are numbered level by level, the root is 0, and the children of a node are neighbours, so a
node needs only its token and where its children start. The leaves of a subtree are neighbours too
in the order of the codes, so "does any allowed item lie below this node" is a difference of two
running counts, for any list of items, without touching the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Trie:
    """A prefix tree over the codes of ``items`` items.

    Attributes:
        token: the token that leads to each node, -1 at the root, shape (nodes,).
        children: node ``n`` has the children ``children[n]:children[n + 1]``, shape (nodes + 1,).
        leaves: node ``n`` covers the leaves ``leaves[n, 0]:leaves[n, 1]``, shape (nodes, 2).
        items: the item of each leaf, leaves in the order of their codes, shape (items,).
        levels: level ``d`` owns the nodes ``levels[d]:levels[d + 1]``, shape (depth + 2,).
    """

    token: Ints
    children: Ints
    leaves: Ints
    items: Ints
    levels: Ints

    @property
    def depth(self) -> int:
        """Tokens of the longest code."""
        return len(self.levels) - 2

    @property
    def prefix(self) -> list[int]:
        """The tokens that every code starts with, as long as more than one item follows."""
        node, tokens = 0, []
        while len(self) > 1 and self.children[node + 1] - self.children[node] == 1:
            node = int(self.children[node])
            tokens.append(int(self.token[node]))
        return tokens

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.items)

    def save(self, path: Path) -> None:
        """Writes the arrays as safetensors, 16 bytes a node and 4 an item."""
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Trie:
        """Reads what ``save`` wrote."""
        return cls(**load_file(path))


class TrieTensors:
    """A trie on the device of a model, with the tokens that each level can ask for.

    Attributes:
        trie: the arrays on the CPU.
        token: as the trie's, shape (nodes,).
        children: as the trie's, shape (nodes + 1,).
        leaves: as the trie's, shape (nodes, 2).
        starts: the first leaf of each node, side by side for searches, shape (nodes,).
        items: as the trie's, shape (items,).
        leaf_of: the leaf of each item, shape (items,).
        level_tokens: for each level but the root's the tokens that lead to it, ascending.
        most_children: of any node.
        column: where each node's token stands among the tokens of its level, shape (nodes,).
    """

    def __init__(self, trie: Trie, device: torch.device) -> None:
        """Copies the arrays once; they stay 32 bits wide, 24 bytes a node."""
        self.trie = trie
        self.token = torch.from_numpy(trie.token).to(device)
        self.children = torch.from_numpy(trie.children).to(device)
        self.leaves = torch.from_numpy(trie.leaves).to(device)
        self.starts = self.leaves[:, 0].contiguous()
        self.items = torch.from_numpy(trie.items).to(device)
        self.leaf_of = torch.empty_like(self.items)
        self.leaf_of[self.items] = torch.arange(len(trie), dtype=torch.int32, device=device)
        self.most_children = int(np.diff(trie.children).max())
        self.level_tokens: list[torch.Tensor] = []
        self.column = torch.zeros_like(self.token)
        for level in range(1, trie.depth + 1):
            nodes = slice(int(trie.levels[level]), int(trie.levels[level + 1]))
            tokens, column = self.token[nodes].unique(return_inverse=True)
            self.column[nodes] = column.int()
            self.level_tokens.append(tokens)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.trie)


def build_trie(codes: Sequence[Sequence[int]], end: int) -> Trie:
    """Builds the tree of item codes; each code is closed with the token ``end``.

    The closing token makes a code that is the beginning of another one a leaf of its own.

    Args:
        codes: the tokens of each item, without the closing token.
        end: the closing token, ``</s>`` for an item that ends an answer.

    Raises:
        ValueError: there is no code, a code is empty, holds the closing token, or stands twice.
    """
    if not len(codes):
        raise ValueError("a trie needs at least one item code")
    lengths = np.fromiter((len(code) for code in codes), dtype=np.int64, count=len(codes))
    if lengths.min() == 0:
        raise ValueError(f"item {int(lengths.argmin())} has an empty code")
    matrix = np.full((len(codes), int(lengths.max()) + 1), -1, dtype=np.int32)
    filled = np.arange(matrix.shape[1]) < lengths[:, None]
    matrix[filled] = np.fromiter((t for code in codes for t in code), np.int32, int(lengths.sum()))
    if (matrix == end).any():
        item = int((matrix == end).any(axis=1).argmax())
        raise ValueError(f"the code of item {item} holds the closing token {end}")
    matrix[np.arange(len(codes)), lengths] = end
    return _from_matrix(matrix)


def _from_matrix(matrix: Ints) -> Trie:
    """Builds the tree of closed codes, shape (items, longest), -1 after the end."""
    order = np.lexsort(matrix.T[::-1]).astype(np.int32)
    matrix = matrix[order]
    count, depth = matrix.shape
    # fresh[i, d]: the first d + 1 tokens of code i differ from those of the code before it.
    fresh = np.ones(matrix.shape, dtype=bool)
    fresh[1:] = np.logical_or.accumulate(matrix[1:] != matrix[:-1], axis=1)
    if count > 1 and not fresh[:, -1].all():
        twin = int((~fresh[:, -1]).argmax())
        raise ValueError(f"items {order[twin - 1]} and {order[twin]} have the same code")
    tokens, spans, firsts = [np.array([-1], np.int32)], [np.array([[0, count]], np.int32)], []
    levels = [0, 1]
    parents = np.zeros(count, dtype=np.int64)
    for d in range(depth):
        alive = matrix[:, d] >= 0
        start = np.flatnonzero(fresh[:, d] & alive).astype(np.int32)
        # A node ends where the next one begins, or where its parent ends.
        bounds = np.flatnonzero(fresh[:, d] | ~alive)
        after = np.searchsorted(bounds, start, side="right")
        stop = np.append(bounds, count)[after].astype(np.int32)
        width = levels[-1] - levels[-2]
        number_of_children = np.bincount(parents[start] - levels[-2], minlength=width)
        firsts.append(levels[-1] + np.cumsum(number_of_children) - number_of_children)
        tokens.append(matrix[start, d])
        spans.append(np.stack([start, stop], axis=1))
        node = np.zeros(count, dtype=np.int64)
        node[start] = 1
        parents = levels[-1] + np.cumsum(node) - 1
        levels.append(levels[-1] + len(start))
    total = levels[-1]
    last = np.full(total - levels[-2] + 1, total)
    return Trie(
        token=np.concatenate(tokens),
        children=np.concatenate([*firsts, last]).astype(np.int32),
        leaves=np.concatenate(spans),
        items=order,
        levels=np.array(levels, dtype=np.int32),
    )
