"""Tokenizer and model for a corpus, from scratch or from a checkpoint."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from p5_t5.data.item_ids import ItemCodes
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
) -> P5ForConditionalGeneration:
    """A model that knows the tokenizer's tokens and which of them start a word."""
    model = build_model(config, checkpoint)
    model.resize_vocabulary(len(tokenizer))
    model.set_word_starts(word_starts(tokenizer, codes))
    return model
