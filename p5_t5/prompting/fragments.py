"""Prompts as token ids, joined from fragments that are cut only once.

A template is cut at its whitespace: what stands between two slots is the same in every prompt, a
list of items is made of codes that are words of their own, and only a word that holds a slot
("user_{user}") has to be looked at again. A T5 tokenizer never joins two words, so the fragments
side by side are exactly the tokens of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import numpy as np

from p5_t5.prompting.prompter import Rated, Value
from p5_t5.prompting.templates import ANSWERED_SLOTS, CODE_SLOTS

# Token ids of a text, without an end.
Cut = Callable[[str], Sequence[Any]]
_Parts = tuple[tuple[str, str | None], ...]
# The tokens of words that are always the same; or the literals and slots of a word; or a slot of
# item codes.
_Fragment = tuple[tuple[Sequence[int], ...], _Parts, str]

_SPACE_OR_WORD = re.compile(r"\s+|\S+")
# So many filled words (titles, names, sentences) are remembered.
_REMEMBERED = 2**15


@dataclass(frozen=True)
class Noise:
    """Drops or changes a template's own words, so that a model doesn't cling to the wording.

    Attributes:
        words: the tokens of words that may stand in the place of one.
        rate: the share of the words that are touched; half of these are left out.
        generator: what is drawn with.
    """

    words: Sequence[Sequence[int]]
    rate: float
    generator: np.random.Generator

    def over(self, words: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """What is left of some words."""
        drawn = self.generator.random(len(words)).tolist()
        kept = []
        for word, place in zip(words, drawn, strict=True):
            if place >= self.rate:
                kept.append(word)
            elif place >= self.rate / 2:
                kept.append(self.words[int(self.generator.integers(len(self.words)))])
        return kept


class Fragments:
    """Cuts filled templates into token ids."""

    def __init__(self, cut: Cut, codes: Sequence[str]) -> None:
        """Remembers nothing yet.

        Args:
            cut: text to token ids, word by word, no end.
            codes: the text of every item's code.
        """
        self._cut, self._codes = cut, codes
        self._templates: dict[_Parts, list[_Fragment]] = {}
        self._texts: dict[str, Sequence[int]] = {}
        self._items: dict[str, tuple[int, list[Sequence[Any]]]] = {}

    def encode(
        self,
        parts: _Parts,
        values: Mapping[str, Value],
        separator: str,
        noise: Noise | None = None,
    ) -> list[int]:
        """Token ids of a filled template, no end.

        Args:
            parts: of the template, as (literal, slot) pairs.
            values: of its slots.
            separator: what stands between two items of a history.
            noise: what happens to the template's own words; what fills its slots stays.
        """
        ids: list[int] = []
        for tokens, _ in self._runs(parts, values, separator, noise):
            ids.extend(tokens)
        return ids

    def answers(self, parts: _Parts, values: Mapping[str, Value], separator: str) -> list[bool]:
        """Which tokens of a filled given start were answers once, shape (tokens of ``encode``,)."""
        marks: list[bool] = []
        for tokens, answered in self._runs(parts, values, separator):
            marks.extend(answered for _ in tokens)
        return marks

    def _runs(
        self,
        parts: _Parts,
        values: Mapping[str, Value],
        separator: str,
        noise: Noise | None = None,
    ) -> Iterator[tuple[Iterable[int], bool]]:
        """The tokens of a filled template, run by run, and whether they were answers once."""
        fragments = self._templates.get(parts)
        if fragments is None:
            fragments = self._templates[parts] = self._fragments(parts)
        for fixed, word, slot in fragments:
            if slot:
                value, answered = values[slot], slot in ANSWERED_SLOTS
                if isinstance(value, str):  # codes among other words
                    yield self._words_of(value), answered
                elif isinstance(value, Rated):
                    yield from self._rated(value, separator, answered)
                else:
                    # Candidates stand side by side, as the prompter writes them.
                    skipped, items = self._separated(" " if slot == "candidates" else separator)
                    listed = chain.from_iterable(map(items.__getitem__, value))
                    yield islice(listed, skipped, None), answered
            elif word:
                yield (
                    self._text("".join([f"{values[s]}" if s else text for text, s in word])),
                    False,
                )
            else:
                yield chain.from_iterable(noise.over(fixed) if noise else fixed), False

    def _rated(
        self, rows: Rated, separator: str, answered: bool
    ) -> Iterator[tuple[Iterable[int], bool]]:
        between = ""
        for item, stars in zip(rows.items, rows.stars, strict=True):
            yield self._words_of(between + item), False
            if stars:
                yield self._text(stars), answered
            between = separator

    def _words_of(self, text: str) -> Iterable[int]:
        return chain.from_iterable(map(self._text, text.split()))

    def words(self, parts: _Parts) -> list[Sequence[int]]:
        """The tokens of a template's own words, one by one."""
        return [word for fixed, _, _ in self._fragments(parts) for word in fixed]

    def _fragments(self, parts: _Parts) -> list[_Fragment]:
        """Cuts a template at its whitespace and at its lists of items."""
        fragments: list[_Fragment] = []
        for filled, run in groupby(_words(parts), key=lambda word: any(s for _, s in word)):
            if not filled:
                texts = ["".join(literal for literal, _ in word) for word in run]
                fragments.append((tuple(self._cut(text) for text in texts), (), ""))
                continue
            for word in run:
                lists = [slot for _, slot in word if slot in CODE_SLOTS]
                assert not lists or len(word) == 1
                fragments.append(((), (), lists[0] or "") if lists else ((), word, ""))
        return fragments

    def _text(self, text: str) -> Sequence[int]:
        ids = self._texts.get(text)
        if ids is None:
            if len(self._texts) >= _REMEMBERED:
                self._texts.clear()
            ids = self._texts[text] = self._cut(text)
        return ids

    def _separated(self, separator: str) -> tuple[int, list[Sequence[Any]]]:
        """The tokens of every item's code after a separator, and how many are the separator's."""
        found = self._items.get(separator)
        if found is None:
            before = tuple(self._cut(separator))
            items: list[Sequence[Any]] = [(*before, *self._cut(code)) for code in self._codes]
            found = self._items[separator] = len(before), items
        return found


def _words(parts: _Parts) -> list[_Parts]:
    """The words of a template, each as the literals and slots that it is made of."""
    words: list[list[tuple[str, str | None]]] = [[]]
    for literal, slot in parts:
        for piece in _SPACE_OR_WORD.findall(literal):
            if piece.isspace():
                words.append([])
            else:
                words[-1].append((piece, None))
        if slot:
            words[-1].append(("", slot))
    return [tuple(word) for word in words if word]
