"""Tokenizer and model for a corpus, from scratch or from a checkpoint."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.item_vectors import Vectors, item_vectors
from p5_t5.data.splits import Split
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
        mixture = Mixture(corpus, str.split, "", tokens_per_batch=1, batches_per_step=1, seed=seed)
        # Words that become item tokens would only fill the vocabulary.
        added = set(SENTINELS) | (set(codes.texts) if codes.new_tokens else set())
        prompts = mixture.sample(_EXAMPLES)
        texts = (text for prompt in prompts for text in (prompt.source, prompt.target))
        plain = (" ".join(word for word in text.split() if word not in added) for text in texts)
        tokenizer = train_tokenizer(plain, vocab_size)
        add_item_tokens(tokenizer, codes)
    if any(task.corrupts for task, _ in corpus.tasks):
        check_sentinels(tokenizer)
    return tokenizer


def make_model(
    config: P5Config,
    tokenizer: PreTrainedTokenizerBase,
    codes: ItemCodes,
    checkpoint: str | None,
    told: Split | None = None,
    seed: int = 0,
) -> P5ForConditionalGeneration:
    """A model that knows the tokenizer's tokens and which of them start a word.

    Args:
        config: its shape.
        tokenizer: with the item tokens.
        codes: of the items.
        checkpoint: a folder or a name on the Hub.
        told: new item tokens start near those that stand beside them in the training histories of
            this split; without it they start at random. Those of a P5 stay as they are.
        seed: of that start.
    """
    model = build_model(config, checkpoint)
    model.resize_vocabulary(len(tokenizer))
    model.set_word_starts(word_starts(tokenizer, codes))
    new = codes.new_tokens and (checkpoint is None or not is_p5(checkpoint))
    if told is not None and new:
        offsets, items = told.train_histories()
        vectors = item_vectors(
            offsets,
            items.astype(np.int64),
            len(codes.pieces),
            model.config.d_model,
            np.random.default_rng(seed),
        )
        _place_items(model, tokenizer, codes, vectors)
    return model


@torch.no_grad()
def _place_items(
    model: P5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    codes: ItemCodes,
    vectors: Vectors,
) -> None:
    """Moves item tokens from where they were drawn to where their items lie, no nearer to nought.

    A token of many items lies in their middle; what their vectors leave open stays as drawn.
    """
    number = {token: n for n, token in enumerate(codes.new_tokens)}
    middle = np.zeros((len(number), vectors.shape[1]))
    count = np.zeros(len(number))
    for pieces, vector in zip(codes.pieces, vectors, strict=True):
        for piece in pieces:
            middle[number[piece]] += vector
            count[number[piece]] += 1
    placed = torch.tensor(middle / count[:, None], dtype=model.dtype, device=model.device)
    rows = torch.tensor(tokenizer.convert_tokens_to_ids(list(number)), device=model.device)
    # Their leading directions would fill the first dimensions alone.
    turned = placed @ torch.nn.init.orthogonal_(placed.new_empty(placed.shape[1], model.model_dim))
    left = (1 - turned.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    for weight in {id(w): w for w in (model.shared.weight, model.lm_head.weight)}.values():
        drawn = weight[rows]
        weight[rows] = turned * drawn.norm(dim=1).mean() + drawn * left
