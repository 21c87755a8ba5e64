"""What may truly be said of an item to explain it; an explanation repeats one of these sentences.

A small model that writes freely soon writes one sentence for everybody, or names what is not so.
Where explanations were written by users, a reason is what one of them said of the same item, or
what this user said of the same feature of another item; where they are derived from facts, it is
one of the facts that hold for this user and this item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt
import polars as pl

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.histories import UserState
from p5_t5.data.splits import Split
from p5_t5.prompting.explanations import fact
from p5_t5.prompting.prompter import Asked, PromptSettings, plain

# Quotes of an item, and of a user, to choose from.
_MOST = 16


@dataclass(frozen=True)
class Reason:
    """A sentence that explains an item.

    Attributes:
        text: the sentence.
        source: ``quote`` is what a user wrote of the item, ``own_quote`` what the asked user wrote
            of the same feature of another item, ``fact`` follows from catalogue and history, and
            the ``model`` wrote what nobody checked.
        said_of: the catalogue's row that it was written of, ``None`` where nobody wrote it.
    """

    text: str
    source: str
    said_of: int | None = None


class Reasons(Interface):
    """What may be said of an item."""

    source: ClassVar[str]  # what the sentences are: quote or fact
    complete: ClassVar[bool]  # whether nothing else of the kind could be true
    # Of the choice among them, as ``Predictor.pick`` has it.
    length_penalty: ClassVar[float]
    commonness: ClassVar[float]

    def about(self, state: UserState, asked: Asked) -> list[Reason]:
        """The sentences to choose from, each once; none where nothing is known.

        Args:
            state: whom the item is explained to.
            asked: the item, and the feature word to speak of if there is one.
        """


@dataclass(frozen=True)
class Quotes:
    """Sentences of training that explain an item.

    Attributes:
        items: the catalogue's row that each is about, ascending, and of an item those about its
            frequent features first, shape (quotes,).
        users: who said it, as ``UserState.number`` has it, -1 where that is not known, shape
            (quotes,).
        texts: what was said, shape (quotes,).
        features: the feature word of each, empty where there is none, shape (quotes,).
    """

    items: npt.NDArray[np.int32]
    users: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    features: tuple[str, ...]

    source: ClassVar[str] = "quote"
    complete: ClassVar[bool] = False
    # By the mean over their tokens the shortest are chosen too often: they had 9 words where the
    # references have 15 (Musical Instruments, validation; 1.3 gives 15, and the highest BLEU).
    length_penalty: ClassVar[float] = 1.3
    # What many say of an item the next one says too: BLEU-4 .77 for .63 by the model alone, ROUGE-L
    # 12.7 for 11.5, much alike from 10 to 150 (Musical Instruments, validation).
    commonness: ClassVar[float] = 30.0

    @classmethod
    def of(cls, split: Split) -> Quotes:
        """The explanations of training."""
        rows, (users, _) = split.of_rows.rows("train"), split.of_rows.positions("train")
        # What the same user says of a held-out item at another time would give the answer away.
        kept = ~split.of_rows.heldout_again()
        numbers = split.histories.numbers
        users = users if numbers is None else numbers[users]
        texts, items = split.texts["explanation"], split.histories.items
        features = split.texts.get("feature", [None] * len(items))
        said: dict[int, dict[tuple[str, int], str]] = {}
        for row, user in zip(rows[kept].tolist(), users[kept].tolist(), strict=True):
            text = plain(texts[row] or "")
            if text:
                of_item = said.setdefault(int(items[row]), {})
                of_item.setdefault((text, user), features[row] or "")
        found: list[tuple[int, int, str, str]] = []
        for item in sorted(said):
            often = Counter({text: feature for (text, _), feature in said[item].items()}.values())
            own = sorted(said[item].items(), key=lambda quote: -often[quote[1]])
            found += [(item, user, text, feature) for (text, user), feature in own]
        return cls(
            items=np.array([item for item, *_ in found], dtype=np.int32),
            users=np.array([user for _, user, *_ in found], dtype=np.int64),
            texts=tuple(text for *_, text, _ in found),
            features=tuple(feature for *_, feature in found),
        )

    def about(self, state: UserState, asked: Asked) -> list[Reason]:
        """What was said of the item; of a wished feature, if anybody spoke of it.

        Where nobody did, the user's own words about the feature stand in, of another item: with
        them BLEU-4 is 1.87 for .94 and ROUGE-L 14.7 for 13.8 (Musical Instruments, validation, by
        likeness alone); they are one explanation in thirteen there.
        """
        assert asked.item is not None
        begin, end = np.searchsorted(self.items, [asked.item, asked.item + 1]).tolist()
        of_item = range(begin, end)
        if asked.feature:
            wished = asked.feature.casefold()
            for said, source in ((of_item, "quote"), (self._said_by(state), "own_quote")):
                fitting = [i for i in said if self.features[i].casefold() == wished]
                if fitting:
                    return self._reasons(fitting, source)
        return self._reasons(of_item, "quote")

    def _said_by(self, state: UserState) -> list[int]:
        """The quotes of a user about what the history holds, the newest item's first."""
        if state.number is None:
            return []
        order, users = self._by_user
        begin, end = np.searchsorted(users, [state.number, state.number + 1])
        place = {item: n for n, item in enumerate(state.items.tolist())}
        own = [i for i in order[begin:end].tolist() if int(self.items[i]) in place]
        return sorted(own, key=lambda i: -place[int(self.items[i])])

    @cached_property
    def _by_user(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The quotes in the order of who said them, and who that is, each of shape (quotes,)."""
        order = np.argsort(self.users, kind="stable")
        return order, self.users[order]

    def _reasons(self, rows: Iterable[int], source: str) -> list[Reason]:
        """The first of them, each text once."""
        once: dict[str, int] = {}
        for i in rows:
            once.setdefault(self.texts[i], int(self.items[i]))
        return [Reason(text, source, item) for text, item in [*once.items()][:_MOST]]

    def table(self) -> pl.DataFrame:
        """One row a quote, to be saved."""
        columns = {"item": self.items, "user": self.users}
        return pl.DataFrame({**columns, "feature": self.features, "text": self.texts})

    @classmethod
    def read(cls, table: pl.DataFrame) -> Quotes:
        """Takes what ``table`` gave, also of an earlier version, which did not keep who said it."""
        if "user" not in table.columns:
            table = table.with_columns(user=pl.lit(-1))
        return cls(
            items=table["item"].to_numpy().astype(np.int32),
            users=table["user"].to_numpy().astype(np.int64),
            texts=tuple(table["text"].to_list()),
            features=tuple(table["feature"].to_list()),
        )


@dataclass(frozen=True)
class Facts:
    """Which category of an item the user's liked history holds too, as derived explanations say.

    Attributes:
        catalogue: titles and categories.
        like_threshold: from so many stars on an item counts as liked.
    """

    catalogue: Catalogue
    like_threshold: float

    source: ClassVar[str] = "fact"
    complete: ClassVar[bool] = True
    length_penalty: ClassVar[float] = 1.0
    commonness: ClassVar[float] = 0.0

    def about(self, state: UserState, asked: Asked) -> list[Reason]:
        """One sentence for each category that holds; for the wished one, if it is one of them."""
        assert asked.item is not None
        liked = self._liked(state, asked.item)
        categories, said = self.catalogue.categories, {}
        for category in categories[asked.item].tolist():
            sharing = [item for item in liked if category in categories[item]]
            if sharing:
                name = self.catalogue.category_names[category]
                said[name] = plain(fact(self.catalogue, sharing, name))
        wished = (asked.feature or "").casefold()
        fitting = [text for name, text in said.items() if name.casefold() == wished]
        texts = dict.fromkeys(fitting or said.values())
        return [Reason(text, self.source) for text in texts]

    def _liked(self, state: UserState, item: int) -> list[int]:
        """What the user liked at the first time, oldest first, the item itself left out."""
        _, first = np.unique(state.items, return_index=True)
        times = np.sort(first)
        liked = np.ones(len(times), dtype=bool)
        if not np.isnan(state.ratings).all():
            liked = state.ratings[times] >= self.like_threshold
        return [row for row in state.items[times[liked]].tolist() if row != item]


def find_reasons(split: Split, catalogue: Catalogue, settings: PromptSettings) -> Reasons | None:
    """What explains the items of a data set; ``None`` where it has no explanations."""
    if "explanation" not in split.texts:
        return None
    if split.derived_explanations:
        return Facts(catalogue, settings.like_threshold)
    return Quotes.of(split)
