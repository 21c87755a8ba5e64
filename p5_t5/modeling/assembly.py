"""Tokenizer and model for a corpus, from scratch or from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from p5_t5.data.cooccurrence import Vectors, cooccurrence_vectors
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.splits import Split
from p5_t5.data.usual_stars import star_texts
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration, build_model, is_p5
from p5_t5.modeling.tokenizer import (
    add_item_tokens,
    check_item_tokens,
    check_sentinels,
    load_tokenizer,
    train_tokenizer,
    word_starts,
)
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.span_corruption import SENTINELS

# A tokenizer learns from so many rendered examples.
_EXAMPLES = 20_000
_NUMBER = re.compile(r"▁(\d+(?:\.\d+)?)").fullmatch
# How far apart numbers of stars are that start .6 alike, and what part of each is its own.
_STARS_APART, _OWN = 0.5, 0.05


def make_tokenizer(
    corpus: Corpus, checkpoint: str | None, vocab_size: int, seed: int
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, or one learnt from rendered training examples; item tokens added.

    A P5 has its item tokens already: they stay as they are, and so do their weights.

    Args:
        corpus: what will be said.
        checkpoint: a folder or a name on the Hub.
        vocab_size: pieces of a tokenizer that is learnt.
        seed: of the choice of examples.

    Raises:
        ValueError: item tokens or, where spans are masked, sentinels don't fit the checkpoint.
    """
    codes = corpus.catalogue.codes
    if checkpoint is not None and is_p5(checkpoint):
        tokenizer = load_tokenizer(checkpoint)
        check_item_tokens(tokenizer, codes)
    elif checkpoint is not None:
        tokenizer = load_tokenizer(checkpoint)
        add_item_tokens(tokenizer, codes)
    else:
        # Of all that a prompt tells these say most of a star; a rare one must not fall to pieces.
        stars = star_texts(corpus.ratings)
        tokenizer = train_tokenizer(_texts(corpus, seed), vocab_size, stars)
        add_item_tokens(tokenizer, codes)
    if any(task.corrupts for task, _ in corpus.tasks):
        check_sentinels(tokenizer)
    return tokenizer


def make_model(
    config: P5Config,
    tokenizer: PreTrainedTokenizerBase,
    codes: ItemCodes,
    checkpoint: str | None,
    told: Corpus | None = None,
    seed: int = 0,
) -> P5ForConditionalGeneration:
    """A model that knows the tokenizer's tokens and which of them start a word.

    Args:
        config: its shape.
        tokenizer: with the item tokens.
        codes: of the items.
        checkpoint: a folder or a name on the Hub.
        told: new item tokens start near those that stand beside them in the training histories of
            this corpus, and a new tokenizer's pieces near those beside them in its prompts, but for
            numbers of stars, which start near each other; without it they start at random. Those
            of a checkpoint stay as they are.
        seed: of that start.
    """
    model = build_model(config, checkpoint)
    model.resize_vocabulary(len(tokenizer))
    model.set_word_starts(word_starts(tokenizer, codes))
    if told is None:
        return model
    if codes.new_tokens and (checkpoint is None or not is_p5(checkpoint)):
        _place_items(model, tokenizer, codes, told.split, seed)
    if checkpoint is None:
        _place_pieces(model, tokenizer, _texts(told, seed), seed)
        if told.answers:
            _place_stars(model, tokenizer, told.answers)
    return model


def _texts(corpus: Corpus, seed: int) -> list[str]:
    """Rendered training examples, sources and targets, without words that become tokens."""
    mixture = Mixture(corpus, str.split, "", tokens_per_batch=1, batches_per_step=1, seed=seed)
    codes = corpus.catalogue.codes
    added = set(SENTINELS) | (set(codes.texts) if codes.new_tokens else set())
    prompts = mixture.sample(_EXAMPLES)
    texts = (text for prompt in prompts for text in (prompt.source, prompt.target))
    return [" ".join(word for word in text.split() if word not in added) for text in texts]


def _place_items(
    model: P5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    codes: ItemCodes,
    split: Split,
    seed: int,
) -> None:
    """Moves item tokens to where their items lie; a token of many items lies in their middle."""
    offsets, items = split.train_histories()
    count = len(codes.pieces)
    generator = np.random.default_rng(seed)
    vectors = cooccurrence_vectors(
        offsets, items.astype(np.int64), count, model.model_dim, generator
    )
    number = {token: n for n, token in enumerate(codes.new_tokens)}
    tokens = [[number[piece] for piece in pieces] for pieces in codes.pieces]
    middle = np.zeros((len(number), vectors.shape[1]))
    uses = np.zeros((len(number), 1))
    for own, vector in zip(tokens, vectors, strict=True):
        middle[own] += vector
        uses[own] += 1
    _place(model, tokenizer.convert_tokens_to_ids(list(number)), middle / uses)


def _place_pieces(
    model: P5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    seed: int,
) -> None:
    """Moves pieces of words to where the texts have them."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    pieces = np.fromiter((piece for row in rows for piece in row), dtype=np.int64)
    generator = np.random.default_rng([6, seed])
    vectors = cooccurrence_vectors(offsets, pieces, len(tokenizer), model.model_dim, generator)
    # All numbers stand beside the same words, and must be told from each other first of all.
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    numbers = [any(letter.isdigit() for letter in token) for token in tokens]
    placed = np.flatnonzero(vectors.any(1) & ~np.array(numbers))
    _place(model, placed.tolist(), vectors[placed])


@torch.no_grad()
def _place_stars(
    model: P5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, answers: Sequence[float]
) -> None:
    """Moves numbers within the range of the stars to a smooth path: 4.6 is close to 4.5, not to 2.

    They stay as far from nought as they were, in the mean.
    """
    found = [(float(n[1]), token) for token in tokenizer.get_vocab() if (n := _NUMBER(token))]
    within = sorted(pair for pair in found if min(answers) <= pair[0] <= max(answers))
    if not within:
        return
    place = np.array([number for number, _ in within])
    alike = np.exp(-0.5 * ((place[:, None] - place) / _STARS_APART) ** 2)
    # Mixtures of the drawn vectors by a root of this matrix are as alike as it says.
    mixture = np.linalg.cholesky((1 - _OWN) * alike + _OWN * np.eye(len(place)))
    rows = torch.tensor(
        tokenizer.convert_tokens_to_ids([token for _, token in within]), device=model.device
    )
    for weight in _vocabulary(model):
        weight[rows] = (
            torch.tensor(mixture, dtype=weight.dtype, device=weight.device) @ weight[rows]
        )


def _vocabulary(model: P5ForConditionalGeneration) -> list[torch.nn.Parameter]:
    """The matrices with one row a token: one where the output layer is tied, else two."""
    return list({id(w): w for w in (model.shared.weight, model.lm_head.weight)}.values())


@torch.no_grad()
def _place(model: P5ForConditionalGeneration, tokens: list[int], vectors: Vectors) -> None:
    """Moves tokens' embeddings from where they were drawn towards vectors of at most length one.

    They stay as far from nought as they were; what shorter vectors leave open stays as drawn.
    """
    placed = torch.tensor(vectors, dtype=model.dtype, device=model.device)
    rows = torch.tensor(tokens, device=model.device)
    # Their leading directions would fill the first dimensions alone.
    turned = placed @ torch.nn.init.orthogonal_(placed.new_empty(placed.shape[1], model.model_dim))
    left = (1 - turned.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    for weight in _vocabulary(model):
        drawn = weight[rows]
        weight[rows] = turned * drawn.norm(dim=1).mean() + drawn * left
