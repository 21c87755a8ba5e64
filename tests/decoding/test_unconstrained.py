"""Plain beam search: items are found among texts, or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from p5_t5.artifact import load_artifact
from p5_t5.decoding.predictor import Predictor
from p5_t5.prompting.prompter import Prompt
from p5_t5.protocol import Protocol

SOURCES = ["Go on with <item_3> , <item_4>", "Go on", "What does one who has <item_7> want ?"]
PROMPTS = [Prompt(source=source, given="", target="") for source in SOURCES]


def predictor_of(folder: Path, **switches: bool) -> Predictor:
    model, tokenizer, knowledge = load_artifact(folder)
    with torch.no_grad():
        # After a few steps items are hardly likelier than words: make some of them so.
        bias = torch.zeros(len(tokenizer))
        bias[tokenizer.convert_tokens_to_ids(["<item_5>", "<item_9>", "<item_60>"])] = 4
        bias[tokenizer.eos_token_id] = 4
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: head(hidden) + bias
    return Predictor(
        model,
        tokenizer,
        knowledge.catalogue.codes,
        knowledge.ratings,
        protocol=Protocol(**switches),
    )


@pytest.fixture(scope="module")
def free(trained: Path) -> Predictor:
    return predictor_of(trained, unconstrained_decoding=True)


def test_only_items_stay_each_once_with_the_probability_of_their_text(free: Predictor) -> None:
    items, scores = free.rank(PROMPTS, 20)
    for row, prompt in enumerate(PROMPTS):
        found = items[row][items[row] >= 0].tolist()
        assert {5, 9, 60} <= set(found) and len(set(found)) == len(found) < 20
        assert (items[row, len(found) :] == -1).all()
        assert np.isneginf(scores[row, len(found) :]).all()
        words = free.words
        for item, score in zip(found, scores[row].tolist(), strict=False):
            answer = torch.tensor([words.encode(f"<item_{item}>")])
            with torch.no_grad():
                source = torch.tensor([words.encode(prompt.source)])
                logits = free.model(input_ids=source, labels=answer).logits.log_softmax(-1)
            expected = logits.gather(2, answer[..., None]).sum().item()
            assert score == pytest.approx(expected, abs=1e-3)


def test_what_is_not_legal_is_dropped_after_the_search(free: Predictor) -> None:
    items, scores = free.rank(PROMPTS, 20)
    allowed = torch.ones(120, dtype=torch.bool)
    allowed[9] = False
    denied = [np.array([5], dtype=np.int32)] * 3
    fewer, fewer_scores = free.rank(PROMPTS, 20, denied, allowed)
    for row in range(3):
        kept = ~np.isin(items[row], [5, 9, -1])
        assert fewer[row][fewer[row] >= 0].tolist() == items[row, kept].tolist()
        np.testing.assert_allclose(fewer_scores[row, : kept.sum()], scores[row, kept], atol=1e-5)


def test_a_given_start_is_kept_and_left_out_of_the_answer(free: Predictor) -> None:
    started = [Prompt(source="Go on", given="<item_5> ,", target="")] * 2
    items, _ = free.rank([*started, PROMPTS[1]], 20)
    assert np.array_equal(items[0], items[1])
    assert np.array_equal(items[2], free.rank(PROMPTS[1:2], 20)[0][0])


def test_a_choice_is_not_kept_to_its_candidates(free: Predictor) -> None:
    candidates = [np.arange(20, 40)] * 3
    items, _ = free.choose(PROMPTS, candidates)
    assert {5, 9} <= set(items[0].tolist())


def test_a_cut_source_says_no_more_than_its_first_tokens(trained: Path) -> None:
    cut, whole = predictor_of(trained, right_truncation=True), predictor_of(trained)
    start = " , ".join(["<item_3>", "<item_4>"] * 150)
    long = [Prompt(f"{start} , {end}", "", "") for end in ("<item_90>", "<item_5> , <item_77>")]
    (first, second), scores = cut.rank(long, 120)
    assert np.array_equal(first, second) and np.array_equal(*scores)
    assert not np.allclose(*whole.rank(long, 120)[1])
