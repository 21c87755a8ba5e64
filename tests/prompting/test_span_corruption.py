"""Masked spans: T5's law over whole items, drawn by the example and never from held-out time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.splits import leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.span_corruption import SENTINELS, corrupt, span_counts, span_mask
from p5_t5.prompting.tasks import DENOISING, TASKS

lengths = st.integers(2, 3000)
seeds = st.integers(0, 2**31 - 1)


def restored(source: list[str], target: list[str]) -> list[str]:
    """Puts each span of a target in the place of its sentinel."""
    spans: dict[str, list[str]] = {}
    for word in target:
        if word in SENTINELS:
            spans[word] = []
        else:
            spans[list(spans)[-1]].append(word)
    return [w for word in source for w in (spans.pop(word) if word in SENTINELS else [word])]


@settings(deadline=None)
@given(lengths, seeds)
def test_source_and_target_together_restore_the_history(length: int, seed: int) -> None:
    words = [f"<a_{i}><b_{i}>" for i in range(length)]
    source, target = corrupt(words, span_mask(length, np.random.default_rng(seed)))
    assert restored(source, target) == words
    used = [word for word in source if word in SENTINELS]
    assert used == list(SENTINELS[: len(used)])
    assert used == [word for word in target if word in SENTINELS]
    assert target[0] == "<extra_id_0>" and target[-1] == words[-1] and source[0] == words[0]


@settings(deadline=None)
@given(lengths, seeds)
def test_length_alone_says_how_much_is_masked(length: int, seed: int) -> None:
    mask = span_mask(length, np.random.default_rng(seed))
    (masked,), (spans,) = span_counts(np.array([length]))
    begins = np.diff(mask.astype(int), prepend=0) == 1
    assert (mask.sum(), begins.sum(), len(mask)) == (masked, spans, length)
    assert masked == max(1, round(0.15 * length))
    assert 1 <= spans <= 100
    if length < 1900:
        assert spans == max(1, round(masked / 3))


def test_counts_by_hand() -> None:
    masked, spans = span_counts(np.array([2, 5, 20, 50, 200, 4000]))
    assert masked.tolist() == [1, 1, 3, 8, 30, 600]
    assert spans.tolist() == [1, 1, 1, 3, 10, 100]


def test_a_history_corrupted_by_hand() -> None:
    mask = np.array([False, True, True, False, True])
    source, target = corrupt(list("abcde"), mask)
    assert " ".join(source) == "a <extra_id_0> d <extra_id_1>"
    assert " ".join(target) == "<extra_id_0> b c <extra_id_1> e"


def test_every_way_to_mask_is_as_likely() -> None:
    """Three of twenty are one span at the end; eight of 50 are three spans anywhere before it."""
    generator = np.random.default_rng(0)
    assert {tuple(np.flatnonzero(span_mask(20, generator))) for _ in range(20)} == {(17, 18, 19)}
    drawn = np.array([span_mask(50, generator) for _ in range(4000)])
    assert len({row.tobytes() for row in drawn}) > 3000
    # Away from both ends each item is masked as often as any other.
    assert drawn[:, 12:38].mean(axis=0) == pytest.approx(drawn[:, 12:38].mean(), abs=0.03)


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    return read_corpus(toy, read_tasks(["denoising"]), PromptSettings(max_history=12), seed=0)


@settings(deadline=None)
@given(st.data())
def test_prompts_hold_the_newest_items_of_the_history_and_nothing_later(
    corpus: Corpus, data: st.DataObject
) -> None:
    users, positions = DENOISING.examples(corpus.split, "train")
    row = data.draw(st.integers(0, len(users) - 1))
    user, position = int(users[row]), int(positions[row])
    template = data.draw(st.sampled_from(corpus.of(DENOISING)))
    draw = data.draw(seeds)
    kind = DENOISING.kind(template)
    state = corpus.split.histories.state(user, position)
    asked = corpus.candidates.asked(DENOISING, kind, user, position, draw)
    prompt = corpus.prompter.render(template, state, asked, draw)
    codes = np.array(corpus.catalogue.code_texts)
    known = corpus.split.histories.state(user, position + 1).items
    items = [w for w in prompt.source.split() if w in codes or w in SENTINELS]
    assert restored(items, prompt.target.split()) == codes[known[-12:]].tolist()
    assert prompt.target == prompt.given + codes[known[-1]]


def test_the_draw_of_the_mixture_seeds_the_spans(corpus: Corpus) -> None:
    def drawn(seed: int) -> list[list[str]]:
        made = Mixture(
            corpus, str.split, "</s>", tokens_per_batch=500, batches_per_step=1, seed=seed
        )
        return [list(words) for words in made.epoch(0).examples[:50]["labels"]]

    assert drawn(1) == drawn(1) != drawn(2)


def test_an_example_has_its_own_spans_and_a_judged_user_always_the_same() -> None:
    rows = [("u", f"{p:02}") for p in range(60)]
    tables = check_tables("made", pl.DataFrame(rows, ["user_id", "item_id"], orient="row"))
    candidates = Candidates(leave_one_out(tables), 60, [], PromptSettings())
    kind = DENOISING.family.answers["masked_items"]

    def spans(draw: int | None) -> list[int]:
        mask = candidates.asked(DENOISING, kind, 0, 57, draw).mask
        assert mask is not None and len(mask) == 50
        return np.flatnonzero(mask).tolist()

    assert spans(4) == spans(4) != spans(5)
    assert spans(None) == spans(None)


def test_batches_nearly_keep_the_budget(toy: Path) -> None:
    whole = read_corpus(toy, read_tasks(["denoising"]), PromptSettings(), seed=0)
    made = Mixture(whole, str.split, "</s>", tokens_per_batch=600, batches_per_step=1, seed=0)
    epoch = made.epoch(0)
    sizes = []
    for (rows,) in epoch.steps:
        batch = epoch.examples[rows]
        sizes.append(len(rows) * sum(max(map(len, batch[s])) for s in ("input_ids", "labels")))
    assert max(sizes) <= 1.2 * 600
    assert np.mean(sizes) > 0.6 * 600


def test_it_is_taught_only_where_it_is_asked_for(toy: Path) -> None:
    asked = read_corpus(toy, read_tasks(["sequential=3", "denoising=1"]), PromptSettings(), seed=0)
    assert [(task.name, share) for task, share in asked.tasks] == [
        ("sequential", 3.0),
        ("denoising", 1.0),
    ]
    alone = asked.only(DENOISING)
    assert alone.judged == [DENOISING] and alone.templates == asked.templates
    with pytest.raises(ValueError, match="the task rating was not asked for"):
        asked.only(TASKS["rating"])


def test_a_window_of_one_item_can_not_be_masked(toy: Path) -> None:
    with pytest.raises(ValueError, match="max_history must be at least 2"):
        read_corpus(toy, read_tasks(["denoising"]), PromptSettings(max_history=1), seed=0)
