"""Which items a request may name, as nodes of the trie.

The leaves below a node are neighbours, so how many allowed items lie below it is a difference of
two running counts. A condition that all requests share is carried up the trie once and kept. What
single requests must not name are short lists: they shut few nodes, and what they cost doesn't grow
with the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from p5_t5.decoding.constraints import pairs
from p5_t5.decoding.trie import TrieTensors

Lists = Sequence[npt.NDArray[np.int32]]


@dataclass(frozen=True)
class LegalLeaves:
    """The legal leaves of a batch of requests.

    Attributes:
        trie: whose leaves.
        counts: how many allowed leaves stand before each leaf, shape (requests or 1, items + 1);
            ``None`` where all are allowed.
        nodes: whether an allowed leaf lies below each node, where requests share the mask, shape
            (nodes,).
        denied: ``request * (items + 1) + leaf`` for each allowed leaf that is denied to a request,
            ascending.
    """

    trie: TrieTensors
    counts: torch.Tensor | None = None
    nodes: torch.Tensor | None = None
    denied: torch.Tensor | None = None

    @classmethod
    def allow(cls, trie: TrieTensors, allowed: torch.Tensor) -> LegalLeaves:
        """Turns a mask of items into one of leaves.

        Args:
            trie: the item codes.
            allowed: True where an item may be named, shape (items,), or (requests, items) where
                requests differ.

        Raises:
            ValueError: the mask has another number of items, or a request allows none.
        """
        if allowed.dim() not in (1, 2) or allowed.shape[-1] != len(trie):
            raise ValueError(
                f"the mask of allowed items has the shape {tuple(allowed.shape)}, expected "
                f"({len(trie)},) or (requests, {len(trie)}) for a catalogue of {len(trie)} items"
            )
        leaves = torch.atleast_2d(allowed.to(trie.items.device))[:, trie.items]
        counts = torch.nn.functional.pad(leaves.cumsum(1, dtype=torch.int32), (1, 0))
        empty = counts[:, -1] == 0
        if bool(empty.any()):
            who = f"request {int(empty.int().argmax())}" if allowed.dim() == 2 else "the mask"
            raise ValueError(f"{who} allows no item at all")
        nodes = None
        if len(counts) == 1:
            begin, stop = trie.leaves.unbind(1)
            nodes = counts[0, stop] > counts[0, begin]
        return cls(trie, counts, nodes)

    def deny(self, lists: Lists) -> LegalLeaves:
        """Takes away what single requests must not name.

        Args:
            lists: catalogue rows, one list a request; an item may stand twice.

        Raises:
            ValueError: a list names what is no row of the catalogue, or a request keeps no item.
        """
        items, device = len(self.trie), self.trie.items.device
        request, rows = (column.to(device) for column in pairs(lists, items))
        if not len(request):
            return self
        leaf = self.trie.leaf_of[rows].long()
        total = torch.full((len(lists),), items, device=device)
        if self.counts is not None:
            # What isn't allowed anyway is most of it, where little is.
            counts = self.counts.flatten()
            place = leaf + (request * (items + 1) if len(self.counts) > 1 else 0)
            allowed = counts[place + 1] > counts[place]
            request, leaf = request[allowed], leaf[allowed]
            total = self.counts[:, -1].expand(len(lists)).long()
        keys = (request * (items + 1) + leaf).unique()
        request = keys // (items + 1)
        empty = total == request.bincount(minlength=len(lists))
        if bool(empty.any()):
            raise ValueError(f"request {int(empty.int().argmax())} allows no item at all")
        return replace(self, denied=keys)

    def select(self, requests: torch.Tensor) -> LegalLeaves:
        """The leaves of some of the requests, in the given order; numbers of shape (kept,)."""
        chosen = requests.to(self.trie.items.device)
        counts, denied = self.counts, self.denied
        if counts is not None and len(counts) > 1:
            counts = counts[chosen]
        if denied is not None:
            width = len(self.trie) + 1
            begin = torch.searchsorted(denied, chosen * width)
            length = torch.searchsorted(denied, (chosen + 1) * width) - begin
            new = torch.arange(len(chosen), device=chosen.device).repeat_interleave(length)
            place = torch.arange(len(new), device=chosen.device) - (length.cumsum(0) - length)[new]
            denied = denied[begin[new] + place] + (new - chosen[new]) * width
        return LegalLeaves(self.trie, counts, self.nodes, denied)

    def check(self, requests: int) -> None:
        """Raises a ``ValueError`` unless each of so many requests has a mask."""
        if self.counts is not None and len(self.counts) not in (1, requests):
            raise ValueError(
                f"the mask of allowed items is for {len(self.counts)} requests, expected {requests}"
            )

    def open(self, request: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """Whether any allowed leaf lies below a node; denied ones count as allowed.

        Args:
            request: numbers of requests, of a shape that expands to that of ``node``.
            node: nodes of the trie.

        Returns:
            The shape of ``node``.
        """
        if self.nodes is not None:
            return self.nodes[node]
        if self.counts is None:
            return torch.ones_like(node, dtype=torch.bool)
        begin, stop = self.trie.leaves[node].unbind(-1)
        return self.counts[request, stop] > self.counts[request, begin]

    def shut(self, level: int) -> Shut:
        """The nodes of one level all of whose allowed leaves are denied."""
        count = len(self.trie.token)
        if self.denied is None:
            return Shut(self.trie.items.new_empty(0, dtype=torch.long), count)
        begin, end = self.trie.trie.levels[level : level + 2].tolist()
        width = len(self.trie) + 1
        request = self.denied // width
        leaf = (self.denied - request * width).int()
        node = torch.searchsorted(self.trie.starts[begin:end], leaf, right=True) + (begin - 1)
        # A code that ended before this level has no node in it.
        has = (node >= begin) & (leaf < self.trie.leaves[node, 1])
        keys, number = (request[has] * count + node[has]).unique_consecutive(return_counts=True)
        request, node = keys // count, keys % count
        start, stop = self.trie.leaves[node].long().unbind(1)
        if self.counts is not None:
            own = request if len(self.counts) > 1 else torch.zeros_like(request)
            start, stop = self.counts[own, start], self.counts[own, stop]
        return Shut(keys[number == stop - start], count)


@dataclass(frozen=True)
class Shut:
    """Nodes that single requests must not enter.

    Attributes:
        keys: ``request * nodes + node``, ascending.
        nodes: how many nodes the trie has.
    """

    keys: torch.Tensor
    nodes: int

    @property
    def most(self) -> int:
        """The largest number of nodes that are shut to one request."""
        if not len(self.keys):
            return 0
        return int((self.keys // self.nodes).unique_consecutive(return_counts=True)[1].max())

    def holds(self, request: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """Whether nodes are shut to requests; the shape of ``node``."""
        if not len(self.keys):
            return torch.zeros_like(node, dtype=torch.bool)
        key = request * self.nodes + node
        place = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        return self.keys[place] == key
