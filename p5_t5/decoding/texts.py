"""How probable given texts are as answers, and how typical: what chooses among known sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.beam_search import output_logits, read_start
from p5_t5.decoding.encoder import encode
from p5_t5.decoding.tree_decoder import TreeDecoder

# Tokens whose scores over the vocabulary are held at once.
_FEW = 512


@torch.no_grad()
def text_scores(
    model: T5ForConditionalGeneration,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    texts: Sequence[Sequence[Sequence[int]]],
    *,
    given: Sequence[Sequence[int]] | None = None,
    length_penalty: float = 1.0,
) -> list[list[float]]:
    """The log-probability of each of some answers, over the whole vocabulary, by their lengths.

    Args:
        model: any T5, in evaluation mode.
        input_ids: shape (requests, length).
        attention_mask: shape (requests, length).
        texts: for each request the tokens of its possible answers, after what is given of them,
            each with its closing token.
        given: tokens that each answer starts with; they are not scored.
        length_penalty: the sum over an answer's tokens is divided by their number to this power, as
            in ``generate``: 0 is the sum, 1 the mean, more favours long answers.

    Returns:
        A score for each answer of each request.

    Raises:
        ValueError: a text has no token.
    """
    if any(not len(text) for own in texts for text in own):
        raise ValueError("a text needs at least one token, the closing one")
    decoder = TreeDecoder(model, encode(model, input_ids, attention_mask))
    hidden, positions, start = read_start(model, decoder, given, len(input_ids))
    # All texts of a request are read side by side, as one row; a token sees those of its own text
    # that stand before it. The last token of a text is only scored.
    read = [[text[:-1] for text in own] for own in texts]
    tokens = _rows([[t for text in own for t in text] for own in read])
    number = _rows([[n for n, text in enumerate(own) for _ in text] for own in read])
    place = _rows([[p for text in own for p in range(len(text))] for own in read])
    tokens, number, place = (rows.to(input_ids.device) for rows in (tokens, number, place))
    if tokens.shape[1]:
        same = number[:, :, None] == number[:, None, :]
        sees = same & (place[:, :, None] >= place[:, None, :])
        later = decoder.read(
            tokens.clamp(min=0),
            positions[:, None] + 1 + place.clamp(min=0),
            torch.cat([start.expand(-1, tokens.shape[1], -1), sees], dim=2),
        )
        hidden = torch.cat([hidden, later], dim=1)
    return _sums(model, hidden, texts, length_penalty)


def likeness(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """How much each text has in common with the others, on average, from 0 to 1.

    Of two texts it is the share of what they have in common among all that both have (Dice), of
    words and of pairs of words, two thirds and one third. By this the most typical of some
    texts is found, as minimum Bayes risk decoding does (Kumar and Byrne, 2004).

    Args:
        texts: any number of them; one alone is like none.

    Returns:
        Shape (texts,).
    """
    words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    grams = [Counter([*own, *pairwise(own)]) for own in words]
    column = {gram: n for n, gram in enumerate(dict.fromkeys(g for own in grams for g in own))}
    counts = np.zeros((len(texts), len(column)))
    for row, own in enumerate(grams):
        counts[row, [column[gram] for gram in own]] = list(own.values())
    weights = np.array([1 if isinstance(gram, tuple) else 2 for gram in column])
    shared = np.minimum(counts[:, None], counts) @ weights
    lengths = np.array([len(own) for own in words])
    alike = shared * 2 / 3 / np.maximum(lengths[:, None] + lengths, 1)
    np.fill_diagonal(alike, 0)
    found: npt.NDArray[np.float64] = alike.sum(axis=1) / max(len(texts) - 1, 1)
    return found


def _rows(values: Sequence[Sequence[int]]) -> torch.Tensor:
    """Shape (rows, longest), -1 past the end of a shorter row."""
    longest = max(map(len, values))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in values], dtype=torch.long)


def _sums(
    model: T5ForConditionalGeneration,
    hidden: torch.Tensor,
    texts: Sequence[Sequence[Sequence[int]]],
    length_penalty: float,
) -> list[list[float]]:
    """The score of each text's tokens; ``hidden`` is of the start, then of the read tokens."""
    request: list[int] = []
    state: list[int] = []
    wanted: list[int] = []
    owner: list[int] = []
    lengths: list[int] = []
    for row, own in enumerate(texts):
        place = 0
        for text in own:
            request += [row] * len(text)
            state += [0, *range(place + 1, place + len(text))]
            wanted += text
            owner += [len(lengths)] * len(text)
            lengths.append(len(text))
            place += len(text) - 1
    states = hidden[request, state]
    target = torch.tensor(wanted, device=hidden.device)[:, None]
    scores = torch.cat(
        [
            output_logits(model, part, None).log_softmax(-1).gather(1, label)[:, 0]
            for part, label in zip(states.split(_FEW), target.split(_FEW), strict=True)
        ]
    )
    sums = scores.new_zeros(len(lengths)).index_add_(
        0, torch.tensor(owner, device=hidden.device), scores
    )
    found = iter((sums.cpu() / torch.tensor(lengths) ** length_penalty).tolist())
    return [[next(found) for _ in own] for own in texts]
