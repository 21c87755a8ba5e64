"""Explanations from reviews: own sentences, from words that no held-out review taught."""

from __future__ import annotations

from itertools import cycle, islice

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.feature_words import SEEDS, FeatureWords
from p5_t5.prompting.review_explanations import choose_sentences, extract_explanations

WORDS = FeatureWords({"neck": 1.0, "tone": 2.0, "box": 3.0}, frozenset({"great", "warm"}))
TRAINING = [f"A {seed} tone on the {seed} neck." for seed in SEEDS]


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("Hm. The tone is warm. Bye", ("The tone is warm.", "tone")),
        # judged goes before mentioned, then weight, then place
        ("A great day for the box. Such a warm neck.", ("Such a warm neck.", "neck")),
        ("It has a warm neck. It has a warm tone.", ("It has a warm tone.", "tone")),
        ("The warm tone sings. It has a warm tone.", ("It has a warm tone.", "tone")),
        ("So warm a neck, and tone", ("So warm a neck, and tone", "tone")),
        ("First a warm tone! Last a warm tone!", ("First a warm tone!", "tone")),
        # what is no explanation
        ("Warm tone.", (None, None)),
        ("The tone of the neck.", (None, None)),
        ("What a great day.", (None, None)),
        ("A warm tone, see www.example.org", (None, None)),
        ("A warm tone, see HTTPS://example.org", (None, None)),
        ("A warm tone" + " again" * 28, (None, None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_the_sentence_that_explains(
    review: str | None, expected: tuple[str | None, str | None]
) -> None:
    sentences, features = choose_sentences(["nothing", review], WORDS)
    assert (sentences[1], features[1]) == expected
    assert sentences[0] is features[0] is None


parts = ["The tone is warm", "a great", "neck", "box", "warm", "it", ".", "!", ", ", "\n", " "]


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.sampled_from(parts), max_size=12).map(" ".join)))
def test_explanations_stand_in_their_reviews_and_name_their_features(
    reviews: list[str | None],
) -> None:
    sentences, features = choose_sentences(reviews, WORDS)
    for review, sentence, feature in zip(reviews, sentences, features, strict=True):
        assert (sentence is None) == (feature is None)
        if sentence is not None:
            assert sentence in (review or "")
            assert 3 <= len(sentence.split()) <= 30
            assert feature in WORDS.weights
            assert feature in sentence.lower()


def made(*heldout: str) -> Split:
    """Users with three training reviews each, then the two held-out ones."""
    praise = cycle(TRAINING)
    rows = [
        (f"u{user}", f"i{at}", text)
        for user in range(10)
        for at, text in enumerate([*islice(praise, 3), *heldout])
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "review"], orient="row")
    return leave_one_out(check_tables("made", frame))


def test_training_reviews_teach_and_heldout_ones_do_not() -> None:
    leak = " ".join(f"A {seed} zither." for seed in SEEDS)
    split = extract_explanations(made("Oh, a warm and great neck.", leak))
    again = extract_explanations(made("Nothing.", "No thing."))
    train, test = split.rows("train"), split.rows("test")
    for column in ("explanation", "feature"):
        learnt = [split.texts[column][row] for row in train]
        assert learnt == [again.texts[column][row] for row in train]
        assert all(learnt)
    assert "zither" not in split.texts["feature"]
    assert {split.texts["feature"][row] for row in test} == {None}
    assert {split.texts["feature"][row] for row in split.rows("validation")} == {"neck"}
    assert split.texts["review"] == made("Oh, a warm and great neck.", leak).texts["review"]
    assert not split.derived_explanations


def test_reviews_that_teach_nothing_leave_the_split_as_it_is() -> None:
    rows = [("u", item, "Jamais vu.") for item in "abc"]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "review"], orient="row")
    split = leave_one_out(check_tables("made", frame))
    assert extract_explanations(split) is split
