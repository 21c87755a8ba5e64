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

from p5_t5.decoding.encoder import Encoded, encode
from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors

NO_ITEM = -1
_NEVER = float("-inf")
# Where at most this share of the requests still has beams, the others are left out of the batch.
_MOST_ASKING = 0.6


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

    node: torch.Tensor  # the root where a beam is dead
    score: torch.Tensor
    logits: torch.Tensor  # (requests, beams, tokens of the next level), or all tokens
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
    allowed: torch.Tensor | LegalLeaves | None = None,
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
        allowed: the legal leaves, or a mask that is True where an item may be named, shape
            (items,) or (requests, items).
        over_vocabulary: score over all tokens instead of the legal ones.
        states: the encoder's last states, shape (requests, length, d_model), where they are known;
            ``input_ids`` are not read then.

    Raises:
        ValueError: a request allows no item at all, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    requests = len(input_ids)
    legal = LegalLeaves.allow(trie, allowed) if isinstance(allowed, torch.Tensor) else allowed
    if legal is not None:
        legal.check(requests)
    if states is None:
        encoded = encode(model, input_ids, attention_mask)
    else:
        encoded = Encoded.of(states, attention_mask)
    decoder = TreeDecoder(model, encoded)
    # What every code starts with is certain, so that it is read with what is given.
    common = [] if over_vocabulary else trie.trie.prefix
    given = [[*row, *common] for row in given] if given else [common] * requests
    hidden, positions, sees = read_start(model, decoder, given, requests)
    positions -= len(common)
    level = len(common)
    root = int(trie.trie.levels[level])
    live = _Beams(
        node=torch.full((requests, 1), root, device=model.device),
        score=torch.zeros(requests, 1, device=model.device),
        logits=output_logits(model, hidden, None if over_vocabulary else trie.level_tokens[level]),
        sees=sees,
    )
    items = torch.full((requests, k), NO_ITEM, dtype=torch.long, device=model.device)
    scores = torch.full((requests, k), _NEVER, device=model.device)
    answer, asking = Ranking(items, scores), torch.arange(requests, device=model.device)
    while True:
        level += 1
        child, score, parent = _expand(trie, live, legal, level, k + max(beams, k), over_vocabulary)
        done = settles(trie, child, over_vocabulary)
        items, scores = _merge(trie, items, scores, child, score.masked_fill(~done, _NEVER))
        score = score.masked_fill(done, _NEVER)
        best, index = score.topk(min(max(beams, k), score.shape[1]), dim=1)
        # Scores only fall, so a live beam below the k-th found item can't come back.
        best = best.masked_fill(best <= scores[:, -1:], _NEVER)
        width = int((best > _NEVER).sum(dim=1).max())
        answer.items[asking], answer.scores[asking] = items, scores
        if width == 0:
            return answer
        best, index = best[:, :width], index[:, :width]
        node, parent = child.gather(1, index), parent.gather(1, index)
        sees = live.sees.gather(1, parent[..., None].expand(-1, -1, live.sees.shape[2]))
        rows = (best[:, 0] > _NEVER).nonzero().flatten()
        if len(rows) <= _MOST_ASKING * len(asking):
            # The others have their answer: what is read from here on is not for them.
            asking, items, scores, positions = (
                tensor[rows] for tensor in (asking, items, scores, positions)
            )
            node, best, sees = (tensor[rows] for tensor in (node, best, sees))
            decoder.select(rows)
            legal = legal.select(rows) if legal is not None else None
        dead = best == _NEVER
        paths = [node.masked_fill(dead, 0)]
        if not over_vocabulary:
            paths += _forced(trie, paths[0], dead)
        hidden, sees = _read(decoder, trie, paths, positions + level, sees)
        level += len(paths) - 1
        tokens = None if over_vocabulary else trie.level_tokens[level]
        live = _Beams(paths[-1], best, output_logits(model, hidden, tokens), sees)


