"""What comes again is as probable as it is often, and ranked by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.artifact import load_artifact
from p5_t5.decoding.predictor import Predictor
from p5_t5.decoding.repeats import fit_repeats
from p5_t5.prompting.prompter import Prompt

SOURCES = ["Go on with <item_3> , <item_4>", "Go on", "What does one who has <item_7> want ?"]
PROMPTS = [Prompt(source=source, given="", target="") for source in SOURCES]
HAD = [np.array(row, dtype=np.int32) for row in ([3, 4, 3], [], [7, 0, 50, 119])]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    model, tokenizer, knowledge = load_artifact(trained)
    return knowledge.predictor(model, tokenizer)


@pytest.mark.parametrize("repeats", [-5.0, 4.0])
@pytest.mark.parametrize("k", [5, 120])
@pytest.mark.parametrize("masked", [False, True])
def test_what_comes_again_is_as_probable_as_it_is_said_to_be(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, repeats: float, k: int, masked: bool
) -> None:
    allowed = torch.ones(120, dtype=torch.bool)
    if masked:
        allowed[[4, 50, 60]] = False
    free, free_scores = predictor.rank(PROMPTS, 120)
    monkeypatch.setattr(predictor, "repeats", repeats)
    items, scores = predictor.rank(PROMPTS, k, None, allowed if masked else None, HAD)
    for row in range(3):
        probabilities = np.zeros(120)
        probabilities[free[row]] = np.exp(free_scores[row])
        probabilities[np.unique(HAD[row])] *= np.exp(repeats)
        probabilities /= probabilities.sum()
        probabilities[~allowed.numpy()] = 0
        legal = min(k, int(allowed.sum()))
        assert items[row, :legal].tolist() == np.argsort(-probabilities)[:legal].tolist()
        assert (items[row, legal:] == -1).all() and (scores[row, legal:] == -np.inf).all()
        found = np.exp(scores[row, :legal])
        np.testing.assert_allclose(found, probabilities[items[row, :legal]], rtol=1e-3)
    # Where they are excluded, or none is known, the model alone decides.
    plain = predictor.rank(PROMPTS, k, HAD, had=HAD)
    monkeypatch.setattr(predictor, "repeats", 0.0)
    for one, two in zip(plain, predictor.rank(PROMPTS, k, HAD), strict=True):
        np.testing.assert_array_equal(one, two)


def test_who_has_all_that_is_allowed_gets_it_again(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "repeats", -5.0)
    allowed = torch.zeros(120, dtype=torch.bool)
    allowed[[0, 7, 50]] = True
    items, scores = predictor.rank(PROMPTS, 5, None, allowed, HAD)
    assert set(items[2, :3].tolist()) == {0, 7, 50} and (items[2, 3:] == -1).all()
    assert (np.diff(scores[2, :3]) <= 0).all()


def shifted(seen: np.ndarray, shift: float) -> np.ndarray:
    """The probability of what was there before, once it and all else are shared out anew."""
    odds = seen / (1 - seen) * np.exp(shift)
    return odds / (1 + odds)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(-3.0, 3.0))
def test_what_comes_again_is_as_probable_as_it_is_often(seed: int, true: float) -> None:
    generator = np.random.default_rng(seed)
    seen = generator.beta(1.0, 5.0, 5_000)
    again = generator.random(5_000) < shifted(seen, true)
    found = fit_repeats(seen, again)
    # But for the doubt of one example.
    assert shifted(seen, found).sum() == pytest.approx(again.sum(), abs=abs(found) + 0.5)


def test_where_nothing_comes_again_it_is_hardly_expected_and_more_so_the_more_is_known() -> None:
    few, many = (fit_repeats(np.full(n, 0.1), np.zeros(n, dtype=bool)) for n in (20, 2_000))
    assert -20 < many < few < 0
    assert shifted(np.array([0.1]), many) < 0.005
