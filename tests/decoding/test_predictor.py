"""What a ranking may name, lists of excluded items and masks together; the choice of a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from p5_t5.artifact import load_artifact
from p5_t5.decoding.predictor import Predictor
from p5_t5.prompting.prompter import Prompt
from p5_t5.prompting.reasons import Reason

SOURCES = ["Go on with <item_3> , <item_4>", "Go on", "What does one who has <item_7> want ?"]
PROMPTS = [Prompt(source=source, given="", target="") for source in SOURCES]
EXCLUDED = [np.array(row, dtype=np.int32) for row in ([3, 4], [], [7])]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    model, tokenizer, knowledge = load_artifact(trained)
    predictor = knowledge.predictor(model, tokenizer)
    predictor.batch_size = 2
    return predictor


@pytest.mark.parametrize("excluded", [None, EXCLUDED])
@pytest.mark.parametrize("each", [False, True])
def test_masks_and_excluded_items_hold_together(
    predictor: Predictor, excluded: list[np.ndarray] | None, each: bool
) -> None:
    allowed = torch.zeros(3, 120, dtype=torch.bool)
    allowed[:, 2:9] = True
    if each:
        allowed[1, 5:60] = True
    items, scores = predictor.rank(PROMPTS, 120, excluded, allowed if each else allowed[0])
    free, free_scores = predictor.rank(PROMPTS, 120)
    for row in range(3):
        legal = set(allowed[row].nonzero().flatten().tolist())
        legal -= set() if excluded is None else set(excluded[row].tolist())
        assert (items[row, len(legal) :] == -1).all()
        found = items[row, : len(legal)].tolist()
        kept = np.isin(free[row], list(legal))
        assert found == free[row, kept].tolist() and set(found) == legal
        np.testing.assert_allclose(scores[row, : len(legal)], free_scores[row, kept], atol=1e-4)


def test_a_prompt_that_may_name_nothing_is_told_by_its_number(predictor: Predictor) -> None:
    allowed = torch.zeros(120, dtype=torch.bool)
    allowed[7] = True
    with pytest.raises(ValueError, match="request 2 allows no item"):
        predictor.rank(PROMPTS, 5, EXCLUDED, allowed)


def test_who_has_everything_is_named_nothing(predictor: Predictor) -> None:
    everything = np.arange(120, dtype=np.int32)
    had = [EXCLUDED[0], everything, EXCLUDED[2]]
    items, scores = predictor.rank_where_possible(PROMPTS, 5, had, had)
    rest, rest_scores = predictor.rank([PROMPTS[0], PROMPTS[2]], 5, [had[0], had[2]])
    assert items[[0, 2]].tolist() == rest.tolist()
    np.testing.assert_allclose(scores[[0, 2]], rest_scores, atol=1e-5)
    assert (items[1] == -1).all() and np.isneginf(scores[1]).all()
    kept, _ = predictor.rank_where_possible(PROMPTS, 5, None, had)
    assert (kept >= 0).all()


@pytest.mark.parametrize("shape", [(119,), (2, 120), (3, 1, 120)])
def test_a_mask_of_another_shape_is_refused(predictor: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the mask of allowed items"):
        predictor.rank(PROMPTS, 5, allowed=torch.ones(shape, dtype=torch.bool))


def reasons(*texts: str) -> list[Reason]:
    return [Reason(text, "quote") for text in texts]


def test_a_penalty_of_length_chooses_longer_texts(predictor: Predictor) -> None:
    texts = ["The tone is warm.", "The tone is warm and the neck is straight, as I had hoped."]
    known = [reasons(*texts), reasons(*texts[::-1]), []]
    short, short_too, written = predictor.explain(PROMPTS, known, -10.0)
    assert short.text == short_too.text == texts[0]
    long, long_too, written_again = predictor.explain(PROMPTS, known, 10.0)
    assert long.text == long_too.text == texts[1]
    assert written == written_again
    assert written.source == "model" and written.said_of is None


def test_commonness_chooses_what_the_others_say_too(predictor: Predictor) -> None:
    odd = "Cheap strings."
    texts = [odd, "The tone is warm.", "The tone is warm and full."]
    known = [reasons(*texts), reasons(*texts[::-1]), reasons(odd)]
    first, second, alone = predictor.explain(PROMPTS, known, 1.0, 1e6)
    assert first.text == second.text == texts[1]
    assert alone.text == odd
    assert [r.text for r in predictor.explain(PROMPTS, known, 1.0, -1e6)[:2]] == [odd, odd]
