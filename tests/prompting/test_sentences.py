"""Reviews as sentences: nothing is lost, and every word is found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.prompting.sentences import END, split_sentences


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("Nice. It works!  Really?", ["Nice.", "It works!", "Really?"]),
        ("It works.Great sound", ["It works.", "Great sound"]),
        ("one line\nanother line", ["one line", "another line"]),
        ("Made in the U.S.A. for $9.99", ["Made in the U.S.A.", "for $9.99"]),
        ('He said "wow." (It was.) So', ['He said "wow."', "(It was.)", "So"]),
        ("no mark at all ...", ["no mark at all ..."]),
    ],
)
def test_where_sentences_end(review: str, expected: list[str]) -> None:
    assert split_sentences([review]).texts.to_list() == expected


def test_tokens_are_words_and_marks_in_lower_case() -> None:
    sentences = split_sentences([None, "Don’t buy, it's BAD", "", "Why? 9v!"])
    words = sentences.vocabulary[sentences.tokens].to_list()
    assert words == ["don't", "buy", ",", "it's", "bad", END, "why", "?", END, "9v", "!", END]
    assert sentences.sentences.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert sentences.reviews.tolist() == [1, 3, 3]


@settings(deadline=None)
@given(st.lists(st.none() | st.text(alphabet=" \nab.!?\"')AÉß9,’'-(", max_size=40), max_size=5))
def test_nothing_is_lost(reviews: list[str | None]) -> None:
    sentences = split_sentences(reviews)
    for row, review in enumerate(reviews):
        own = sentences.texts.filter(sentences.reviews == row).to_list()
        assert "".join("".join(own).split()) == "".join((review or "").split())
    ends = sentences.vocabulary[sentences.tokens] == END
    last = np.flatnonzero(np.diff(sentences.sentences, append=len(sentences.texts)))
    assert len(last) == len(sentences.texts)
    assert ends.gather(last).all()
    assert sentences.vocabulary.is_sorted()
