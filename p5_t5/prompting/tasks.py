"""The tasks: which interactions each one asks about, and what it may say and answer.

A task is one object here and one JSON file of templates. Everything else (rendering, mixing,
training, evaluation) goes by what the task and its templates say of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Part, Split
from p5_t5.prompting.prompter import Asked
from p5_t5.prompting.templates import Family, PromptTemplate, load_templates

# What an explanation is about that names no feature.
ANY_FEATURE = "anything"
AnswerForm = Literal["item", "rating", "text"]

_USER_SLOTS = frozenset(
    {"user", "favourite_categories", "average_rating", "liked_titles", "history_titles"}
)
_ITEM_SLOTS = frozenset({"item", "title", "categories", "brand", "price", "description"})


@dataclass(frozen=True)
class Task:
    """One family of prompts.

    Attributes:
        family: its slots and answers.
        form: what an answer is: an item of the catalogue, a number of stars, or free text.
        needs: the column that an interaction must have a value in to be asked about.
        metric: the metric that judges it first, and whether higher is better.
        first_position: the first position of a history that may be asked about.
    """

    family: Family
    form: AnswerForm
    needs: Literal["rating", "explanation"] | None
    metric: tuple[str, bool]
    first_position: int = 0

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    def examples(
        self, split: Split, part: Part
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The interactions of one part that the task asks about, as (users, positions)."""
        users, positions = split.positions(part)
        rows = split.rows(part)
        keep = positions >= self.first_position
        if part == "train" and self.form != "item":
            # Who takes an item twice must not tell about the held-out time by the earlier one.
            keep &= ~split.heldout_again()
        if self.needs == "rating":
            keep &= ~np.isnan(split.histories.ratings[rows])
        elif self.needs == "explanation":
            texts = split.texts.get("explanation")
            has_text = [] if texts is None else [bool(texts[row]) for row in rows.tolist()]
            keep &= np.array(has_text, dtype=bool) if has_text else np.zeros(len(rows), dtype=bool)
        return users[keep], positions[keep]

    def asked(self, split: Split, user: int, position: int) -> Asked:
        """What is asked about one interaction, answer included."""
        row = int(split.histories.offsets[user]) + position
        rating = float(split.histories.ratings[row])
        texts = {name: split.texts[name][row] for name in split.texts}
        feature = texts.get("feature")
        if self.needs == "explanation" and not feature:
            feature = ANY_FEATURE
        return Asked(
            item=int(split.histories.items[row]),
            rating=None if np.isnan(rating) else rating,
            explanation=texts.get("explanation"),
            feature=feature,
        )


SEQUENTIAL = Task(
    family=Family(
        name="sequential",
        slots=_USER_SLOTS | {"history", "latest", "recent", "item"},
        answers={"next_item": "item"},
        open_slots=("user_",),
    ),
    form="item",
    needs=None,
    metric=("ndcg@10", True),
    first_position=1,
)
RATING = Task(
    family=Family(
        name="rating",
        slots=_USER_SLOTS | _ITEM_SLOTS | {"history", "latest", "rating"},
        answers={"stars": "rating"},
    ),
    form="rating",
    needs="rating",
    metric=("rmse", False),
)
EXPLANATION = Task(
    family=Family(
        name="explanation",
        slots=_USER_SLOTS | _ITEM_SLOTS | {"history", "latest", "rating", "feature", "explanation"},
        answers={"sentence": "explanation"},
    ),
    form="text",
    needs="explanation",
    metric=("bleu-4", True),
)
TASKS: Mapping[str, Task] = {task.name: task for task in (SEQUENTIAL, RATING, EXPLANATION)}


def shipped_prompts() -> Path:
    """The folder of the shipped templates, in a wheel and in an editable install alike."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def read_prompts(extra: Sequence[str | Path] = ()) -> dict[tuple[str, str], PromptTemplate]:
    """The shipped templates, with those of ``extra`` files or folders added or put in their place.

    Raises:
        ValueError: a file or a template is wrong.
    """
    families = {name: task.family for name, task in TASKS.items()}
    return load_templates([shipped_prompts()], families) | load_templates(extra, families)


def usable(
    templates: Mapping[tuple[str, str], PromptTemplate], slots: frozenset[str]
) -> tuple[dict[tuple[str, str], PromptTemplate], list[str]]:
    """Leaves out the templates that a data set can't fill.

    Returns:
        The usable templates, and one printable line for each one left out.
    """
    kept, notes = {}, []
    for key, template in templates.items():
        missing = sorted(template.slots - slots)
        if missing:
            wanted = ", ".join(f"{{{slot}}}" for slot in missing)
            notes.append(f"template {template.id} ({template.family}) left out: no {wanted}")
        else:
            kept[key] = template
    return kept, notes
