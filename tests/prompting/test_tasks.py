"""The tasks and the shipped templates, each on the committed toy data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import assign_item_ids
from p5_t5.data.review_stars import review_stars
from p5_t5.data.splits import Part, Split, leave_one_out
from p5_t5.data.tables import Tables, check_tables, read_tables
from p5_t5.data.usual_stars import usual_stars, usual_text
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.prompter import Asked, Prompter, PromptSettings
from p5_t5.prompting.tasks import TASKS, Task, read_prompts, shipped_prompts, usable
from p5_t5.prompting.templates import PromptTemplate

TOY = Path(__file__).resolve().parents[2] / "data" / "toy"
SHIPPED = read_prompts()
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class World:
    split: Split
    prompter: Prompter
    slots: frozenset[str]

    def asked(self, template: PromptTemplate, user: int, position: int) -> Asked:
        """A question as it is judged."""
        task = TASKS[template.family]
        settings = self.prompter.settings
        made = Candidates(self.split, len(self.prompter.catalogue), [1, 2, 3, 4, 5], settings)
        return made.asked(task, task.kind(template), user, position)


@pytest.fixture(scope="module")
def toy() -> World:
    """The toy data as it is."""
    return world(read_tables(TOY))


@pytest.fixture(scope="module")
def poor() -> World:
    """The toy data without what only some data sets have."""
    tables = read_tables(TOY)
    items, users = tables.items.drop("brand", "title"), tables.users.drop("gender", "name")
    return world(replace(tables, items=items, users=users))


def world(tables: Tables) -> World:
    """Tables with atomic codes: words that nothing else can be."""
    split = leave_one_out(tables)
    codes = assign_item_ids("atomic", *split.train_histories(), len(tables.items), seed=0)
    texts = [usual_text(value) for value in usual_stars(split, len(tables.items), 0)[1].tolist()]
    items = tables.items.with_columns(usual_stars=pl.Series(texts))
    prompter = Prompter(Catalogue(items, codes), PromptSettings())
    split = replace(split, review_stars=review_stars(split, 0))
    told = {**split.texts, "review_stars": split.review_stars}
    return World(split, prompter, prompter.available(split.histories, told))


def rows(task: Task, split: Split, part: Part) -> list[tuple[int, int]]:
    """The (user, position) pairs that a task asks about with a template of its first kind."""
    kind = next(iter(task.family.answers))
    own = [t.needs for t in SHIPPED.values() if (t.family, t.answer) == (task.name, kind)]
    users, positions = task.examples(split, part, frozenset.intersection(*own))
    return list(zip(users.tolist(), positions.tolist(), strict=True))


def made(**columns: Any) -> Split:
    """Two users with four interactions each."""
    data = {"user_id": ["a"] * 4 + ["b"] * 4, "item_id": list("wxyz") * 2, **columns}
    return leave_one_out(check_tables("made", pl.DataFrame(data)))


def save(path: Path, family: str, *templates: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"family": family, "templates": templates}), encoding="utf-8")
    return path


TAUGHT = [name for name in TASKS if name != "zero-shot"]


@pytest.mark.parametrize("family", TAUGHT)
def test_at_least_four_templates_a_family_and_one_held_out(family: str) -> None:
    own = [template for template in SHIPPED.values() if template.family == family]
    assert len(own) >= 4
    assert any(template.heldout for template in own)
    assert sum(not template.heldout for template in own) >= 3


@pytest.mark.parametrize("family", TAUGHT)
def test_a_new_user_can_be_asked_by_a_shipped_template(family: str) -> None:
    own = [t for t in SHIPPED.values() if t.family == family and not t.heldout]
    assert any(not template.names_user for template in own)


def test_every_shipped_file_is_named_after_its_family() -> None:
    files = {Path(template.file) for template in SHIPPED.values()}
    assert files == set(shipped_prompts().glob("*.json"))
    assert all(Path(t.file).stem == t.family.replace("-", "_") for t in SHIPPED.values())


def test_own_templates_replace_shipped_ones_and_add_new_ones(tmp_path: Path) -> None:
    replaced, added = "Who is user_{user} ? {history}", "After {history} what?"
    ids = {"2-1": replaced, "own": added}
    file = save(
        tmp_path / "own.json",
        "sequential",
        *(
            {"id": name, "answer": "next_item", "source": source, "target": "{item}"}
            for name, source in ids.items()
        ),
    )
    for extra in (file, tmp_path, str(file)):
        prompts = read_prompts([extra])
        assert set(prompts) == {*SHIPPED, ("sequential", "own")}
        assert prompts["sequential", "2-1"].source == replaced
        assert prompts["sequential", "own"].source == added
        assert prompts["sequential", "2-1"].reported  # as all that a user brings
        untouched = SHIPPED.keys() - {("sequential", "2-1")}
        assert {key: prompts[key] for key in untouched} == {key: SHIPPED[key] for key in untouched}


def test_two_own_files_may_not_share_an_id(tmp_path: Path) -> None:
    template = {"id": "2-1", "answer": "next_item", "source": "x", "target": "{item}"}
    files = [save(tmp_path / name, "sequential", template) for name in ("a.json", "b.json")]
    with pytest.raises(ValueError, match=r"b\.json: template '2-1' stands twice.*a\.json"):
        read_prompts(files)


def test_a_broken_own_template_is_refused(tmp_path: Path) -> None:
    template = {"id": "x", "answer": "stars", "source": "{avrage_rating}", "target": "{rating}"}
    with pytest.raises(ValueError, match=r"own\.json: template 'x'.*mean 'average_rating'"):
        read_prompts([save(tmp_path / "own.json", "rating", template)])


def test_usable_keeps_everything_that_can_be_filled() -> None:
    slots = frozenset[str]().union(*(template.slots for template in SHIPPED.values()))
    assert usable(SHIPPED, slots) == (SHIPPED, [])


@pytest.mark.parametrize("lacking", ["rating", "history", "feature", "user_age", "title"])
def test_usable_says_why_a_template_is_left_out(lacking: str) -> None:
    slots = frozenset[str]().union(*(template.slots for template in SHIPPED.values()))
    kept, notes = usable(SHIPPED, slots - {lacking})
    out = [template for template in SHIPPED.values() if lacking in template.slots]
    assert out
    assert kept == {key: t for key, t in SHIPPED.items() if t not in out}
    assert notes == [f"template {t.id} ({t.family}) left out: no {{{lacking}}}" for t in out]


def test_bare_interactions_leave_the_templates_that_need_no_more() -> None:
    """No ratings, titles or profiles: all that is said is users and items."""
    split = made()
    codes = assign_item_ids("random", *split.train_histories(), 4, seed=0)
    prompter = Prompter(Catalogue(pl.DataFrame({"item_id": list("wxyz")}), codes), PromptSettings())
    kept, notes = usable(SHIPPED, prompter.available(split.histories, split.texts))
    assert {family for family, _ in kept} == {"sequential", "direct", "denoising"}
    said = {"user", "user_name", "item", "history", "latest", "recent", "candidates", "yes_no"}
    said |= {"masked", "spans"}
    assert all(t.slots <= said for t in kept.values())
    assert {("direct", "5-2"), ("direct", "5-7"), ("sequential", "2-12")} <= set(kept)
    assert len(kept) + len(notes) == len(SHIPPED)
    assert any("{user_age}" in note for note in notes)


@pytest.mark.parametrize("key", SHIPPED, ids="/".join)
def test_a_template_that_is_kept_can_be_asked_everywhere(key: tuple[str, str], poor: World) -> None:
    template, task = SHIPPED[key], TASKS[key[0]]
    kept, notes = usable({key: template}, poor.slots)
    if not kept:
        assert all(f"{{{slot}}}" in notes[0] for slot in template.slots - poor.slots)
        return
    for part in PARTS:
        users, positions = task.examples(poor.split, part, template.needs)
        assert len(users)
        for user, position in list(zip(users.tolist(), positions.tolist(), strict=True))[:40]:
            state = poor.split.histories.state(user, position)
            asked = poor.asked(template, user, position)
            assert poor.prompter.can_ask(template, state, asked)
            learnt = poor.prompter.render(template, state, asked, draw=3)
            assert learnt.target.startswith(learnt.given)


def answer(template: PromptTemplate, world: World, user: int, position: int) -> str | None:
    """What a right answer says, made from the data alone; ``None`` where it follows from a draw."""
    row = int(world.split.histories.offsets[user]) + position
    texts = {"sentence": "explanation", "headline": "summary"}
    if template.answer == "stars":
        return f"{world.split.histories.ratings[row]:g}"
    if template.answer == "like":
        return "like" if world.split.histories.ratings[row] >= 4 else "dislike"
    if template.answer in texts:
        return " ".join(str(world.split.texts[texts[template.answer]][row]).split())
    if template.answer == "yes_no":
        return None
    return world.prompter.catalogue.code_texts[int(world.split.histories.items[row])]


@pytest.mark.parametrize("key", SHIPPED, ids="/".join)
@pytest.mark.parametrize("part", PARTS)
def test_the_target_ends_with_the_answer(key: tuple[str, str], part: Part, toy: World) -> None:
    template, task = SHIPPED[key], TASKS[key[0]]
    users, positions = task.examples(toy.split, part, template.needs)
    for user, position in list(zip(users.tolist(), positions.tolist(), strict=True))[:60]:
        state = toy.split.histories.state(user, position)
        asked = toy.asked(template, user, position)
        target = toy.prompter.render(template, state, asked, draw=5).target
        right = answer(template, toy, user, position)
        assert target.endswith(right or ("yes" if asked.agreed else "no"))


SECRET = [key for key, t in SHIPPED.items() if t.answer in ("next_item", "sentence")]


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("key", SECRET, ids="/".join)
def test_the_answer_is_never_told(key: tuple[str, str], part: Part, toy: World) -> None:
    """Over all held-out rows, unless the user had the item before."""
    template, task = SHIPPED[key], TASKS[key[0]]
    checked = 0
    for user, position in zip(
        *(a.tolist() for a in task.examples(toy.split, part, template.needs)), strict=True
    ):
        state = toy.split.histories.state(user, position)
        asked = toy.asked(template, user, position)
        if asked.item in state.items:
            continue
        prompt = toy.prompter.render(template, state, asked)
        right = answer(template, toy, user, position)
        assert right and right not in prompt.source + prompt.given
        assert prompt.target == ""
        checked += 1
    assert checked > 100


@pytest.mark.parametrize("part", PARTS)
def test_the_sequential_task_never_asks_without_a_history(part: Part) -> None:
    expected = {"train": [(0, 1), (1, 1)], "validation": [(0, 2), (1, 2)], "test": [(0, 3), (1, 3)]}
    assert rows(TASKS["sequential"], made(), part) == expected[part]


def test_explanations_are_asked_only_where_they_are_written() -> None:
    explanation = ["one", None, "three", None, None, "six", None, "eight"]
    split = made(explanation=explanation)
    asked = {part: rows(TASKS["explanation"], split, part) for part in PARTS}
    assert asked == {"train": [(0, 0), (1, 1)], "validation": [(0, 2)], "test": [(1, 3)]}


@pytest.mark.parametrize("family", ["rating", "explanation"])
def test_a_task_without_its_column_has_no_examples(family: str) -> None:
    for part in PARTS:
        assert rows(TASKS[family], made(), part) == []


def test_what_is_asked_is_the_interaction_itself() -> None:
    split = made(
        rating=np.arange(1.0, 9.0), explanation=list("abcdefgh"), feature=["f"] * 7 + [None]
    )
    asked = TASKS["rating"].asked(split, 1, 2)
    assert (asked.item, asked.rating, asked.explanation, asked.feature) == (2, 7.0, "g", "f")
    assert TASKS["rating"].asked(split, 1, 3).feature is None
