"""Feature words: what reviews judge ("sound", "battery"), learnt from the reviews themselves.

Double propagation after Qiu et al., "Opinion Word Expansion and Target Extraction through Double
Propagation", Computational Linguistics 2011, with neighbouring words in place of a parser: what
is called good is a feature; what features are called, before them ("warm tone") and after them
("the tone is really warm"), is an opinion; and so on. The words that hold this together are those
of English grammar, so reviews in other languages teach nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from p5_t5.prompting.sentences import Sentences, split_sentences

SEEDS = """
    amazing awesome awful bad beautiful best better cheap easy excellent fine good great horrible
    nice perfect poor solid terrible wonderful
""".split()
ROUNDS = 5  # the lists hardly move after the third
FEWEST = 2  # so many different partners make a word a feature, or an opinion from either side
SHARE = 0.025  # in the end so many of all opinion words must judge a feature
_LINKS = "is are was were isn't aren't wasn't weren't feel feels look looks seem seems sound sounds"
_DETERMINERS = "a an the this that these those my your his her its our their any each every no some"
_STAND_INS = "one ones stuff thing things"
_BEFORE_VERBS = """
    i you we they he she it who to will would can could should may might must do does did don't
    doesn't didn't can't won't wouldn't couldn't please i'd i'll i've you'd you'll let
"""

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureWords:
    """What a collection of reviews judges, and with which words.

    Attributes:
        weights: each feature word with its weight: by how many different opinion words it is
            judged, times its inverse document frequency.
        opinions: the opinion words, the seeds among them.
    """

    weights: Mapping[str, float]
    opinions: frozenset[str]


@dataclass(frozen=True)
class Judgements:
    """Places where one word may judge another; all arrays are of shape (judgements,).

    Attributes:
        places: the judged word, as an index into the tokens.
        targets: its code.
        opinions: the code of the judging word.
        before: whether the judging word stands before the judged one.
    """

    places: Codes
    targets: Codes
    opinions: Codes
    before: Mask


def learn_feature_words(reviews: Sequence[str | None]) -> FeatureWords:
    """Learns the feature words of a collection of English reviews.

    Args:
        reviews: one text each; those of held-out interactions must not be among them.

    Returns:
        The words in alphabetical order; none where the reviews are too few to tell.
    """
    sentences = split_sentences(reviews)
    size = len(sentences.vocabulary)
    content = _content_words(sentences)
    found = find_judgements(sentences, content & ~_adverbs(sentences), content)
    seeds = occurring(sentences, SEEDS)
    opinions = seeds
    for _ in range(ROUNDS):
        features = ~opinions & (_judges(found, opinions, size) >= FEWEST)
        # A word that is judged more than it judges is a feature: the quality of a quality cable.
        judging = _judged_both_ways(found, features, size)
        opinions = seeds | ((judging >= FEWEST) & (judging > _judges(found, opinions, size)))
    judges = _judges(found, opinions, size)
    features = ~opinions & (judges >= max(FEWEST, SHARE * opinions.sum()))
    documents = _distinct(sentences.tokens, sentences.reviews[sentences.sentences], size)
    codes = np.flatnonzero(features)
    weights = judges[codes] * np.log((1 + len(reviews)) / documents[codes])
    words = sentences.vocabulary
    return FeatureWords(
        weights=dict(zip(words[codes].to_list(), weights.tolist(), strict=True)),
        opinions=frozenset({*SEEDS, *words[np.flatnonzero(opinions)].to_list()}),
    )


def find_judgements(sentences: Sentences, opinions: Mask, targets: Mask) -> Judgements:
    """Finds "warm tone" before the end of a phrase, "tone is warm" and "tone is really warm".

    Args:
        sentences: where to look.
        opinions: which words may judge, shape (vocabulary,).
        targets: which words may be judged, shape (vocabulary,).
    """
    tokens = sentences.tokens
    ended = np.append(tokens, np.repeat(tokens[-1:], 3))
    first, second, third, fourth = (ended[at : len(tokens) + at] for at in range(4))
    stop, link = _stop_words(sentences), occurring(sentences, _LINKS.split())
    adverb = stop | _adverbs(sentences)
    before = opinions[first] & targets[second] & stop[third]
    after = targets[first] & link[second] & opinions[third]
    later = targets[first] & link[second] & adverb[third] & opinions[fourth]
    places = np.concatenate(
        [np.flatnonzero(before) + 1, np.flatnonzero(after), np.flatnonzero(later)]
    )
    judging = np.concatenate([first[before], third[after], fourth[later]])
    return Judgements(places, tokens[places], judging, np.arange(len(places)) < before.sum())


def occurring(sentences: Sentences, words: Iterable[str]) -> Mask:
    """Which words of the vocabulary are among the given ones, shape (vocabulary,)."""
    known: Mask = sentences.vocabulary.is_in(sorted(words)).to_numpy()
    return known


def _stop_words(sentences: Sentences) -> Mask:
    """Words of grammar and marks: what a phrase of content words ends at."""
    stem = sentences.vocabulary.str.replace("'.*", "")
    grammar = sorted({*ENGLISH_STOP_WORDS, *_STAND_INS.split()})
    stop = stem.is_in(grammar) | ~stem.str.contains(r"[\p{L}\p{N}]")
    known: Mask = stop.to_numpy()
    return known


def _adverbs(sentences: Sentences) -> Mask:
    known: Mask = sentences.vocabulary.str.ends_with("ly").to_numpy()
    return known


def _content_words(sentences: Sentences) -> Mask:
    """Words that may name or judge: not of grammar, and no more verbs than nouns or adjectives."""
    written = sentences.vocabulary.str.contains(r"^\p{L}{3,}$").to_numpy()
    followers = [_followers(sentences, kind.split()) for kind in (_DETERMINERS, _BEFORE_VERBS)]
    content: Mask = written & ~_stop_words(sentences) & (followers[0] >= followers[1])
    return content | occurring(sentences, SEEDS)


def _followers(sentences: Sentences, words: Sequence[str]) -> Codes:
    """How often each word stands right after one of the given ones, shape (vocabulary,)."""
    before, after = sentences.tokens[:-1], sentences.tokens[1:]
    after = after[occurring(sentences, words)[before]]
    return np.bincount(after, minlength=len(sentences.vocabulary))


def _judges(found: Judgements, opinions: Mask, size: int) -> Codes:
    """By how many different opinion words each word is judged, shape (vocabulary,)."""
    kept = opinions[found.opinions]
    return _distinct(found.targets[kept], found.opinions[kept], size)


def _judged_both_ways(found: Judgements, features: Mask, size: int) -> Codes:
    """How many different features each word judges, before or after: the fewer of the two."""
    kept = features[found.targets]
    sides = [kept & found.before, kept & ~found.before]
    counts = [_distinct(found.opinions[side], found.targets[side], size) for side in sides]
    return np.minimum(*counts)


def _distinct(codes: Codes, partners: Codes, size: int) -> Codes:
    """How many different partners each code has, shape (size,)."""
    span = int(partners.max(initial=0)) + 1
    return np.bincount(np.unique(codes * span + partners) // span, minlength=size)
