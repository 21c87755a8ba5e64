"""What may truly be said of an item to explain it; an explanation repeats one of these sentences.

A small model that writes freely soon writes one sentence for everybody, or names what is not so.
Where explanations were written by users, a reason is what one of them said of the same item; where
they are derived from facts, it is one of the facts that hold for this user and this item.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
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

# Quotes that are kept of an item.
_MOST = 16


class Reasons(Interface):
    """What may be said of an item."""

    source: ClassVar[str]  # what the sentences are: quote or fact
    complete: ClassVar[bool]  # whether nothing else of the kind could be true
    # Of the choice among them, as ``Predictor.pick`` has it.
    length_penalty: ClassVar[float]
    commonness: ClassVar[float]

    def about(self, state: UserState, asked: Asked) -> list[str]:
        """The sentences to choose from, each once; none where nothing is known.

        Args:
            state: whom the item is explained to.
            asked: the item, and the feature word to speak of if there is one.
        """


@dataclass(frozen=True)
class Quotes:
    """Sentences of training that explain an item.

    Attributes:
        items: the catalogue's row that each is about, ascending, shape (quotes,).
        texts: what was said, shape (quotes,).
        features: the feature word of each, empty where there is none, shape (quotes,).
    """

    items: npt.NDArray[np.int32]
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
        """The explanations of training, of each item those about its most frequent features."""
        rows = split.of_rows.rows("train")
        # What the same user says of a held-out item at another time would give the answer away.
        rows = rows[~split.of_rows.heldout_again()].tolist()
        texts, items = split.texts["explanation"], split.histories.items
        features = split.texts.get("feature", [None] * len(items))
        said: dict[int, dict[str, str]] = {}
        for row in rows:
            text = plain(texts[row] or "")
            if text:
                said.setdefault(int(items[row]), {}).setdefault(text, features[row] or "")
        kept: list[tuple[int, str, str]] = []
        for item in sorted(said):
            often = Counter(said[item].values())
            own = sorted(said[item].items(), key=lambda quote: -often[quote[1]])
            kept += [(item, text, feature) for text, feature in own[:_MOST]]
        return cls(
            items=np.array([item for item, _, _ in kept], dtype=np.int32),
            texts=tuple(text for _, text, _ in kept),
            features=tuple(feature for _, _, feature in kept),
        )

    def about(self, state: UserState, asked: Asked) -> list[str]:
        """What others said of the item; about the wished feature, if anybody spoke of it."""
        assert asked.item is not None
        begin, end = np.searchsorted(self.items, [asked.item, asked.item + 1]).tolist()
        own = range(begin, end)
        fitting = [i for i in own if self.features[i] == asked.feature]
        return [self.texts[i] for i in fitting or own]

    def table(self) -> pl.DataFrame:
        """One row a quote, to be saved."""
        return pl.DataFrame({"item": self.items, "feature": self.features, "text": self.texts})

    @classmethod
    def read(cls, table: pl.DataFrame) -> Quotes:
        """Takes what ``table`` gave."""
        return cls(
            items=table["item"].to_numpy().astype(np.int32),
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

    def about(self, state: UserState, asked: Asked) -> list[str]:
        """One sentence for each category that holds; for the wished one, if it is one of them."""
        assert asked.item is not None
        liked = self._liked(state, asked.item)
        categories, said = self.catalogue.categories, {}
        for category in categories[asked.item].tolist():
            sharing = [item for item in liked if category in categories[item]]
            if sharing:
                name = self.catalogue.category_names[category]
                said[name] = plain(fact(self.catalogue, sharing, name))
        wished = said.get(asked.feature or "")
        return [wished] if wished else list(dict.fromkeys(said.values()))

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
