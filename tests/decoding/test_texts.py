"""Scores of given texts against the model's own forward pass, one text at a time."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from p5_t5.decoding.texts import likeness, text_scores

WORDS = 30
tokens = st.integers(2, WORDS - 1)
texts = st.lists(st.lists(tokens, max_size=6).map(lambda row: [*row, 1]), min_size=1, max_size=4)
requests = st.lists(
    st.tuples(st.lists(tokens, min_size=1, max_size=7), st.lists(tokens, max_size=4), texts),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=WORDS, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    model.shared.weight.data *= 3
    return model


@settings(deadline=None, max_examples=40)
@given(requests, st.sampled_from([0.0, 1.0, 1.3]))
def test_scores_are_those_of_one_text_alone(
    model: T5ForConditionalGeneration,
    asked: list[tuple[list[int], list[int], list[list[int]]]],
    length_penalty: float,
) -> None:
    longest = max(len(source) for source, _, _ in asked)
    ids = torch.tensor([[*source, *[0] * (longest - len(source))] for source, _, _ in asked])
    found = text_scores(
        model,
        ids,
        (ids > 0).long(),
        [own for _, _, own in asked],
        given=[start for _, start, _ in asked],
        length_penalty=length_penalty,
    )
    for (source, start, own), scores in zip(asked, found, strict=True):
        assert len(scores) == len(own)
        for text, score in zip(own, scores, strict=True):
            labels = torch.tensor([[*start, *text]])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([source]), labels=labels).logits
            each = logits.log_softmax(-1)[0].gather(1, labels.T)[len(start) :]
            expected = float(each.sum()) / len(each) ** length_penalty
            assert score == pytest.approx(expected, abs=1e-3)


def test_a_text_of_no_token_is_refused(model: T5ForConditionalGeneration) -> None:
    ids = torch.tensor([[3, 4]])
    with pytest.raises(ValueError, match="at least one token"):
        text_scores(model, ids, torch.ones_like(ids), [[[5, 1], []]])


def test_likeness_is_the_share_of_words_and_pairs_in_common() -> None:
    found = likeness(["The tone is warm.", "the TONE is bright.", "Cheap strings"])
    # Four of five words (with the full stop) and two of the pairs; the third shares nothing.
    between = (2 * 2 * 4 + 2 * 2) / 3 / 10
    assert found.tolist() == pytest.approx([between / 2, between / 2, 0])
    assert likeness(["alone"]).tolist() == [0]
    assert likeness(["", ""]).tolist() == [0, 0]


@given(st.lists(st.text("ab ", max_size=12), min_size=2, max_size=5), st.randoms())
def test_likeness_knows_no_order_and_is_highest_among_equals(
    texts: list[str], random: Random
) -> None:
    found = dict(zip(texts, likeness(texts), strict=True))
    assert all(-1e-12 <= value <= 1 for value in found.values())
    random.shuffle(texts)
    assert dict(zip(texts, likeness(texts), strict=True)) == pytest.approx(found)
    assert likeness(["a b", "a b"])[0] >= likeness(["a b", *texts])[0]
