"""Tokenizer and model for a corpus, from scratch or from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from p5_t5.data.cooccurrence import Vectors, cooccurrence_vectors
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.leanings import word_leanings
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
# A usual word lies so far on the way from few stars to many, and no word further than the second.
_LEANING, _FURTHEST = 0.4, 0.8


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
            numbers of stars, which start near each other; words of reviews lean to the stars that
            they go with. Without it all start at random. Those of a checkpoint stay as they are.
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
        stars = _star_tokens(tokenizer, told.answers)
        if stars:
            _place_stars(model, stars)
            _lean_pieces(model, tokenizer, told, (stars[0][1], stars[-1][1]), seed)
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
    placed = np.flatnonzero(vectors.any(1) & ~_numbers(tokenizer))
    _place(model, placed.tolist(), vectors[placed])


def _star_tokens(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[float]
) -> list[tuple[float, int]]:
    """The numbers within the range of the answers that are one token, with it, lowest first."""
    if not answers:
        return []
    vocabulary = tokenizer.get_vocab().items()
    found = [(float(match[1]), id_) for token, id_ in vocabulary if (match := _NUMBER(token))]
    return sorted(pair for pair in found if min(answers) <= pair[0] <= max(answers))


@torch.no_grad()
def _place_stars(model: P5ForConditionalGeneration, stars: Sequence[tuple[float, int]]) -> None:
    """Moves numbers of stars to a smooth path: 4.6 is close to 4.5, not to 2.

    They stay as far from nought as they were, in the mean.
    """
    place = np.array([number for number, _ in stars])
    alike = np.exp(-0.5 * ((place[:, None] - place) / _STARS_APART) ** 2)
    # Mixtures of the drawn vectors by a root of this matrix are as alike as it says.
    mixture = np.linalg.cholesky((1 - _OWN) * alike + _OWN * np.eye(len(place)))
    rows = torch.tensor([token for _, token in stars], device=model.device)
    for weight in _vocabulary(model):
        weight[rows] = (
            torch.tensor(mixture, dtype=weight.dtype, device=weight.device) @ weight[rows]
        )


@torch.no_grad()
def _lean_pieces(
    model: P5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    ends: tuple[int, int],
    seed: int,
) -> None:
    """Moves pieces of reviews' words towards the most stars or the fewest, as they go with them.

    What a review says of its stars is then there from the first step on; learnt from the stars
    alone it takes long, and what is learnt by heart in that time is never unlearnt. ``ends`` are
    the tokens of the fewest stars and of the most.
    """
    prompts = (template for task in corpus.judged for template in corpus.of(task))
    if not any("review" in template.slots for template in prompts):
        return
    split = corpus.split
    rows = split.of_rows.rows("train")
    rows = rows[(split.known("review") & split.known("rating"))[rows]]
    if rows.size > _EXAMPLES:
        rows = np.random.default_rng([7, seed]).choice(rows, _EXAMPLES, replace=False)
    if not rows.size:
        return
    none = [None] * len(split.histories.items)
    texts = [split.texts.get(name, none) for name in ("summary", "review")]
    told = [" ".join(column[row] or "" for column in texts) for row in rows.tolist()]
    pieces = tokenizer(told, add_special_tokens=False)["input_ids"]
    leanings = word_leanings(pieces, split.histories.ratings[rows], len(tokenizer))
    leanings[_numbers(tokenizer)] = 0
    leaning = np.flatnonzero(leanings)
    part = np.clip(_LEANING * leanings[leaning], -_FURTHEST, _FURTHEST)[:, None]
    moved, parts = torch.tensor(leaning, device=model.device), torch.tensor(part, dtype=model.dtype)
    for weight in _vocabulary(model):
        way = torch.nn.functional.normalize(weight[ends[1]] - weight[ends[0]], dim=0)
        before, to = weight[moved], parts.to(weight.device)
        length = before.norm(dim=1, keepdim=True)
        weight[moved] = before * (1 - to.square()).sqrt() + way * length * to


def _numbers(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.bool_]:
    """Which tokens have a digit, shape (tokens,)."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return np.array([any(letter.isdigit() for letter in token) for token in tokens])


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
