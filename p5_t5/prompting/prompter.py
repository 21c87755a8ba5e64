"""From a user at one moment and a template to the text of a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.histories import Histories, UserState
from p5_t5.data.usual_stars import PRIORS, expected_stars, usual_text
from p5_t5.prompting.span_corruption import corrupt
from p5_t5.prompting.templates import (
    CODE_SLOTS,
    COMPARED_SLOTS,
    OLDER_SLOTS,
    RATED_SLOTS,
    RECENT_SLOTS,
    WORDS,
    PromptTemplate,
)


@dataclass(frozen=True)
class Rated:
    """A list of items with stars.

    Attributes:
        items: the code of each, with what else is told of it.
        stars: the stars that each was given, "" where there are none; as many.
    """

    items: Sequence[str]
    stars: Sequence[str]


# What fills a slot: text, or rows of the catalogue where it is made of item codes, or such a list.
Value = str | list[int] | Rated
# One whole number, or an array of them.
Numbers = TypeVar("Numbers", np.int64, npt.NDArray[np.int64])
Fact = TypeVar("Fact", str, float)
_SPACE_OR_BRACKET = re.compile(r"[\s<>]+")


@dataclass(frozen=True)
class PromptSettings:
    """What every prompt of one model shares; saved with it.

    Attributes:
        max_history: at most so many of the newest items are written.
        recent: of these, how many newest ones a template with ``{recent}`` or ``{rated}`` gives to
            the decoder at prediction.
        least_recent: while training, the cut before ``{recent}`` or ``{rated}`` is drawn anew each
            time, with at least this share of the written items after it. Each of them is learnt to
            be said, what stands before the cut is only read.
        max_recent: and with at most so many items after it.
        like_threshold: from so many stars on an item counts as liked.
        candidates: how many items a choice is among, the right one included.
        review_words: of a review so many words are written.
        habit_prior: so many stars that are as usual are added to a user's in ``{expected_stars}``.
    """

    max_history: int = 50
    recent: int = 20
    least_recent: float = 0.5
    max_recent: int = 50
    like_threshold: float = 4.0
    candidates: int = 100
    review_words: int = 100
    habit_prior: float = PRIORS[0]

    def cut(self, kept: Numbers, draw: Numbers) -> Numbers:
        """How many of the written items stand after the cut while training.

        Args:
            kept: items that are written.
            draw: a random whole number.
        """
        most = np.minimum(kept, self.max_recent)
        least = np.minimum(most, np.floor(kept * self.least_recent).astype(np.int64))
        cut: Numbers = least + draw % (most - least + 1)
        return cut


@dataclass(frozen=True)
class Asked:
    """What a prompt asks about, and its answer while training.

    Attributes:
        item: the catalogue's row, ``None`` where the item is the answer and unknown.
        rating: stars.
        review: what the user wrote.
        summary: the headline of the review.
        explanation: the sentence that explains the interaction.
        feature: the word that the explanation is about.
        candidates: the catalogue's rows that a choice is among, in the order of the prompt.
        star: the stars that a question puts forward.
        agreed: whether what a question puts forward is the truth.
        usual: what may be told of the item's usual stars while training.
        review_stars: the stars that the words of the review make likely.
        mask: which items of the history up to the asked one are masked, shape (items written,).
    """

    item: int | None = None
    rating: float | None = None
    review: str | None = None
    summary: str | None = None
    explanation: str | None = None
    feature: str | None = None
    candidates: npt.NDArray[np.int64] | None = None
    star: float | None = None
    agreed: bool | None = None
    usual: float | None = None
    review_stars: float | None = None
    mask: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Prompt:
    """One rendered example: the encoder's text, the answer's start and all of it; its FAMILY/ID."""

    source: str
    given: str
    target: str
    template: str = ""


def stars(value: float) -> str:
    """A rating as text: "4", or "3.5" where the data has halves."""
    return f"{value:g}"


def plain(text: str) -> str:
    """Text of the data as one line without angle brackets, which belong to the item codes."""
    return _SPACE_OR_BRACKET.sub(" ", text).strip()


class Prompter:
    """Fills templates from what is known of users and items."""

    def __init__(self, catalogue: Catalogue, settings: PromptSettings) -> None:
        """Prepares the text of the catalogue's columns once."""
        self.catalogue = catalogue
        self.settings = settings
        self._columns = {
            name: [plain(value) for value in values] for name, values in catalogue.columns.items()
        }
        self._codes = catalogue.code_texts

    def available(self, histories: Histories, texts: Mapping[str, object]) -> frozenset[str]:
        """The slots that a data set can fill; ``texts`` are what it says of interactions."""
        slots = {"user", "user_name", "item", "yes_no"} | (CODE_SLOTS - RATED_SLOTS)
        slots |= {*self._columns, *texts}
        slots |= {f"user_{column}" for column in histories.profiles}
        if histories.has_ratings:
            slots |= {"rating", "average_rating", "star", "like_dislike"}
            slots |= RATED_SLOTS - COMPARED_SLOTS
            if "usual_stars" in self._columns:
                slots |= COMPARED_SLOTS | {"expected_stars"}
        if self.catalogue.category_names:
            slots |= {"favourite_categories"}
        if self.catalogue.has_titles:
            slots |= {"liked_titles", "history_titles"}
        return frozenset(slots)

    def render(
        self, template: PromptTemplate, state: UserState, asked: Asked, draw: int | None = None
    ) -> Prompt:
        """Renders one prompt.

        Args:
            template: the template.
            state: the user before the interaction.
            asked: the item that is asked about and, for training, the answer.
            draw: a random whole number for training, from which the cut between history and
                recent items is taken; ``None`` at prediction, where the target stays empty.

        Raises:
            ValueError: a slot can't be filled.
        """
        separator = template.separator
        values = {
            slot: value if isinstance(value, str) else self._text(slot, value, separator)
            for slot, value in self.values(template, state, asked, draw).items()
        }
        return Prompt(
            source=template.render(template.source_parts, values),
            given=template.render(template.given_parts, values),
            target="" if draw is None else template.render(template.target_parts, values),
            template=f"{template.family}/{template.id}",
        )

    def values(
        self, template: PromptTemplate, state: UserState, asked: Asked, draw: int | None = None
    ) -> dict[str, Value]:
        """What fills the slots that a prompt needs, as far as it is known; see ``render``."""
        slots = template.source_slots if draw is None else template.slots
        cut = self.recent_count(template, len(state.items), draw)
        if draw is None:
            # Nothing is held out any more: items have the stars that all of training gave them.
            state, asked = replace(state, usual=None), replace(asked, usual=None)
        values = {slot: self._value(slot, template, state, asked, cut) for slot in slots}
        return {slot: value for slot, value in values.items() if value is not None}

    def _text(self, slot: str, value: list[int] | Rated, separator: str) -> str:
        if isinstance(value, Rated):
            pairs = zip(value.items, value.stars, strict=True)
            return separator.join([" ".join(pair).rstrip() for pair in pairs])
        # Nothing stands between candidates: a hundred commas would be as long as they are.
        between = " " if slot == "candidates" else separator
        return between.join([self._codes[row] for row in value])

    def rated(
        self,
        rows: Sequence[int],
        ratings: Sequence[float],
        usual: Sequence[str] | None = None,
    ) -> Rated:
        """Items with the stars that they were given.

        Args:
            rows: of the catalogue.
            ratings: stars, NaN where there are none, as many.
            usual: what stands between an item and its stars, as many.
        """
        before = [self._codes[row] for row in rows]
        if usual is not None:
            before = [f"{code} {value}" for code, value in zip(before, usual, strict=True)]
        return Rated(before, ["" if math.isnan(rating) else stars(rating) for rating in ratings])

    def usual(
        self, rows: Sequence[int], told: npt.NDArray[np.float32] | None = None
    ) -> Sequence[str]:
        """The usual stars of items as text, from what may be told while training or of all."""
        if told is None:
            known = self._columns["usual_stars"]
            return [known[row] for row in rows]
        return [usual_text(value) for value in told.tolist()]

    def _expected_stars(self, state: UserState, item: int, told: float | None) -> str | None:
        """What others usually give, and how much more or less than others the user gives."""
        if "usual_stars" not in self._columns:
            return None
        before = state.usual
        if before is None:
            before = np.array([*map(float, self.usual(state.items.tolist()))], dtype=np.float32)
        of_item = float(self._columns["usual_stars"][item]) if told is None else told
        prior = self.settings.habit_prior
        return usual_text(expected_stars(of_item, state.ratings, before, prior))

    def answer(self, slot: str, asked: Asked) -> str | None:
        """The right answer as text, ``None`` where it is not known.

        Args:
            slot: what it fills, of those that are not made of item codes.
            asked: what was asked.
        """
        return _ASKED_SLOTS[slot](self, asked)

    def can_ask(self, template: PromptTemplate, state: UserState, asked: Asked) -> bool:
        """Whether everything that a prompt must say at prediction is known."""
        return template.source_slots == self.values(template, state, asked).keys()

    def recent_count(self, template: PromptTemplate, length: int, draw: int | None) -> int:
        """How many of a history's newest items go to the decoder."""
        if not template.slots & RECENT_SLOTS:
            return 0
        kept = min(length, self.settings.max_history)
        if draw is None:
            return min(kept, self.settings.recent)
        return int(self.settings.cut(np.int64(kept), np.int64(draw)))

    def _value(
        self, slot: str, template: PromptTemplate, state: UserState, asked: Asked, cut: int
    ) -> Value | None:
        """What fills one slot, ``None`` where it is not known."""
        if slot in OLDER_SLOTS | RECENT_SLOTS:
            length = len(state.items)
            begin, end = max(length - self.settings.max_history, 0), length - cut
            part = slice(end, length) if slot in RECENT_SLOTS else slice(begin, end)
            rows: list[int] = state.items[part].tolist()
            if slot in RATED_SLOTS:
                usual = None
                if slot in COMPARED_SLOTS:
                    usual = self.usual(rows, None if state.usual is None else state.usual[part])
                return self.rated(rows, state.ratings[part].tolist(), usual)
            return rows[::-1] if slot == "latest" else rows
        if slot == "candidates":
            return None if asked.candidates is None else asked.candidates.tolist()
        if slot in ("masked", "spans"):
            return self._corrupted(slot, template, state, asked)
        if slot in _USER_SLOTS:
            return _USER_SLOTS[slot](self, state)
        if slot.startswith("user_"):
            column = slot.removeprefix("user_")
            value = state.name if column == "name" else state.profile.get(column)
            return None if value is None else plain(value)
        if slot in _ASKED_SLOTS:
            return _ASKED_SLOTS[slot](self, asked)
        if asked.item is None:
            return None
        if slot == "item":
            return [asked.item]
        if slot == "usual_stars" and asked.usual is not None:
            return usual_text(asked.usual)
        if slot == "expected_stars":
            return self._expected_stars(state, asked.item, asked.usual)
        return self._columns[slot][asked.item] if slot in self._columns else None

    def _corrupted(
        self, slot: str, template: PromptTemplate, state: UserState, asked: Asked
    ) -> str | None:
        """The history with its masked spans, or these without the newest item, the answer."""
        if asked.mask is None:
            return None
        before = state.items[len(state.items) - len(asked.mask) + 1 :]
        # The asked item is masked and left out, so it need not be known.
        source, target = corrupt([*(self._codes[i] for i in before.tolist()), ""], asked.mask)
        # Between the masked items nothing stands: the sentinels part them.
        return template.separator.join(source) if slot == "masked" else " ".join(target[:-1])

    def liked(self, state: UserState) -> list[int]:
        """The items that a user liked, oldest first; all of them where there are no stars."""
        items: list[int] = state.items.tolist()
        if bool(np.isnan(state.ratings).all()):
            return items
        liked = (state.ratings >= self.settings.like_threshold).tolist()
        return [item for item, is_liked in zip(items, liked, strict=True) if is_liked]

    def _favourite_categories(self, state: UserState) -> str:
        rows = [self.catalogue.categories[i] for i in self.liked(state)[-100:]]
        if not rows:
            return "none yet"
        counts = np.bincount(np.concatenate(rows), minlength=len(self.catalogue.category_names))
        best = np.argsort(-counts, kind="stable")[:3]
        names = [plain(self.catalogue.category_names[c]) for c in best if counts[c]]
        return ", ".join(names) or "none yet"

    def _average_rating(self, state: UserState) -> str:
        known = state.ratings[~np.isnan(state.ratings)]
        return f"{known.mean():.1f}" if len(known) else "none yet"

    def _liked_titles(self, state: UserState) -> str:
        return self._titles(self.liked(state)[-3:])

    def _history_titles(self, state: UserState) -> str:
        return self._titles(state.items[-5:].tolist())

    def _titles(self, rows: Sequence[int]) -> str:
        return ", ".join(self._columns["title"][i] for i in rows) or "none yet"


