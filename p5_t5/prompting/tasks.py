"""The tasks: which interactions each one asks about, and what it may say and answer.

A task is one object here and one JSON file of templates. Everything else (rendering, mixing,
training, evaluation) goes by what the task and its templates say of themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Part, Split
from p5_t5.prompting.prompter import Asked
from p5_t5.prompting.templates import (
    ITEM_SLOTS,
    RATED_SLOTS,
    AnswerKind,
    Family,
    PromptTemplate,
    load_templates,
)

# What an explanation is about that names no feature.
ANY_FEATURE = "anything"

_USER_SLOTS = frozenset(
    {"user", "favourite_categories", "average_rating", "liked_titles", "history_titles"}
)


@dataclass(frozen=True)
class Task:
    """One family of prompts.

    Attributes:
        family: its slots and answers.
        first_position: the first position of a history that may be asked about.
        hides_repeats: whether training leaves out interactions with an item that the same user's
            held-out part has too. Who takes an item twice must not tell about the held-out time by
            the earlier one; what comes next in a history tells nothing of it.
        about_rows: whether it asks about an interaction by itself, so that its rows may have a
            split of their own.
        user_examples: for tasks about histories, how many examples a user P5's program draws in an
            epoch, by kind of answer.
        last_targets: only so many of a user's last training interactions are asked about in
            training, after at least two others; ``None`` for all. Histories then start at the
            first, second or third interaction. It stays the same task.
    """

    family: Family
    first_position: int = 0
    hides_repeats: bool = True
    about_rows: bool = False
    user_examples: Mapping[str, int] | None = None
    last_targets: int | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    @property
    def corrupts(self) -> bool:
        """Whether its prompts mask spans of a history, and so write T5's sentinels."""
        return any(kind.corrupts for kind in self.family.answers.values())

    def kind(self, template: PromptTemplate) -> AnswerKind:
        """The kind of answer that one of its templates asks for."""
        return self.family.answers[template.answer]

    def examples(
        self, split: Split, part: Part, needs: Collection[str] = ()
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The interactions of one part that the task asks about, as (users, positions).

        Args:
            split: the data.
            part: which interactions.
            needs: the columns that they must have a value in, as a template says.
        """
        split = self.split(split)
        users, positions = split.positions(part)
        rows = split.rows(part)
        keep = positions >= self.first_position
        if part == "train" and self.last_targets is not None:
            training = split.train_lengths[users]
            keep &= positions >= np.maximum(training - self.last_targets, 2)
        if part == "train" and self.hides_repeats:
            keep &= ~split.heldout_again()
        for column in needs:
            keep &= split.known(column)[rows]
        return users[keep], positions[keep]

    def split(self, split: Split) -> Split:
        """The split of a data set that holds for this task."""
        return split.of_rows if self.about_rows else split

    def skipped(self, position: int, draw: int) -> int:
        """How many of a user's oldest interactions a training example leaves out.

        Args:
            position: of the interaction that is asked about.
            draw: the example's random number.
        """
        if self.last_targets is None:
            return 0
        return int(np.random.default_rng([3, draw]).integers(min(3, position - 1)))

    def asked(self, split: Split, user: int, position: int) -> Asked:
        """What is asked about one interaction, answer included, nothing drawn."""
        row = int(split.histories.offsets[user]) + position
        rating = float(split.histories.ratings[row])
        texts = {name: values[row] for name, values in split.texts.items()}
        feature = texts.get("feature")
        if "feature" in self.family.slots and not feature:
            feature = ANY_FEATURE
        return Asked(
            item=int(split.histories.items[row]),
            rating=None if np.isnan(rating) else rating,
            review=texts.get("review"),
            summary=texts.get("summary"),
            explanation=texts.get("explanation"),
            feature=feature,
            usual=_number(split.histories.usual, row),
            review_stars=_number(split.review_stars, row),
        )


def _number(values: npt.NDArray[np.float32] | None, row: int) -> float | None:
    if values is None or np.isnan(values[row]):
        return None
    return float(values[row])


_ITEM = AnswerKind("item", "item", ("ndcg@10", True))
_CHOICE = AnswerKind("item", "choice", ("ndcg@10/candidates", True))
_PICK = AnswerKind("item", "choice", ("ndcg@10/candidates", True), listed=False)
_WHETHER_ITEM = AnswerKind("yes_no", "words", ("auc", True), proposes="item")
_WHETHER_STAR = AnswerKind("yes_no", "words", ("auc", True), proposes="star")
_LIKE = AnswerKind("like_dislike", "words", ("auc", True))
_STARS = AnswerKind("rating", "stars", ("rmse", False))
_SENTENCE = AnswerKind("explanation", "text", ("bleu-4", True))
_HEADLINE = AnswerKind("summary", "text", ("bleu-2", True))

SEQUENTIAL = Task(
    Family(
        name="sequential",
        slots=_USER_SLOTS | {"history", "latest", "recent", "item", "candidates", "yes_no"},
        answers={"next_item": _ITEM, "choice": _CHOICE, "yes_no": _WHETHER_ITEM},
        open_slots=("user_",),
    ),
    first_position=1,
    hides_repeats=False,
    user_examples={"next_item": 5, "choice": 5, "yes_no": 10},
)
# The sequential task as P5's program trains it.
LATE_SEQUENTIAL = replace(SEQUENTIAL, last_targets=3)
RATING = Task(
    Family(
        name="rating",
        slots=_USER_SLOTS
        | ITEM_SLOTS
        | RATED_SLOTS
        | {"history", "latest", "expected_stars"}
        | {"rating", "star", "yes_no", "like_dislike"},
        answers={"stars": _STARS, "yes_no": _WHETHER_STAR, "like": _LIKE},
    ),
    about_rows=True,
)
EXPLANATION = Task(
    Family(
        name="explanation",
        slots=_USER_SLOTS | ITEM_SLOTS | {"history", "latest", "rating", "feature", "explanation"},
        answers={"sentence": _SENTENCE},
    ),
    about_rows=True,
)
REVIEW = Task(
    Family(
        name="review",
        slots=_USER_SLOTS
        | ITEM_SLOTS
        | {"history", "latest", "expected_stars"}
        | {"review", "summary", "review_stars", "rating"},
        answers={"stars": _STARS, "headline": _HEADLINE},
    ),
    about_rows=True,
)
DIRECT = Task(
    Family(
        name="direct",
        slots=_USER_SLOTS | ITEM_SLOTS | {"history", "latest", "recent", "candidates", "yes_no"},
        answers={"choice": _CHOICE, "yes_no": _WHETHER_ITEM, "pick": _PICK},
    ),
    user_examples={"choice": 5, "yes_no": 10},
)
# Its items are told by what is known of them, and never by a code that another data set dealt out.
ZERO_SHOT = Task(
    Family(
        name="zero-shot",
        slots=_USER_SLOTS
        | (ITEM_SLOTS - {"item"})
        | {"rating", "like_dislike", "feature", "explanation"},
        answers={"like": _LIKE, "stars": _STARS, "sentence": _SENTENCE},
    ),
    about_rows=True,
)
# Whatever else is told of a user's history would show what is masked in it.
DENOISING = Task(
    Family(
        name="denoising",
        slots=frozenset({"user", "masked", "spans", "item"}),
        answers={"masked_items": AnswerKind("item", "item", ("ndcg@10", True), corrupts=True)},
        open_slots=("user_",),
    ),
    first_position=1,
    hides_repeats=False,
)
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (SEQUENTIAL, RATING, EXPLANATION, REVIEW, DIRECT, ZERO_SHOT, DENOISING)
}


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
    own = load_templates(extra, families)
    # Who brings a prompt wants to know how good it is.
    reported = {key: replace(template, reported=True) for key, template in own.items()}
    return load_templates([shipped_prompts()], families) | reported


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