def _forced(trie: TrieTensors, node: torch.Tensor, dead: torch.Tensor) -> list[torch.Tensor]:
    """The nodes that follow as long as no live beam has a choice: they cost no pass of their own.

    Args:
        trie: the item codes.
        node: unsettled nodes of one level, shape (requests, beams).
        dead: beams that don't count, of the same shape.
    """
    path: list[torch.Tensor] = []
    while True:
        child = trie.children[node]
        single = trie.children[node + 1] - child == 1
        if not bool((single | dead).all()):
            return path
        node = child.long().masked_fill(dead, 0)
        path.append(node)


def _read(
    decoder: TreeDecoder,
    trie: TrieTensors,
    paths: Sequence[torch.Tensor],
    position: torch.Tensor,
    sees: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the next nodes of all beams, several levels of them at once.

    Args:
        decoder: has read everything before.
        trie: the item codes.
        paths: the nodes of each level, each of shape (requests, beams).
        position: of the first level's tokens, shape (requests,).
        sees: what the beams' parents see, shape (requests, beams, read so far).

    Returns:
        The states of the last level (requests, beams, d_model), and what its nodes see.
    """
    requests, width = paths[0].shape
    levels = len(paths)
    # A dead beam reads some token all the same: it sees itself and is seen by none.
    tokens = trie.token[torch.cat(list(paths), dim=1)].long().clamp(min=0)
    depth = position[:, None] + torch.arange(levels, device=position.device)
    causal = torch.ones(levels, levels, dtype=torch.bool, device=sees.device).tril()
    own = torch.kron(causal, torch.eye(width, dtype=torch.bool, device=sees.device))
    sees = torch.cat([sees.repeat(1, levels, 1), own.expand(requests, -1, -1)], dim=2)
    hidden = decoder.read(tokens, depth.repeat_interleave(width, 1), sees)
    return hidden[:, -width:], sees[:, -width:]


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
    trie: TrieTensors,
    live: _Beams,
    legal: LegalLeaves | None,
    level: int,
    most: int,
    over_vocabulary: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best legal children of all live beams.

    As many as k items and a full set of beams are enough: of what comes after them, either there
    are k better items already, or as many better beams.

    Args:
        trie: the item codes.
        live: the beams.
        legal: what may be named.
        level: of the children.
        most: how many legal children are wanted.
        over_vocabulary: score over all tokens instead of the legal ones.

    Returns:
        Node, score (-inf where there is none or nothing legal lies below) and the number of the
        parent's beam, each of shape (requests, children).
    """
    first = trie.children[live.node]
    number = (trie.children[live.node + 1] - first).masked_fill(live.score == _NEVER, 0)
    widest = int(number.max())
    ordinal = torch.arange(widest, dtype=torch.int32, device=first.device)
    child = (first[..., None] + ordinal).clamp_(max=len(trie.token) - 1)
    # What is no child of the node is of any level, and masked below.
    column = (trie.token if over_vocabulary else trie.column)[child].long()
    column.clamp_(max=live.logits.shape[2] - 1)
    score = live.logits.gather(2, column)
    score.masked_fill_(ordinal >= number[..., None], _NEVER)
    total = (live.logits if over_vocabulary else score).logsumexp(-1)
    # A beam without any child has nothing to add to.
    score += (live.score - total).masked_fill(number == 0, 0)[..., None]
    request = torch.arange(len(child), device=child.device)
    shut = None
    if legal is not None:
        score.masked_fill_(~legal.open(request[:, None, None], child), _NEVER)
        shut = legal.shut(level)
        most += shut.most
    score, index = score.flatten(1).topk(min(most, child[0].numel()), dim=1)
    node = child.flatten(1).gather(1, index).long()
    if shut is not None:
        score = score.masked_fill(shut.holds(request[:, None], node), _NEVER)
    return node, score, index.div(widest, rounding_mode="floor")


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
    found = torch.where(best > _NEVER, trie.items[leaf], NO_ITEM).long()
    scores, order = torch.cat([scores, best], dim=1).topk(k, dim=1)
    return torch.cat([items, found], dim=1).gather(1, order), scores
