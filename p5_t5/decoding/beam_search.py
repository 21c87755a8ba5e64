"""Beam search over the catalogue's trie: exact legality, no item twice, k items where k exist.

Scores are renormalised over the tokens that the catalogue allows next, so the probabilities of all
items sum to one and an item's score doesn't depend on which other items a request excludes. With
``over_vocabulary`` they are the model's own log-probabilities over all tokens, as Hugging Face
reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import Trie

NO_ITEM = -1
_NEVER = float("-inf")


class TrieTensors:
    """A trie on the device of a model, with the tokens that each level can ask for."""

    def __init__(self, trie: Trie, device: torch.device) -> None:
        """Copies the arrays once."""
        self.trie = trie
        self.token = torch.from_numpy(trie.token).long().to(device)
        self.children = torch.from_numpy(trie.children).long().to(device)
        self.leaves = torch.from_numpy(trie.leaves).long().to(device)
        self.items = torch.from_numpy(trie.items).long().to(device)
        self.level_tokens: list[torch.Tensor] = []
        # column[n]: where node n's token stands among the tokens of its level.
        self.column = torch.zeros_like(self.token)
        for level in range(1, trie.depth + 1):
            nodes = slice(int(trie.levels[level]), int(trie.levels[level + 1]))
            tokens, self.column[nodes] = self.token[nodes].unique(return_inverse=True)
            self.level_tokens.append(tokens)


@dataclass(frozen=True)
class Ranking:
    """What a search found, best first.

    Attributes:
        items: catalogue rows, ``NO_ITEM`` past the last legal item, shape (requests, k).
        scores: log-probabilities, -inf past the last legal item, shape (requests, k).
    """

    items: torch.Tensor
    scores: torch.Tensor


@dataclass
class _Beams:
    """The live beams of all requests, each of shape (requests, beams)."""

    node: torch.Tensor
    score: torch.Tensor
    logits_of: torch.Tensor  # (requests, beams, tokens of the next level), or all tokens
    sees: torch.Tensor  # (requests, beams, tokens read so far)


@torch.no_grad()
def beam_search(
    model: T5ForConditionalGeneration,
    trie: TrieTensors,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    k: int,
    beams: int,
    given: Sequence[Sequence[int]] | None = None,
    allowed: torch.Tensor | None = None,
    over_vocabulary: bool = False,
    states: torch.Tensor | None = None,
) -> Ranking:
    """Finds the k most probable items of each request.

    Args:
        model: any T5, in evaluation mode.
        trie: the item codes.
        input_ids: shape (requests, length).
        attention_mask: shape (requests, length).
        k: how many items to return.
        beams: how many beginnings of codes are kept at each level; at least k are.
        given: tokens that each answer starts with, read before the search.
        allowed: True where an item may be named, shape (requests, items).
        over_vocabulary: score over all tokens instead of the legal ones.
        states: the encoder's last states, shape (requests, length, d_model), where they are known;
            ``input_ids`` are not read then.

    Raises:
        ValueError: a request allows no item at all, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    requests = len(input_ids)
    counts = running_counts(trie, allowed, requests)
    if states is None:
        states = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    decoder = TreeDecoder(model, states, attention_mask)
    hidden, positions, sees = read_start(model, decoder, given, requests)
    live = _Beams(
        node=torch.zeros(requests, 1, dtype=torch.long, device=model.device),
        score=torch.zeros(requests, 1, device=model.device),
        logits_of=output_logits(model, hidden, None if over_vocabulary else trie.level_tokens[0]),
        sees=sees,
    )
    items = torch.full((requests, k), NO_ITEM, dtype=torch.long, device=model.device)
    scores = torch.full((requests, k), _NEVER, device=model.device)
    for level in range(1, trie.trie.depth + 1):
        child, score, parent = _expand(trie, live, counts, over_vocabulary)
        done = settles(trie, child, over_vocabulary)
        items, scores = _merge(trie, items, scores, child, score.masked_fill(~done, _NEVER))
        score = score.masked_fill(done, _NEVER)
        best, index = score.topk(min(max(beams, k), score.shape[1]), dim=1)
        # Scores only fall, so a live beam below the k-th found item can't come back.
        best = best.masked_fill(best <= scores[:, -1:], _NEVER)
        width = int((best > _NEVER).sum(dim=1).max())
        if width == 0:
            break
        best, index = best[:, :width], index[:, :width]
        node = child.gather(1, index)
        sees = live.sees.gather(
            1, parent.gather(1, index)[..., None].expand(-1, -1, live.sees.shape[2])
        )
        own = torch.eye(width, dtype=torch.bool, device=node.device).expand(requests, -1, -1)
        sees = torch.cat([sees, own], dim=2)
        # A dead beam reads its node's token all the same: it sees itself and is seen by none.
        depth = (positions + level)[:, None].expand(-1, width)
        hidden = decoder.read(trie.token[node].clamp(min=0), depth, sees)
        tokens = None if over_vocabulary else trie.level_tokens[level]
        live = _Beams(node, best, output_logits(model, hidden, tokens), sees)
    return Ranking(items, scores)


