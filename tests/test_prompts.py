"""The shipped prompts: P5's groups, and every template rendered on the made world."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import Prompt, PromptSettings
from p5_t5.prompting.tasks import TASKS, read_prompts
from p5_t5.prompting.templates import WORDS, PromptTemplate

SHIPPED = read_prompts()
# P5's groups: family, first and last number of its ids, and the kind of answer.
GROUPS = [
    ("rating", "1", [1, 2, 5, 6, 7, 10], "stars"),
    ("rating", "1", [3, 8], "yes_no"),
    ("rating", "1", [4, 9], "like"),
    ("sequential", "2", [1, 2, 3, 4, 5, 6, 13], "next_item"),
    ("sequential", "2", [7, 8, 9, 10], "choice"),
    ("sequential", "2", [11, 12], "yes_no"),
    ("explanation", "3", [*range(1, 13)], "sentence"),
    ("review", "4", [1, 3], "headline"),
    ("review", "4", [2, 4], "stars"),
    ("direct", "5", [1, 2, 3, 4], "yes_no"),
    ("direct", "5", [5, 6, 7, 8], "choice"),
    ("zero-shot", "Z", [1, 4], "like"),
    ("zero-shot", "Z", [2, 3], "stars"),
    ("zero-shot", "Z", [5, 6, 7], "sentence"),
]
HELD_OUT = {"1-10", "2-13", "3-12", "4-4", "5-8", *(f"Z-{n}" for n in range(1, 8))}
# The pairs of a seen and a held-out prompt that P5 reports.
PAIRS = {"1-6", "1-10", "2-3", "2-13", "3-3", "3-9", "3-12", "4-1", "4-2", "4-4"}
PAIRS |= {"5-1", "5-4", "5-5", "5-8"}
P5 = {
    (family, f"{letter}-{number}"): kind
    for family, letter, numbers, kind in GROUPS
    for number in numbers
}
OWN = {key: template for key, template in SHIPPED.items() if key not in P5}
ALL = [pytest.param(key, id="/".join(key)) for key in SHIPPED]


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    return read_corpus(toy, read_tasks(list(TASKS)), PromptSettings(), seed=42)


def of(corpus: Corpus, template: PromptTemplate, row: int, draw: int | None) -> Prompt:
    """One training example, as learnt or as judged."""
    task = TASKS[template.family]
    users, positions = task.examples(corpus.split, "train", template.needs)
    user, position = int(users[row]), int(positions[row])
    asked = corpus.candidates.asked(task, task.kind(template), user, position, draw)
    state = corpus.split.histories.state(user, position)
    assert corpus.prompter.can_ask(template, state, asked)
    return corpus.prompter.render(template, state, asked, draw)


def test_ids_and_answers_are_those_of_p5() -> None:
    assert len(P5) == 54
    assert {key: SHIPPED[key].answer for key in P5} == P5
    assert set(OWN) == {
        *(("sequential", f"continue-{n}") for n in range(1, 9)),
        *(("sequential", f"next-{n}") for n in range(1, 5)),
        *(("rating", f"expected-{n}") for n in range(1, 5)),
        *(("rating", f"rated-{n}") for n in range(1, 8)),
        *(("rating", f"compared-{n}") for n in range(1, 7)),
        *(("rating", f"habit-{n}") for n in range(1, 5)),
        *(("review", f"headed-{n}") for n in range(1, 4)),
        *(("review", f"worded-{n}") for n in range(1, 4)),
        *(("direct", f"choose-{n}") for n in range(1, 4)),
        *(("direct", f"pick-{n}") for n in range(1, 4)),
        *(("denoising", f"mend-{n}") for n in range(1, 6)),
    }


def test_the_held_out_ones_are_those_of_p5() -> None:
    assert {id_ for _, id_ in P5 if SHIPPED[_, id_].heldout} == HELD_OUT


def test_reported_are_p5s_pairs_one_like_the_continuing_ones_and_whatever_is_only_judged() -> None:
    reported = {id_ for key in P5 if SHIPPED[key].reported for id_ in [key[1]]}
    assert reported == PAIRS | {"1-4"} | {id_ for family, id_ in P5 if family == "zero-shot"}
    # The others are there for variety: what many wordings say is not learnt by its wording.
    various = {f"continue-{n}" for n in range(5, 9)} | {f"next-{n}" for n in range(1, 5)}
    various |= {f"expected-{n}" for n in range(1, 5)} | {"choose-1", "choose-2", "choose-3"}
    various |= {f"rated-{n}" for n in (2, 3, 5, 6, 7)} | {f"compared-{n}" for n in (2, 5, 6)}
    various |= {"habit-2", "habit-4", "headed-2"}
    assert {id_ for _, id_ in OWN if not OWN[_, id_].reported} - various == {
        "mend-2",
        "mend-3",
        "mend-4",
    }
    assert {key[1] for key in OWN if key[0] == "denoising" and OWN[key].reported} == {
        "mend-1",
        "mend-5",
    }


@pytest.mark.parametrize("key", P5, ids="/".join)
def test_each_group_is_told_what_it_should_be(key: tuple[str, str]) -> None:
    family, id_ = key
    slots = SHIPPED[key].source_slots
    number = id_.split("-")[1]
    if family == "explanation":
        assert ("feature" in slots) == (int(number) >= 9)
        assert ("rating" in slots) == (number in "78")
    if family == "review":
        assert "review" in slots
    if family == "zero-shot":
        assert {"title", "brand", "price"} <= slots and "item" not in slots
        assert ("feature" in slots) == (number == "6")
    if family == "direct" and number in "1234":
        assert ("title" in slots) == (number in "34")
    if family == "sequential":
        assert {"history", "latest"} & slots


def test_users_and_lists_are_written_in_both_ways() -> None:
    own = [SHIPPED[key] for key in P5]
    named = sum("user_name" in t.source_slots for t in own)
    numbered = sum("user" in t.source_slots for t in own)
    assert named > 15 and numbered > 15
    assert not any({"user", "user_name"} <= t.source_slots for t in own)
    listed = [t.separator for t in own if t.family == "sequential"]
    assert listed.count(" -> ") >= 5 and listed.count(" , ") >= 5


def test_the_continuing_ones_keep_their_share_of_training() -> None:
    own = [t for t in SHIPPED.values() if t.family == "sequential" and not t.heldout]
    literal = sum(t.weight for t in own if not t.given)
    assert literal / sum(t.weight for t in own) == pytest.approx(3 / 17)


@pytest.mark.parametrize("key", ALL)
def test_every_template_renders_on_the_made_world(key: tuple[str, str], corpus: Corpus) -> None:
    template, task = SHIPPED[key], TASKS[key[0]]
    kind = task.kind(template)
    for row in range(0, 400, 8):
        learnt = of(corpus, template, row, draw=3 * row)
        assert learnt == of(corpus, template, row, draw=3 * row)
        question = of(corpus, template, row, None)
        assert learnt.source and question.source and not question.target
        assert not {"{", "}", "\n"} & set(learnt.source + learnt.target + question.source)
        last = learnt.target.split()[-1]
        if kind.form == "words":
            assert last in WORDS[kind.slot]
        elif kind.form == "stars":
            assert float(last) in corpus.ratings
        elif kind.slot == "item":
            assert last in corpus.catalogue.code_texts
            assert (last in learnt.source.split()) == (kind.form == "choice" and kind.listed)
        else:
            assert len(learnt.target.split()) > 1


def test_every_template_of_p5_can_be_said_by_the_made_world(corpus: Corpus) -> None:
    assert {(t.family, t.id) for t in corpus.templates} == set(SHIPPED)
