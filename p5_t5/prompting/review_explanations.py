"""Explanations from reviews: the sentence that judges a feature, and the feature's word.

The feature words are learnt from training reviews only. Each review, of a held-out interaction
too, then gives one of its own sentences: for those it is the answer that a model is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from p5_t5.data.splits import Split
from p5_t5.prompting.feature_words import (
    FeatureWords,
    find_judgements,
    learn_feature_words,
    occurring,
)
from p5_t5.prompting.sentences import split_sentences

SHORTEST, LONGEST = 3, 30  # words of an explanation
LINK = r"(?i)https?:|www\."


def extract_explanations(split: Split) -> Split:
    """Adds ``explanation`` and ``feature``, taken from the reviews, where a sentence serves.

    Args:
        split: a split with reviews.

    Returns:
        The same split with the two text columns, ``None`` where a review judges nothing; without
        them where the training reviews teach no feature word.
    """
    reviews = split.texts["review"]
    words = learn_feature_words([reviews[row] for row in split.of_rows.rows("train").tolist()])
    if not words.weights:
        return split
    explanation, feature = choose_sentences(reviews, words)
    return replace(
        split, texts=dict(split.texts) | {"explanation": explanation, "feature": feature}
    )


def choose_sentences(
    reviews: Sequence[str | None], words: FeatureWords
) -> tuple[list[str | None], list[str | None]]:
    """Chooses for each review the sentence that explains, and the feature word in it.

    A sentence needs 3 to 30 words, a feature word and an opinion word, and no link. One whose
    feature is judged in it ("the tone is warm") goes before one that only has both; then the
    feature of the greatest weight wins, then the first.

    Returns:
        Two lists of shape (reviews,): sentences and feature words, ``None`` where there is none.
    """
    sentences = split_sentences(reviews)
    known, tokens, owner = sentences.vocabulary, sentences.tokens, sentences.sentences
    opinions = occurring(sentences, words.opinions)
    weights = known.replace_strict(words.weights, default=0.0, return_dtype=pl.Float64).to_numpy()
    judged = np.zeros(len(tokens), dtype=bool)
    judged[find_judgements(sentences, opinions, weights > 0).places] = True
    length = sentences.texts.str.count_matches(r"\S+").to_numpy()
    clear = (length >= SHORTEST) & (length <= LONGEST)
    clear &= ~sentences.texts.str.contains(LINK).to_numpy()
    clear &= np.bincount(owner[opinions[tokens]], minlength=len(clear)) > 0
    places = np.flatnonzero((weights[tokens] > 0) & clear[owner])
    rows = sentences.reviews[owner[places]]
    best = np.lexsort((places, -weights[tokens[places]], ~judged[places], rows))
    rows, first = np.unique(rows[best], return_index=True)
    chosen = places[best[first]]
    explanation: list[str | None] = [None] * len(reviews)
    feature: list[str | None] = [None] * len(reviews)
    texts, names = sentences.texts[owner[chosen]].to_list(), known[tokens[chosen]].to_list()
    for row, text, name in zip(rows.tolist(), texts, names, strict=True):
        explanation[row], feature[row] = text, name
    return explanation, feature
