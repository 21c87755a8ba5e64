"""Which leaves of the trie a request may reach.

The leaves below a node are neighbours, so "is any legal item below this node" is a difference of
two running counts. Conditions that all requests share are counted once, whatever the size of the
catalogue; what a single request must not name is a short sorted list and costs nothing that grows
with the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from p5_t5.decoding.trie import TrieTensors

Lists = Sequence[npt.NDArray[np.int32]]


@dataclass(frozen=True)
class LegalLeaves:
    """The legal leaves of a batch of requests.

    Attributes:
        trie: whose leaves.
        counts: how many allowed leaves stand before each leaf, shape (requests or 1, items + 1);
            ``None`` where all are allowed.
        denied: ``request * (items + 1) + leaf`` for each allowed leaf that is denied to a request,
            ascending.
    """

    trie: TrieTensors
    counts: torch.Tensor | None = None
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
        return cls(trie, counts)

    def deny(self, lists: Lists) -> LegalLeaves:
        """Takes away what single requests must not name.

        Args:
            lists: catalogue rows, one list a request; an item may stand twice.

        Raises:
            ValueError: a list names what is no row of the catalogue, or a request keeps no item.
        """
        items, device = len(self.trie), self.trie.items.device
        lengths = torch.tensor([len(row) for row in lists], dtype=torch.long)
        request = torch.arange(len(lists)).repeat_interleave(lengths).to(device)
        if not len(request):
            return self
        rows = torch.from_numpy(np.concatenate(lists).astype(np.int64)).to(device)
        wrong = (rows < 0) | (rows >= items)
        if bool(wrong.any()):
            place = int(wrong.int().argmax())
            raise ValueError(
                f"the list of request {int(request[place])} names item {int(rows[place])}, "
                f"expected 0 to {items - 1}"
            )
        keys = (request * (items + 1) + self.trie.leaf_of[rows]).unique()
        request, leaf = keys // (items + 1), keys % (items + 1)
        total = torch.full((len(lists),), items, device=device)
        if self.counts is not None:
            own = request if len(self.counts) > 1 else torch.zeros_like(request)
            allowed = self.counts[own, leaf + 1] > self.counts[own, leaf]
            keys, request = keys[allowed], request[allowed]
            total = self.counts[:, -1].expand(len(lists)).long()
        empty = total == request.bincount(minlength=len(lists))
        if bool(empty.any()):
            raise ValueError(f"request {int(empty.int().argmax())} allows no item at all")
        return replace(self, denied=keys)

    def select(self, requests: npt.NDArray[np.int64]) -> LegalLeaves:
        """The leaves of some of the requests, in the given order."""
        chosen = torch.from_numpy(requests).to(self.trie.items.device)
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
        return LegalLeaves(self.trie, counts, denied)

    def check(self, requests: int) -> None:
        """Raises a ``ValueError`` unless each of so many requests has a mask."""
        if self.counts is not None and len(self.counts) not in (1, requests):
            raise ValueError(
                f"the mask of allowed items is for {len(self.counts)} requests, expected {requests}"
            )

    def below(self, request: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """Whether any legal leaf lies below a node.

        Args:
            request: numbers of requests, of a shape that expands to that of ``node``.
            node: nodes of the trie.

        Returns:
            The shape of ``node``.
        """
        begin, stop = self.trie.leaves[node].long().unbind(-1)
        if self.counts is None:
            number = stop - begin
        else:
            own = request if len(self.counts) > 1 else torch.zeros_like(request)
            number = self.counts[own, stop] - self.counts[own, begin]
        if self.denied is not None:
            first = request * (len(self.trie) + 1)
            number = number - (
                torch.searchsorted(self.denied, first + stop)
                - torch.searchsorted(self.denied, first + begin)
            )
        return number > 0
