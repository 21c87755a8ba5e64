"""The true log-probability of every item: what a search is measured against.

A search keeps a few beginnings of codes and may lose an item that it never came to. Here nothing
is lost: the whole trie is walked, subtree by subtree, the same nodes for all requests at once, so
that a catalogue of any size needs no more memory than a chunk of its nodes and the scores
themselves. The encoder and the keys and values of the cross-attention are computed once a request,
and each node is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.beam_search import output_logits, read_start, settles
from p5_t5.decoding.encoder import encode
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors

_NEVER = float("-inf")
# Nodes of one chunk are keys to each other, if masked ones: a wide chunk of a single request would
# spend most of its time on pairs that don't see each other.
_WIDEST = 128


@torch.no_grad()
def exact_scores(
    model: T5ForConditionalGeneration,
    trie: TrieTensors,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    given: Sequence[Sequence[int]] | None = None,
    over_vocabulary: bool = False,
    nodes_per_chunk: int = 1024,
) -> torch.Tensor:
    """The log-probability of every item, as a search with a beam for each of them reports it.

    Args:
        model: any T5, in evaluation mode.
        trie: the item codes.
        input_ids: shape (requests, length).
        attention_mask: shape (requests, length).
        given: tokens that each answer starts with, read before the first token of a code.
        over_vocabulary: score over all tokens instead of the legal ones.
        nodes_per_chunk: the most nodes that are read at once, all requests together, but no fewer
            than one a request. It changes time and memory, and no score.

    Returns:
        Shape (requests, items). Their exponentials sum to one, unless ``over_vocabulary``.

    Raises:
        ValueError: ``nodes_per_chunk`` is below 1.
    """
    if nodes_per_chunk < 1:
        raise ValueError(f"nodes_per_chunk must be at least 1, not {nodes_per_chunk}")
    requests, device = len(input_ids), model.device
    decoder = TreeDecoder(model, encode(model, input_ids, attention_mask))
    hidden, positions, sees = read_start(model, decoder, given, requests)
    root = _Chunk(
        node=torch.zeros(1, dtype=torch.long, device=device),
        score=torch.zeros(requests, 1, device=device),
        hidden=hidden,
        sees=torch.empty(1, 0, dtype=torch.bool, device=device),
        decoder=decoder,
    )
    scores = torch.full((requests, len(trie.trie)), _NEVER, device=device)
    width = min(max(1, nodes_per_chunk // requests), _WIDEST)
    _Walk(model, trie, positions, sees, over_vocabulary, width, scores).below(root, 0)
    return scores


@dataclass(frozen=True)
class _Chunk:
    """Nodes of one level that have been read, the same for all requests.

    Attributes:
        node: shape (nodes,).
        score: the log-probability of each node, shape (requests, nodes).
        hidden: the decoder's last states, shape (requests, nodes, d_model).
        sees: which of the nodes that ``decoder`` remembers stand on the way from the root to each
            node, itself included, shape (nodes, remembered).
        decoder: remembers the start of the answers, then the ancestors, then the nodes.
    """

    node: torch.Tensor
    score: torch.Tensor
    hidden: torch.Tensor
    sees: torch.Tensor
    decoder: TreeDecoder


@dataclass(frozen=True)
class _Walk:
    """A walk over the whole trie, depth first, so that each level holds one chunk at a time.

    Attributes:
        model: any T5.
        trie: the item codes.
        positions: the position of each answer's last given token, shape (requests,).
        start: which given tokens count, shape (requests, 1, given).
        over_vocabulary: score over all tokens.
        width: the most nodes that are read at once, for each request.
        scores: where the items' scores are written, shape (requests, items).
    """

    model: T5ForConditionalGeneration
    trie: TrieTensors
    positions: torch.Tensor
    start: torch.Tensor
    over_vocabulary: bool
    width: int
    scores: torch.Tensor

    def below(self, chunk: _Chunk, level: int) -> None:
        """Scores all items below the nodes of a chunk; as deep a recursion as a code is long."""
        child, parent = _children(self.trie, chunk.node)
        score = chunk.score[:, parent] + self._steps(chunk, level, child, parent)
        done = settles(self.trie, child, self.over_vocabulary)
        leaf = self.trie.leaves[child[done], 0]
        self.scores[:, self.trie.items[leaf]] = score[:, done]
        unsettled = (~done).nonzero().flatten()
        for begin in range(0, len(unsettled), self.width):
            part = unsettled[begin : begin + self.width]
            read = self._read(chunk, child[part], parent[part], score[:, part], level + 1)
            self.below(read, level + 1)

    def _steps(
        self, chunk: _Chunk, level: int, child: torch.Tensor, parent: torch.Tensor
    ) -> torch.Tensor:
        """The log-probability of each child after its parent, shape (requests, children)."""
        if self.over_vocabulary:
            logits = output_logits(self.model, chunk.hidden, None)
            total = logits.logsumexp(-1)
            return logits[:, parent, self.trie.token[child]] - total[:, parent]
        logits = output_logits(self.model, chunk.hidden, self.trie.level_tokens[level])
        return _among_siblings(logits[:, parent, self.trie.column[child]], parent, len(chunk.node))

    def _read(
        self,
        above: _Chunk,
        node: torch.Tensor,
        parent: torch.Tensor,
        score: torch.Tensor,
        level: int,
    ) -> _Chunk:
        """Reads children of the chunk above, beside nothing but their own ancestors."""
        requests, _, given = self.start.shape
        ancestors = above.sees[parent]
        kept = ancestors.any(dim=0).nonzero().flatten()
        start = torch.arange(given, device=node.device)
        decoder = above.decoder.branch(torch.cat([start, given + kept]))
        own = torch.eye(len(node), dtype=torch.bool, device=node.device)
        sees = torch.cat([ancestors[:, kept], own], dim=1)
        hidden = decoder.read(
            self.trie.token[node].long().expand(requests, -1),
            (self.positions + level)[:, None].expand(-1, len(node)),
            torch.cat([self.start.expand(-1, len(node), -1), sees.expand(requests, -1, -1)], dim=2),
        )
        return _Chunk(node, score, hidden, sees, decoder)


@torch.no_grad()
def pair_scores(
    model: T5ForConditionalGeneration,
    trie: TrieTensors,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    items: torch.Tensor,
    *,
    given: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """The log-probability of one item for each request, renormalised over the catalogue.

    Reads the tokens of that item's code and no other, all of them in one pass.

    Args:
        model: any T5, in evaluation mode.
        trie: the item codes.
        input_ids: shape (requests, length).
        attention_mask: shape (requests, length).
        items: the catalogue row to score, shape (requests,).
        given: tokens that each answer starts with, read before the code.

    Returns:
        Shape (requests,); each number is the item's column of ``exact_scores``.

    Raises:
        ValueError: there isn't one item for each request, or one is no row of the catalogue.
    """
    requests, device = len(input_ids), model.device
    path = _path(trie, _checked(items, requests, len(trie.trie)).to(device))
    decoder = TreeDecoder(model, encode(model, input_ids, attention_mask))
    hidden, positions, sees = read_start(model, decoder, given, requests)
    # The last node of a path is only chosen. Shorter paths are read past their ends, which no
    # token before the end can see.
    read = path[:, 1:-1]
    count = read.shape[1]
    if count:
        causal = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        later = decoder.read(
            trie.token[read].long().clamp(min=0),
            positions[:, None] + torch.arange(1, count + 1, device=device),
            torch.cat([sees.expand(-1, count, -1), causal.expand(requests, -1, -1)], dim=2),
        )
        hidden = torch.cat([hidden, later], dim=1)
    scores = torch.zeros(requests, device=device)
    for level in range(path.shape[1] - 1):
        alive = (path[:, level + 1] >= 0).nonzero().flatten()
        child, owner = _children(trie, path[alive, level])
        logits = output_logits(model, hidden[alive, level], trie.level_tokens[level])
        steps = _among_siblings(logits[owner, trie.column[child]], owner, len(alive))
        scores[alive] += steps[child == path[alive, level + 1][owner]]
    return scores


def missed_at(
    k: int, found: torch.Tensor, exact: torch.Tensor, allowed: torch.Tensor | None = None
) -> float:
    """The share of the true k best items that a search did not find.

    Items of equal score stand in for each other: any of them may hold the last of the k places.

    Args:
        k: how many items of each list count.
        found: what the search found, best first, no item twice, negative where there is none;
            shape (requests, at least k).
        exact: the true score of every item, shape (requests, items).
        allowed: True where an item may be named, shape (requests, items) or (items,).

    Returns:
        Missed items over true ones, all requests taken together, between 0 and 1. Where fewer
        than k items are allowed, all of these are the true ones.

    Raises:
        ValueError: k is below 1, a list is shorter than k, or no item is allowed at all.
    """
    if k < 1 or found.shape[1] < k:
        raise ValueError(f"k is {k}, expected 1 to {found.shape[1]}, the length of the lists")
    if allowed is not None:
        exact = exact.masked_fill(~allowed, _NEVER)
    best = exact.topk(min(k, exact.shape[1]), dim=1).values
    true = best > _NEVER
    if not bool(true.any()):
        raise ValueError("no request allows any item: there is nothing to find")
    last = best.masked_fill(~true, float("inf")).amin(dim=1, keepdim=True)
    found = found[:, :k]
    scores = exact.gather(1, found.clamp(min=0)).masked_fill(found < 0, _NEVER)
    places = (best == last).sum(dim=1)
    hits = (scores > last).sum(dim=1) + torch.minimum((scores == last).sum(dim=1), places)
    return 1 - float(hits.sum()) / float(true.sum())


def _children(trie: TrieTensors, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All children of some nodes, and for each the place of its parent in ``node``.

    Args:
        trie: the item codes.
        node: shape (nodes,).

    Returns:
        Two tensors of shape (children,), parent by parent.
    """
    first = trie.children[node].long()
    number = trie.children[node + 1] - first
    parent = torch.arange(len(node), device=node.device).repeat_interleave(number)
    before = number.cumsum(0) - number
    ordinal = torch.arange(len(parent), device=node.device) - before[parent]
    return first[parent] + ordinal, parent


