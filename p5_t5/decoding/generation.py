"""The catalogue inside ``model.generate``.

``trie_generate`` hands a T5's whole search over to :mod:`p5_t5.decoding.beam_search`;
``TrieLogitsProcessor`` keeps any model's own greedy search, beam search or sampling inside the
catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    T5ForConditionalGeneration,
)
from transformers.generation import GenerateBeamEncoderDecoderOutput

from p5_t5.decoding.beam_search import NO_ITEM, beam_search
from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.trie import TrieTensors

# The width of a search where the caller names none.
BEAMS = 20
_OUTSIDE = -1


@dataclass
class ItemOutput(GenerateBeamEncoderDecoderOutput):
    """What ``generate`` returns with ``return_dict_in_generate``.

    Attributes:
        sequences: start token, given tokens, code, closing token, padding; shape
            (requests * k, length), a request's rows together and best first.
        sequences_scores: log-probabilities without any length penalty, -inf where there is no
            item, shape (requests * k,).
        item_rows: catalogue rows, ``NO_ITEM`` where a request has fewer than k legal items, shape
            (requests * k,).
    """

    item_rows: torch.Tensor | None = None


def trie_generate(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    trie: TrieTensors,
    inputs_tensor: torch.Tensor,
    allowed: torch.Tensor | LegalLeaves | None = None,
    given: Sequence[Sequence[int]] | None = None,
    num_beams: int | None = None,
    num_return_sequences: int | None = None,
    over_vocabulary: bool = False,
    **kwargs: Any,
) -> torch.Tensor | ItemOutput:
    """Finds the most probable items: ``generate(..., custom_generate=trie_generate, trie=trie)``.

    ``generate`` takes the keyword arguments that are named here out of its own before it looks at
    them. So the two widths don't make it repeat the encoder's states, as they would in a
    ``generation_config``, and any number of items may be asked for.

    A code is always decoded whole, whatever ``max_length`` says.

    Args:
        model: any T5, in evaluation mode.
        input_ids: start token and what else ``decoder_input_ids`` gave, from ``generate``.
        logits_processor: from ``generate``, must be empty.
        stopping_criteria: from ``generate``, no other than the length and the closing token.
        generation_config: from ``generate``; its widths count where the arguments don't say.
        trie: the item codes, on the model's device.
        inputs_tensor: the encoder's input, shape (requests, length), from ``generate``.
        allowed: the legal leaves, or a mask that is True where an item may be named, shape
            (items,) or (requests, items).
        given: tokens that each answer starts with, of any length; where all are equally long,
            ``decoder_input_ids`` does the same.
        num_beams: beginnings of codes kept at each level, at least the number of items asked for;
            20 where neither this nor the configuration says.
        num_return_sequences: how many items each request gets, one by default.
        over_vocabulary: score over all tokens instead of the legal ones.
        kwargs: the encoder's output and the attention mask, from ``generate``.

    Returns:
        The sequences or, with ``return_dict_in_generate``, an ``ItemOutput``.

    Raises:
        ValueError: the model is no T5, a request allows no item, or ``generate`` was asked for
            what this search doesn't do.
    """
    _refuse_other_decoding(model, logits_processor, stopping_criteria, generation_config, kwargs)
    requests = len(inputs_tensor)
    states = kwargs["encoder_outputs"][0]
    # Widths of the configuration have made generate repeat each request.
    repeats = len(states) // requests
    mask = kwargs.get("attention_mask")
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    starts = _starts(model, input_ids[::repeats].tolist(), given)
    if num_return_sequences is None:
        num_return_sequences = int(generation_config.num_return_sequences)
    if num_beams is None:
        num_beams = generation_config.num_beams if generation_config.num_beams > 1 else BEAMS
    found = beam_search(
        model,
        trie,
        inputs_tensor,
        mask[::repeats],
        states=states[::repeats],
        k=num_return_sequences,
        beams=num_beams,
        given=[start[1:] for start in starts],
        allowed=allowed,
        over_vocabulary=over_vocabulary,
    )
    items = found.items.flatten()
    pad = int(generation_config._pad_token_tensor)
    sequences = _sequences(starts, _codes_of(items, trie), pad)
    if not generation_config.return_dict_in_generate:
        return sequences
    return ItemOutput(sequences=sequences, sequences_scores=found.scores.flatten(), item_rows=items)


def items_of(sequences: torch.Tensor, trie: TrieTensors, prefix_length: int = 1) -> torch.Tensor:
    """The catalogue rows that generated sequences name.

    Args:
        sequences: what ``generate`` returned, shape (sequences, length).
        trie: the item codes.
        prefix_length: tokens before the code: the start token and what was given.

    Returns:
        Catalogue rows, ``NO_ITEM`` where what follows the prefix is no whole closed code, shape
        (sequences,).
    """
    node = _walk(trie, sequences[:, prefix_length:])
    return torch.where(_is_leaf(trie, node), trie.items[trie.leaves[node, 0]], NO_ITEM).long()


class TrieLogitsProcessor(LogitsProcessor):
    """Leaves only tokens that lead to an item, for any way of decoding and any model.

    Scores are masked and not renormalised: beam search reports log-probabilities over the whole
    vocabulary, and sampling draws among the legal tokens. After a closed code only the closing
    token and padding remain, after anything that is no beginning of an allowed item only the
    closing token.
    """

    def __init__(
        self,
        trie: TrieTensors,
        *,
        prefix_length: int = 1,
        pad_token_id: int = 0,
        allowed: torch.Tensor | None = None,
    ) -> None:
        """Prepares the mask of items.

        Args:
            trie: the item codes, closed by the model's end token, on the model's device.
            prefix_length: tokens before the code: an encoder-decoder's start token and what was
                given, a decoder's padded prompt.
            pad_token_id: what follows a closed code.
            allowed: True where an item may be named, shape (items,) or (requests, items). Rows of
                ``generate`` that stand for one request are neighbours, as it arranges beams and
                samples.

        Raises:
            ValueError: the mask has another number of items, or a request without any.
        """
        self.trie = trie
        self.prefix_length = prefix_length
        self.pad = pad_token_id
        self.end = int(trie.token[-1])  # a node of the last level closes a code
        self.requests = len(allowed) if allowed is not None and allowed.dim() == 2 else 1
        self.legal = None if allowed is None else LegalLeaves.allow(trie, allowed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Masks what is not legal.

        Args:
            input_ids: what each sequence holds so far, shape (sequences, length).
            scores: of the next token, shape (sequences, vocabulary).

        Returns:
            The scores, -inf where the token is not legal, shape (sequences, vocabulary).

        Raises:
            ValueError: the sequences don't divide evenly among the requests of the mask.
        """
        node = _walk(self.trie, input_ids[:, self.prefix_length :])
        row, child = self._children(node)
        over = (row.bincount(minlength=len(node)) == 0).nonzero()[:, 0]
        closed = _is_leaf(self.trie, node).nonzero()[:, 0]
        row = torch.cat([row, over, closed])
        ends = [torch.full_like(over, self.end), torch.full_like(closed, self.pad)]
        token = torch.cat([self.trie.token[child], *ends])
        masked = torch.full_like(scores, float("-inf"))
        masked[row, token] = scores[row, token]
        return masked

    def _children(self, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All legal children of all nodes, as pairs of a sequence's row and a node."""
        first = self.trie.children[node].long()
        number = (self.trie.children[node + 1] - first).masked_fill(node == _OUTSIDE, 0)
        row = torch.arange(len(node), device=node.device).repeat_interleave(number)
        before = number.cumsum(0) - number
        child = torch.arange(len(row), device=node.device) + (first - before)[row]
        if self.legal is None:
            return row, child
        if len(node) % self.requests:
            raise ValueError(
                f"{len(node)} sequences can't belong to {self.requests} requests, which is what "
                "the mask of allowed items has"
            )
        request = row // (len(node) // self.requests)
        some = self.legal.open(request, child)
        return row[some], child[some]


def _refuse_other_decoding(
    model: T5ForConditionalGeneration,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    kwargs: dict[str, Any],
) -> None:
    """Raises for what ``generate`` was asked and this search would pass over in silence."""
    if not isinstance(model, T5ForConditionalGeneration):
        raise ValueError(
            f"trie_generate decodes T5 models, not {type(model).__name__}; for others give "
            "generate a TrieLogitsProcessor"
        )
    refused = ["do_sample"] if generation_config.do_sample else []
    refused += [type(processor).__name__ for processor in logits_processor]
    harmless = (MaxLengthCriteria, EosTokenCriteria)
    refused += [type(c).__name__ for c in stopping_criteria if not isinstance(c, harmless)]
    if kwargs.get("decoder_attention_mask") is not None:
        refused.append("decoder_attention_mask (starts of unequal length go into given=)")
    if refused:
        raise ValueError(
            f"trie_generate is a beam search by the model's own scores and takes no "
            f"{', '.join(refused)}; plain generate with a TrieLogitsProcessor does"
        )


def _starts(
    model: T5ForConditionalGeneration,
    prompts: list[list[int]],
    given: Sequence[Sequence[int]] | None,
) -> list[list[int]]:
    """What each answer starts with: the start token and what is given.

    Args:
        model: says what the start token is.
        prompts: the decoder's input from ``generate``, one a request.
        given: the caller's own, one a request.
    """
    start = model.config.decoder_start_token_id
    if any(prompt[0] != start for prompt in prompts):
        raise ValueError(f"the answers must start with the model's start token {start}")
    if given is None:
        return prompts
    if len(prompts[0]) > 1:
        raise ValueError("expected given or decoder_input_ids, not both")
    if len(given) != len(prompts):
        raise ValueError(f"given holds {len(given)} starts for {len(prompts)} requests")
    return [[start, *row] for row in given]


def _sequences(starts: list[list[int]], codes: torch.Tensor, pad: int) -> torch.Tensor:
    """Starts and codes in one row each, padded at the end.

    Args:
        starts: one a request.
        codes: shape (requests * k, depth), negative after the end.
        pad: the padding token.
    """
    k = len(codes) // len(starts)
    rows = [torch.tensor(start, device=codes.device) for start in starts]
    padded = pad_sequence(rows, batch_first=True, padding_value=pad).repeat_interleave(k, 0)
    lengths = torch.tensor([len(row) for row in rows], device=codes.device).repeat_interleave(k)
    sequences = torch.nn.functional.pad(padded, (0, codes.shape[1]), value=pad)
    column = lengths[:, None] + torch.arange(codes.shape[1], device=codes.device)
    sequences.scatter_(1, column, codes.masked_fill(codes < 0, pad))
    return sequences[:, : int((lengths + (codes >= 0).sum(dim=1)).max())]


def _codes_of(items: torch.Tensor, trie: TrieTensors) -> torch.Tensor:
    """The closed code of each item, -1 after its end and for ``NO_ITEM``.

    Args:
        items: shape (items,).
        trie: the item codes.

    Returns:
        Shape (items, depth).
    """
    leaf = trie.leaf_of[items.clamp(min=0)]
    node = torch.where(items == NO_ITEM, _OUTSIDE, 0)
    codes = torch.full((len(items), trie.trie.depth), -1, device=items.device)
    for level in range(trie.trie.depth):
        ended = _is_leaf(trie, node) | (node == _OUTSIDE)
        # The child that covers a leaf is the last one that doesn't start behind it.
        node = torch.where(ended, node, _last_child(trie, trie.leaves[:, 0], node, leaf))
        codes[:, level] = trie.token[node].masked_fill(ended, -1)
    return codes


def _walk(trie: TrieTensors, tokens: torch.Tensor) -> torch.Tensor:
    """Where the tokens lead from the root; a leaf keeps what follows it.

    Args:
        trie: the item codes.
        tokens: shape (sequences, length).

    Returns:
        Nodes, ``_OUTSIDE`` where the tokens are no beginning of a code, shape (sequences,).
    """
    node = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    for token in tokens[:, : trie.trie.depth].unbind(1):
        child = _last_child(trie, trie.token, node, token)
        found = (child >= trie.children[node]) & (trie.token[child] == token)
        child = torch.where(found, child, _OUTSIDE)
        node = torch.where(_is_leaf(trie, node), node, child)
    return node


def _is_leaf(trie: TrieTensors, node: torch.Tensor) -> torch.Tensor:
    """Where a node closes a code; False for ``_OUTSIDE``."""
    return (trie.children[node] == trie.children[node + 1]) & (node != _OUTSIDE)


def _last_child(
    trie: TrieTensors, values: torch.Tensor, node: torch.Tensor, most: torch.Tensor
) -> torch.Tensor:
    """The last child of each node whose value is not above ``most``, by bisection.

    Args:
        trie: the item codes.
        values: of each node, rising among the children of a node, shape (nodes,).
        node: shape (sequences,).
        most: shape (sequences,).

    Returns:
        Nodes, the one before the first child where there is no such child, shape (sequences,).
        ``_OUTSIDE`` has none.
    """
    low = trie.children[node].long()
    high = torch.where(node == _OUTSIDE, low, trie.children[node + 1].long())
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (values[middle.clamp(max=len(values) - 1)] <= most)
        low = torch.where(below, middle + 1, low)
        high = torch.where(below, high, middle)
    return low - 1