def _user_number(prompter: Prompter, state: UserState) -> str | None:
    # Numbers start at 1, as the original's do.
    return None if state.number is None else str(state.number + 1)


def _told(fact: Fact | None, say: Callable[[Fact], str]) -> str | None:
    return None if fact is None else say(fact)


def _review(prompter: Prompter, asked: Asked) -> str | None:
    if asked.review is None:
        return None
    return " ".join(plain(asked.review).split()[: prompter.settings.review_words])


def _yes_no(prompter: Prompter, asked: Asked) -> str | None:
    return None if asked.agreed is None else WORDS["yes_no"][not asked.agreed]


def _like_dislike(prompter: Prompter, asked: Asked) -> str | None:
    if asked.rating is None:
        return None
    return WORDS["like_dislike"][asked.rating < prompter.settings.like_threshold]


_ASKED_SLOTS: Mapping[str, Callable[[Prompter, Asked], str | None]] = {
    "rating": lambda _, asked: _told(asked.rating, stars),
    "star": lambda _, asked: _told(asked.star, stars),
    "review": _review,
    "summary": lambda _, asked: _told(asked.summary, plain),
    "review_stars": lambda _, asked: _told(asked.review_stars, usual_text),
    "explanation": lambda _, asked: _told(asked.explanation, plain),
    "feature": lambda _, asked: _told(asked.feature, plain),
    "yes_no": _yes_no,
    "like_dislike": _like_dislike,
}
_USER_SLOTS: Mapping[str, Callable[[Prompter, UserState], str | None]] = {
    "user": _user_number,
    "favourite_categories": Prompter._favourite_categories,
    "average_rating": Prompter._average_rating,
    "liked_titles": Prompter._liked_titles,
    "history_titles": Prompter._history_titles,
}
