"""The catalogue: every item, what is known of it, and the code that stands for it in text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp

from p5_t5.data.histories import as_text
from p5_t5.data.item_ids import ItemCodes

_NAMED = ("title", "categories", "brand", "price", "description", "usual_stars")


@dataclass(frozen=True)
class Catalogue:
    """Items in the order of the items table; a row number is an item's name inside the program.

    Attributes:
        table: the items table as it was read.
        codes: the code of each row.
    """

    table: pl.DataFrame
    codes: ItemCodes

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.table)

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        """Shape (items,)."""
        return tuple(self.table["item_id"].to_list())

    @cached_property
    def code_texts(self) -> tuple[str, ...]:
        """The word that stands for each item in a prompt, shape (items,)."""
        return self.codes.texts

    @cached_property
    def columns(self) -> Mapping[str, list[str]]:
        """What a template may say of an item, slot name to text per row.

        The canonical columns keep their names, any other column ``c`` is ``item_c``.
        """
        columns = {}
        for name in self.table.columns:
            if name == "item_id":
                continue
            columns[name if name in _NAMED else f"item_{name}"] = as_text(self.table[name])
        if "title" in columns:
            # An item whose own title is missing is still called something.
            titles = self.table["title"].to_list()
            columns["title"] = [t or i for t, i in zip(titles, self.item_ids, strict=True)]
        return columns

    @property
    def has_titles(self) -> bool:
        """Whether the items table has a title column."""
        return "title" in self.columns

    def title(self, row: int) -> str:
        """What to call an item before people: its title, else its id."""
        return self.columns["title"][row] if self.has_titles else self.item_ids[row]

    @cached_property
    def category_names(self) -> tuple[str, ...]:
        """All categories, in the order of their names."""
        if "categories" not in self.table.columns:
            return ()
        names = self.table["categories"].explode().drop_nulls().unique().sort()
        return tuple(names.to_list())

    @cached_property
    def categories(self) -> list[npt.NDArray[np.int32]]:
        """For each row its categories as indices into ``category_names``."""
        if not self.category_names:
            return [np.empty(0, dtype=np.int32)] * len(self)
        number = {name: i for i, name in enumerate(self.category_names)}
        rows: Sequence[list[str] | None] = self.table["categories"].to_list()
        return [
            np.array([number[n] for n in dict.fromkeys(row or ()) if n], dtype=np.int32)
            for row in rows
        ]

    @cached_property
    def category_matrix(self) -> sp.csr_array:
        """1 where an item has a category, else 0, shape (items, categories)."""
        ends = np.cumsum([0, *map(len, self.categories)])
        columns = np.concatenate([np.empty(0, dtype=np.int32), *self.categories])
        shape = (len(self), len(self.category_names))
        return sp.csr_array((np.ones(len(columns)), columns, ends), shape=shape)

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def _rows_of_title(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        if self.has_titles:
            for row, title in enumerate(self.columns["title"]):
                rows.setdefault(title.casefold(), []).append(row)
        return rows

    def codes_of(self, item_ids: Sequence[str]) -> ItemCodes:
        """The codes of the same items in another order.

        Raises:
            ValueError: they are not the items of this catalogue.
        """
        unknown = [item_id for item_id in item_ids if item_id not in self._row_of_id]
        if unknown or len(item_ids) != len(self):
            lacks = f" ({unknown[0]!r} is one of {len(unknown):,} it lacks)" if unknown else ""
            raise ValueError(
                f"the checkpoint has {len(self):,} items, not the {len(item_ids):,} of the data set"
                f"{lacks}; item codes and their weights can't be kept"
            )
        pieces = tuple(self.codes.pieces[self._row_of_id[item_id]] for item_id in item_ids)
        return ItemCodes(self.codes.scheme, pieces)

    def find(self, text: str) -> int:
        """The row of an item given by its id or its title.

        Raises:
            ValueError: nothing or more than one item is called so; names the nearest ones.
        """
        if text in self._row_of_id:
            return self._row_of_id[text]
        rows = self._rows_of_title.get(text.casefold(), [])
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = ", ".join(self.item_ids[row] for row in rows)
            raise ValueError(f"{text!r} is the title of {len(rows)} items: give an id ({ids})")
        near = difflib.get_close_matches(text.casefold(), self._rows_of_title, n=3, cutoff=0.5)
        names = [self.columns["title"][self._rows_of_title[title][0]] for title in near]
        names = (names + difflib.get_close_matches(text, self._row_of_id, n=3, cutoff=0.5))[:3]
        hint = f"; the nearest are {', '.join(map(repr, names))}" if names else ""
        raise ValueError(f"no item has the id or title {text!r}{hint}")