def _among_siblings(logits: torch.Tensor, parent: torch.Tensor, parents: int) -> torch.Tensor:
    """Log-probabilities, each relative to the children of the same parent.

    Args:
        logits: shape (..., children).
        parent: the number of each child's parent, shape (children,).
        parents: how many parents there are, each with a child.

    Returns:
        Shape (..., children).
    """
    shape = (*logits.shape[:-1], parents)
    index = parent.expand_as(logits)
    top = logits.new_full(shape, _NEVER).scatter_reduce(-1, index, logits, "amax")
    shifted = logits - top.gather(-1, index)
    total = logits.new_zeros(shape).scatter_add(-1, index, shifted.exp())
    return shifted - total.log().gather(-1, index)


def _path(trie: TrieTensors, items: torch.Tensor) -> torch.Tensor:
    """The nodes from the root to the first one that leads to the item alone.

    Args:
        trie: the item codes.
        items: shape (requests,).

    Returns:
        Shape (requests, longest path), -1 past the end of a shorter one.
    """
    leaf = trie.leaf_of[items]
    path = [torch.zeros_like(items)]
    for level in range(1, trie.trie.depth + 1):
        settled = (path[-1] < 0) | settles(trie, path[-1], False)
        if bool(settled.all()):
            break
        begin, end = int(trie.trie.levels[level]), int(trie.trie.levels[level + 1])
        # Within a level the leaves of the nodes ascend, and a node that leads to several leaves
        # has a child for each of them.
        first = trie.leaves[begin:end, 0].contiguous()
        node = begin + torch.searchsorted(first, leaf, right=True) - 1
        path.append(node.masked_fill(settled, -1))
    return torch.stack(path, dim=1)


def _checked(items: torch.Tensor, requests: int, count: int) -> torch.Tensor:
    """Raises a ``ValueError`` unless there is one row of the catalogue for each request."""
    if items.shape != (requests,):
        raise ValueError(
            f"the items have the shape {tuple(items.shape)}, expected {(requests,)}: one a request"
        )
    wrong = (items < 0) | (items >= count)
    if bool(wrong.any()):
        request = int(wrong.int().argmax())
        raise ValueError(
            f"request {request} asks for item {int(items[request])}, expected 0 to {count - 1}"
        )
    return items.long()
