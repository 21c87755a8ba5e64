"""Feature words: found by what is said of them, spread from word to word, English grammar only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.prompting.feature_words import (
    SEEDS,
    find_judgements,
    learn_feature_words,
    occurring,
)
from p5_t5.prompting.sentences import split_sentences

# Of the seeds only "great" and "poor" occur; "warm" and "clear" must be learnt before "hinge" can.
REVIEWS = [
    "A great tone. The tone is poor on stage.",
    "Great neck! The neck is really poor.",
    "A warm tone, and the neck is warm.",
    "A warm neck. The tone is so warm.",
    "The clear tone of a clear neck: the tone is clear, the neck is clear.",
    "The hinge is warm.",
    "A clear hinge.",
    "They say nothing at all.",
]


def judged(review: str, opinions: list[str], targets: list[str]) -> list[tuple[str, str, bool]]:
    sentences = split_sentences([review])
    found = find_judgements(
        sentences, occurring(sentences, opinions), occurring(sentences, targets)
    )
    words = sentences.vocabulary
    assert words[sentences.tokens[found.places]].to_list() == words[found.targets].to_list()
    return list(
        zip(
            words[found.opinions].to_list(),
            words[found.targets].to_list(),
            found.before.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("A warm tone.", [("warm", "tone", True)]),
        ("warm tone", [("warm", "tone", True)]),
        ("A warm tone of old", [("warm", "tone", True)]),
        ("A warm tone knob", []),
        ("The tone is warm", [("warm", "tone", False)]),
        ("The tone wasn't warm", [("warm", "tone", False)]),
        ("The tone is so warm", [("warm", "tone", False)]),
        ("The tone is incredibly warm", [("warm", "tone", False)]),
        ("The tone is wood warm", []),
        ("I like its tone. Warm is good", []),
        ("Warm. Tone", []),
    ],
)
def test_where_a_word_judges_another(review: str, expected: list[tuple[str, str, bool]]) -> None:
    assert judged(review, ["warm"], ["tone"]) == expected


def test_words_spread_from_the_seeds() -> None:
    words = learn_feature_words(REVIEWS)
    assert set(words.weights) == {"hinge", "neck", "tone"}
    assert words.opinions == {"clear", "warm", *SEEDS}
    # 4 of the 8 reviews name the tone, 4 opinions judge it; 2 name the hinge.
    assert words.weights["tone"] == pytest.approx(4 * np.log(9 / 4))
    assert words.weights["hinge"] == pytest.approx(2 * np.log(9 / 2))
    # Without what teaches "clear" and "warm" nobody judges the hinge.
    assert "hinge" not in learn_feature_words([*REVIEWS[:2], *REVIEWS[5:]]).weights


def test_a_word_that_is_judged_more_than_it_judges_is_a_feature() -> None:
    cables = ["A quality tone. A quality neck.", "The tone is quality and the neck is quality."]
    praise = [f"The {seed} quality." for seed in ("great", "poor", "good")]
    words = learn_feature_words([*REVIEWS, *cables, *praise])
    assert "quality" in words.weights
    assert "quality" in learn_feature_words([*REVIEWS, *cables]).opinions


def test_verbs_and_words_that_stand_for_others_are_no_features() -> None:
    reviews = [f"The {seed} thing. I {seed} recommend it. I recommend." for seed in SEEDS]
    assert not learn_feature_words(reviews).weights


@pytest.mark.parametrize("reviews", [[], [None, ""], ["La guitare est très bonne."] * 9, ["..."]])
def test_where_nothing_is_said_in_english_nothing_is_learnt(reviews: list[str | None]) -> None:
    assert not learn_feature_words(reviews).weights


@settings(deadline=None, max_examples=30)
@given(st.permutations(REVIEWS + [None] * 2))
def test_the_order_of_the_reviews_says_nothing(reviews: list[str | None]) -> None:
    assert learn_feature_words(reviews) == learn_feature_words(REVIEWS + [None] * 2)


def test_features_of_musical_instruments(shared: Path) -> None:
    folder = shared / "amazon_musical_instruments"
    lines = pl.read_ndjson(folder / "reviews_Musical_Instruments_5.json.gz")
    known = set(json.loads((folder / "sentires_features.json").read_text("utf-8")))
    found = set(learn_feature_words(lines["reviewText"].to_list()).weights)
    precision, recall = (len(known & found) / len(words) for words in (found, known))
    assert 2 * precision * recall / (precision + recall) > 0.44
    assert {"sound", "strings", "price", "tuner", "battery"} <= found
    assert not found & {"great", "very", "buy", "recommend", "thing", "i"}
