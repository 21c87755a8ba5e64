"""Choices and words: the same numbers that a search over everything gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5_t5.artifact import load_artifact
from p5_t5.decoding.predictor import Predictor
from p5_t5.prompting.prompter import Prompt


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    model, tokenizer, knowledge = load_artifact(trained)
    return knowledge.predictor(model, tokenizer)


PROMPTS = [
    Prompt(source, given, "")
    for source, given in [
        ("Go on with the list of user_3 : <item_1> <item_2>", ""),
        ("user_7 went through <item_5> <item_9> <item_11> . Which one follows?", ""),
        ("Is <item_4> something for user_1 ?", "<item_3> "),
        ("Would it please?", ""),
    ]
]


def test_a_choice_ranks_all_candidates_exactly(predictor: Predictor) -> None:
    """As the search over the whole catalogue does, with every item returned."""
    generator = np.random.default_rng(0)
    candidates = [generator.permutation(120)[:n] for n in (100, 7, 1, 40)]
    items, scores = predictor.choose(PROMPTS, candidates)
    everything, all_scores = predictor.rank(PROMPTS, 120)
    assert items.shape == scores.shape == (4, 100)
    for i, own in enumerate(candidates):
        among = np.isin(everything[i], own)
        assert items[i, : len(own)].tolist() == everything[i][among].tolist()
        assert scores[i, : len(own)] == pytest.approx(all_scores[i][among], abs=1e-4)
        assert (items[i, len(own) :] == -1).all() and np.isneginf(scores[i, len(own) :]).all()


def test_two_words_share_the_probability(predictor: Predictor) -> None:
    for words in (("yes", "no"), ("like", "dislike"), ("4", "45")):
        first = predictor.word_probabilities(PROMPTS, words)
        second = predictor.word_probabilities(PROMPTS, words[::-1])
        assert first.shape == (4,)
        assert ((first > 0) & (first < 1)).all()
        assert first + second == pytest.approx(np.ones(4), abs=1e-5)


def test_the_stars_as_words_are_the_stars(trained: Path) -> None:
    """A predictor that knows two stars gives them the probabilities of the two words."""
    model, tokenizer, knowledge = load_artifact(trained)
    two = Predictor(model, tokenizer, knowledge.catalogue.codes, [2.0, 5.0])
    chance = two.word_probabilities(PROMPTS, ("5", "2"))
    expected, _ = two.rate(PROMPTS)
    assert expected == pytest.approx(2 + 3 * chance, abs=1e-4)


def test_a_word_does_not_depend_on_its_batch(predictor: Predictor) -> None:
    together = predictor.word_probabilities(PROMPTS, ("yes", "no"))
    alone = [predictor.word_probabilities([prompt], ("yes", "no"))[0] for prompt in PROMPTS]
    assert together == pytest.approx(alone, abs=1e-5)
