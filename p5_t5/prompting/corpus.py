"""A data set made ready to be talked about: split, numbered, with the prompts that it can fill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import assign_item_ids
from p5_t5.data.review_stars import review_stars
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import Tables, read_tables
from p5_t5.data.usual_stars import choose_priors, usual_stars, usual_text
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.explanations import derive_explanations
from p5_t5.prompting.prompter import Prompt, Prompter, PromptSettings
from p5_t5.prompting.rating_jitter import TENTHS, check_whole_stars
from p5_t5.prompting.reasons import Reasons, find_reasons
from p5_t5.prompting.review_explanations import extract_explanations
from p5_t5.prompting.tasks import (
    LATE_SEQUENTIAL,
    SEQUENTIAL,
    TASKS,
    Task,
    read_prompts,
    usable,
)
from p5_t5.prompting.templates import RATED_SLOTS, PromptTemplate
from p5_t5.protocol import CORRECTED, Protocol

Shares = Sequence[tuple[Task, float]]


@dataclass(frozen=True)
class Corpus:
    """Everything that is known before a model is made.

    Attributes:
        name: the data set's name.
        split: the data.
        catalogue: its items with their codes.
        prompter: renders its prompts.
        templates: the templates that it can fill.
        tasks: the tasks that it can teach, each with its share of the examples.
        ratings: the stars that stand in training, lowest first.
        notes: what was filtered, repaired, derived or left out, one printable line each.
        untaught: tasks whose templates are all held out: they are only judged.
        protocol: where training and judging follow P5's program.
        reasons: what explanations choose from; ``None`` where they are written word by word.
    """

    name: str
    split: Split
    catalogue: Catalogue
    prompter: Prompter
    templates: Sequence[PromptTemplate]
    tasks: Shares
    ratings: Sequence[float]
    notes: Sequence[str]
    untaught: Sequence[Task] = ()
    protocol: Protocol = CORRECTED
    reasons: Reasons | None = None

    @cached_property
    def candidates(self) -> Candidates:
        """Draws what its questions put forward."""
        return Candidates(
            self.split,
            len(self.catalogue),
            self.ratings,
            self.prompter.settings,
            jitter=self.protocol.rating_jitter,
            spared=self.protocol.spared_negatives,
        )

    @property
    def answers(self) -> Sequence[float]:
        """The stars that an answer may name, lowest first; none where the data has none."""
        return TENTHS if self.protocol.rating_jitter and self.ratings else self.ratings

    @property
    def judged(self) -> list[Task]:
        """The tasks that are judged: those that are taught, then the others."""
        return [*(task for task, _ in self.tasks), *self.untaught]

    def only(self, task: Task) -> Corpus:
        """The same data and templates, to teach and judge one task alone.

        Raises:
            ValueError: the data can't teach it.
        """
        if task not in [taught for taught, _ in self.tasks]:
            reasons = [note for note in self.notes if f"task {task.name} left out" in note]
            raise ValueError(reasons[0] if reasons else f"the task {task.name} was not asked for")
        return replace(self, tasks=[(task, 1.0)], untaught=())

    def of(self, task: Task) -> list[PromptTemplate]:
        """The templates of a task."""
        return [template for template in self.templates if template.family == task.name]

    def reported(self) -> list[PromptTemplate]:
        """The templates of the ordinary report.

        Where a held-out template is reported and no seen one of its kind can be filled, the seen
        one that is drawn most often stands beside it: alone it would say little.
        """
        chosen = [template for template in self.templates if template.reported]
        seen = {(t.family, t.answer) for t in chosen if not t.heldout}
        for kind in dict.fromkeys((t.family, t.answer) for t in chosen if t.heldout):
            own = [t for t in self.templates if (t.family, t.answer) == kind and not t.heldout]
            if own and kind not in seen:
                chosen.append(max(own, key=lambda t: t.weight))
        return [template for template in self.templates if template in chosen]

    def heldout(self) -> dict[str, frozenset[str]]:
        """For each task the ids of the templates that training never shows."""
        return {
            task.name: frozenset(t.id for t in self.of(task) if t.heldout) for task in self.judged
        }

    def examples(self) -> dict[str, Prompt]:
        """One rendered training prompt of each task, for people to read."""
        examples = {}
        for task in self.judged:
            seen = [t for t in self.of(task) if not t.heldout or task in self.untaught]
            template = max(seen, key=lambda t: t.weight)
            users, positions = task.examples(self.split, "train", template.needs)
            row = min(5, len(users) - 1)
            user, position = int(users[row]), int(positions[row])
            state = self.split.histories.state(user, position)
            asked = self.candidates.asked(task, task.kind(template), user, position, draw=2)
            examples[task.name] = self.prompter.render(template, state, asked, draw=2)
        return examples


def read_corpus(
    folder: str | Path,
    tasks: Shares,
    settings: PromptSettings,
    *,
    prompts: Sequence[str | Path] = (),
    item_ids: str = "atomic",
    branching: int | None = None,
    min_interactions: int = 3,
    k_core: int = 0,
    seed: int = 0,
    known: Catalogue | None = None,
    protocol: Protocol = CORRECTED,
    held_back_users: int = 0,
    judged_only: bool = False,
) -> Corpus:
    """Reads, checks and splits a data set, numbers its items and finds the prompts for it.

    Args:
        folder: with the tables.
        tasks: what should be taught, with shares.
        settings: of every prompt.
        prompts: files or folders of templates besides the shipped ones.
        item_ids: the scheme of the item codes.
        branching: clusters a level of collaborative codes.
        min_interactions: users with fewer are left out.
        k_core: users and items with fewer are left out, again and again.
        seed: of the item codes, and of a random split of rows.
        known: the catalogue of a trained model, whose codes are kept.
        protocol: where training and judging follow P5's program.
        held_back_users: the last training interaction of so many users is held back, and validation
            asks about these users alone.
        judged_only: nothing is to be learnt, so that tasks without a template for training will
            do; prompts of other tasks are passed over.

    Raises:
        ValueError: anything is wrong with the tables or templates, or no task can be taught; or
            the known catalogue has other items or codes of another scheme.
    """
    if settings.max_history < 2 and any(task.corrupts for task, _ in tasks):
        raise ValueError(
            f"max_history must be at least 2 to mask items of a history, not {settings.max_history}"
        )
    tables = read_tables(folder, min_interactions=min_interactions, k_core=k_core)
    split = leave_one_out(
        tables,
        row_seed=seed if protocol.random_row_split else None,
        drawn_order=not protocol.file_user_order,
        held_back=held_back_users,
        seed=seed,
    )
    if known is None:
        seen = split.all_histories() if protocol.heldout_item_order else split.train_histories()
        codes = assign_item_ids(item_ids, *seen, len(tables.items), seed=seed, branching=branching)
    elif known.codes.scheme == item_ids:
        codes = known.codes_of(tables.items["item_id"].to_list())
    else:
        raise ValueError(
            f"the checkpoint writes items as {known.codes.scheme}, not as {item_ids}: go on with "
            f"--item_ids {known.codes.scheme}"
        )
    split, items, settings = _with_usual_stars(split, tables, settings, seed)
    catalogue = Catalogue(items, codes)
    prompter = Prompter(catalogue, settings)
    notes = [*tables.notes, *_size(split, catalogue)]
    explained = any("explanation" in task.family.slots for task, _ in tasks)
    if explained and "explanation" not in split.texts:
        split, note = _explain(split, catalogue, settings.like_threshold)
        notes += note
    told: Mapping[str, object] = split.texts
    if any("review_stars" in task.family.slots for task, _ in tasks) and _judges_reviews(split):
        split = replace(split, review_stars=review_stars(split, seed))
        told = {**told, "review_stars": split.review_stars}
    slots = prompter.available(split.histories, told)
    read = read_prompts(prompts)
    if protocol.single_target_prompts:
        read = {key: template for key, template in read.items() if not template.given}
    if protocol.random_row_split:
        # A history holds rows that are held out there, whose stars must not be told.
        read = {key: t for key, t in read.items() if not t.slots & RATED_SLOTS}
    if protocol.late_targets:
        tasks = [(LATE_SEQUENTIAL if task is SEQUENTIAL else task, share) for task, share in tasks]
    if judged_only:
        wanted = {task.name for task, _ in tasks}
        read = {key: template for key, template in read.items() if template.family in wanted}
    templates, left_out = usable(read, slots)
    notes += left_out
    taught: list[tuple[Task, float]] = []
    untaught: list[Task] = []
    for task, share in tasks:
        reason = _impossible(task, split, list(read.values()), list(templates.values()))
        if reason:
            notes.append(f"task {task.name} left out: {reason}")
        elif any(t.family == task.name and not t.heldout for t in templates.values()):
            taught.append((task, share))
        else:
            untaught.append(task)
    if not taught and not (judged_only and untaught):
        names = ", ".join(task.name for task, _ in tasks)
        done = "asked about" if judged_only else "learnt from"
        raise ValueError(f"{folder}: none of the tasks {names} can be {done} it: {notes[-1]}")
    stars = split.stars()
    if protocol.rating_jitter:
        check_whole_stars(stars)
    return Corpus(
        name=tables.name,
        split=split,
        catalogue=catalogue,
        prompter=prompter,
        templates=list(templates.values()),
        tasks=taught,
        ratings=stars,
        notes=[f"{tables.name}: {note}" for note in notes],
        untaught=untaught,
        protocol=protocol,
        reasons=None if protocol.free_explanations else find_reasons(split, catalogue, settings),
    )


def _with_usual_stars(
    split: Split, tables: Tables, settings: PromptSettings, seed: int
) -> tuple[Split, pl.DataFrame, PromptSettings]:
    """Adds what others usually gave each item, where there are stars to learn it from."""
    own, items = split.of_rows, tables.items
    if np.isnan(own.taught.ratings[own.rows("train")]).all():
        return split, items, settings
    if "usual_stars" in items.columns:
        raise ValueError(
            f"{tables.name}: the items table has a column 'usual_stars', which is made here from "
            "the stars of training: give it another name"
        )
    of_items_prior, of_users_prior = choose_priors(split, len(items), seed)
    of_rows, of_items = usual_stars(split, len(items), seed, of_items_prior)
    split = replace(split, histories=replace(split.histories, usual=of_rows))
    texts = [usual_text(value) for value in of_items.tolist()]
    items = items.with_columns(usual_stars=pl.Series(texts))
    return split, items, replace(settings, habit_prior=of_users_prior)


def _judges_reviews(split: Split) -> bool:
    """Whether any training interaction has a review and stars."""
    own = split.of_rows
    known = own.known("review") & ~np.isnan(own.taught.ratings)
    return bool(known[own.rows("train")].any())


def _explain(split: Split, catalogue: Catalogue, like_threshold: float) -> tuple[Split, list[str]]:
    """Explanations for data without them: sentences of its reviews, or facts where those fail."""
    if "review" in split.texts:
        split = extract_explanations(split)
        if "explanation" in split.texts:
            features = Counter(feature for feature in split.texts["feature"] if feature)
            names = ", ".join(name for name, _ in features.most_common(5))
            return split, [
                f"no explanation column: sentences of the reviews explain {features.total():,} "
                f"interactions, by {len(features):,} feature words ({names} ...)"
            ]
    split = derive_explanations(split, catalogue, like_threshold)
    said = "no written explanations: they are derived from facts"
    return split, [said] if split.derived_explanations else []


def _size(split: Split, catalogue: Catalogue) -> list[str]:
    histories = split.histories
    lines = [
        f"{histories.num_users:,} users, {len(catalogue):,} items, "
        f"{len(histories.items):,} interactions"
    ]
    if split.tied_users:
        lines.append(
            f"equal timestamps keep file order; that touches {split.tied_users:,} users "
            f"({split.tied_users / histories.num_users:.1%}) and decides the held-out items of "
            f"{split.tied_targets:,} ({split.tied_targets / histories.num_users:.1%})"
        )
    return lines


def _impossible(
    task: Task,
    split: Split,
    read: Sequence[PromptTemplate],
    templates: Sequence[PromptTemplate],
) -> str | None:
    """Why a data set can't teach a task, or judge one that is never taught."""
    own = [t for t in read if t.family == task.name]
    rows = task.split(split).rows("train")
    for column in sorted(frozenset.intersection(*(t.needs for t in own))):
        if not split.known(column)[rows].any():
            return f"no training interaction has any {column}"
    taught = any(not t.heldout for t in own)
    filled = [t for t in templates if t.family == task.name and not (taught and t.heldout)]
    if not filled:
        return "no template for training can be filled" if taught else "no template can be filled"
    if not any(len(task.examples(split, "train", t.needs)[0]) for t in filled):
        return "no training interaction has any history before it"
    return None


def read_tasks(texts: Sequence[str]) -> list[tuple[Task, float]]:
    """Reads tasks with shares, each as NAME=SHARE or NAME; a share of 0 leaves the task out.

    Raises:
        ValueError: an unknown task, or a share that is not a number from 0 on.
    """
    tasks = []
    for text in texts:
        name, _, share = text.partition("=")
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}; expected one of {', '.join(TASKS)}")
        if not (share or "1").replace(".", "", 1).isdigit():
            raise ValueError(f"task {text!r}: the share must be a number from 0 on")
        tasks.append((TASKS[name], float(share or "1")))
    return [(task, share) for task, share in tasks if share > 0]