def running_counts(
    trie: TrieTensors, allowed: torch.Tensor | None, requests: int
) -> torch.Tensor | None:
    """How many allowed leaves stand before each leaf, shape (requests, items + 1)."""
    if allowed is None:
        return None
    if allowed.shape != (requests, len(trie.trie)):
        raise ValueError(
            f"the mask of allowed items has the shape {tuple(allowed.shape)}, expected "
            f"{(requests, len(trie.trie))} (requests, items)"
        )
    empty = ~allowed.any(dim=1)
    if bool(empty.any()):
        raise ValueError(f"request {int(empty.int().argmax())} allows no item at all")
    leaves = allowed.to(trie.items.device)[:, trie.items]
    return torch.nn.functional.pad(leaves.cumsum(1, dtype=torch.int32), (1, 0))


def read_start(
    model: T5ForConditionalGeneration,
    decoder: TreeDecoder,
    given: Sequence[Sequence[int]] | None,
    requests: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reads the start token and what is given of each answer, padded on the left.

    Returns:
        The state that the search starts from (requests, 1, d_model), the position of its token
        (requests,), and which of the read tokens it saw (requests, 1, read).
    """
    start = model.config.decoder_start_token_id
    assert isinstance(start, int)
    rows = [[start, *row] for row in given] if given is not None else [[start]] * requests
    longest = max(map(len, rows))
    tokens = torch.tensor([[start] * (longest - len(r)) + r for r in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    positions = torch.arange(longest, device=model.device) - (longest - lengths)[:, None]
    real = positions >= 0
    causal = torch.ones(longest, longest, dtype=torch.bool, device=model.device).tril()
    own = torch.eye(longest, dtype=torch.bool, device=model.device)
    sees = (causal & real[:, None, :]) | own
    hidden = decoder.read(tokens, positions.clamp(min=0), sees)
    return hidden[:, -1:], lengths - 1, sees[:, -1:]


def output_logits(
    model: T5ForConditionalGeneration, hidden: torch.Tensor, tokens: torch.Tensor | None
) -> torch.Tensor:
    """The output layer, for some tokens only or for all of them."""
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.config.d_model**-0.5
    weight: torch.Tensor = model.lm_head.weight
    if tokens is not None:
        weight = weight[tokens]
    return (hidden @ weight.T).float()


def _expand(
    trie: TrieTensors, live: _Beams, counts: torch.Tensor | None, over_vocabulary: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All children of all live beams.

    Returns:
        Node, score (-inf where there is none or nothing allowed lies below) and the number of the
        parent's beam, each of shape (requests, beams * most children).
    """
    first = trie.children[live.node]
    number = trie.children[live.node + 1] - first
    ordinal = torch.arange(max(int(number.max()), 1), device=first.device)
    # A dead beam leads nowhere; its node may be of another level.
    exists = (ordinal < number[..., None]) & (live.score[..., None] > _NEVER)
    child = torch.where(exists, first[..., None] + ordinal, 0)
    column = (trie.token if over_vocabulary else trie.column)[child].clamp(min=0)
    logits = live.logits_of.gather(2, column)
    if over_vocabulary:
        score = logits - live.logits_of.logsumexp(-1, keepdim=True)
    else:
        logits = logits.masked_fill(~exists, _NEVER)
        score = logits - logits.logsumexp(-1, keepdim=True)
    legal = exists
    if counts is not None:
        span = trie.leaves[child].flatten(1, 2)
        below = counts.gather(1, span[..., 1]) - counts.gather(1, span[..., 0])
        legal = legal & (below > 0).view_as(legal)
    # Without any child the sum above is inf - inf, which the mask covers.
    score = (live.score[..., None] + score).masked_fill(~legal, _NEVER)
    parent = torch.arange(child.shape[1], device=child.device)[None, :, None].expand_as(child)
    return child.flatten(1), score.flatten(1), parent.flatten(1)


def settles(trie: TrieTensors, node: torch.Tensor, over_vocabulary: bool) -> torch.Tensor:
    """Where a node settles the item.

    Renormalised, a node with a single leaf is certain to reach it: the tokens that are left cost
    neither a pass nor any probability.
    """
    if over_vocabulary:
        return trie.children[node] == trie.children[node + 1]
    span = trie.leaves[node]
    return span[..., 1] - span[..., 0] == 1


def _merge(
    trie: TrieTensors,
    items: torch.Tensor,
    scores: torch.Tensor,
    node: torch.Tensor,
    score: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of the items found before and those found now."""
    k = items.shape[1]
    best, index = score.topk(min(k, score.shape[1]), dim=1)
    leaf = trie.leaves[node.gather(1, index)][..., 0]
    found = torch.where(best > _NEVER, trie.items[leaf], NO_ITEM)
    scores, order = torch.cat([scores, best], dim=1).topk(k, dim=1)
    return torch.cat([items, found], dim=1).gather(1, order), scores
