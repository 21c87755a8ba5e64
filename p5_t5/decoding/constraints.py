"""Which items an answer may name: allow and deny lists, and conditions on what an item is.

Every condition is a mask of items, True where an item may be named, so conditions are combined
with ``&``, ``|`` and ``~``; one of shape (items,) holds for all requests when it meets one of
shape (requests, items).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from p5_t5.data.catalogue import Catalogue

_FEW = 12  # names that an error message lists in full


def deny(lists: Sequence[npt.NDArray[np.int32]], num_items: int) -> torch.Tensor:
    """A mask that allows everything but the given items.

    Args:
        lists: for each request the items that its answer must not name.
        num_items: the size of the catalogue.

    Returns:
        True where an item is allowed, shape (requests, items).

    Raises:
        ValueError: a list names what is no row of the catalogue.
    """
    return ~allow(lists, num_items)


def allow(lists: Sequence[npt.NDArray[np.int32]], num_items: int) -> torch.Tensor:
    """A mask that allows the given items and nothing else.

    Args:
        lists: for each request the only items that its answer may name.
        num_items: the size of the catalogue.

    Returns:
        True where an item is allowed, shape (requests, items).

    Raises:
        ValueError: a list names what is no row of the catalogue.
    """
    mask = torch.zeros(len(lists), num_items, dtype=torch.bool)
    mask[pairs(lists, num_items)] = True
    return mask


def pairs(
    lists: Sequence[npt.NDArray[np.int32]], num_items: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of items as pairs of a request's number and an item, both of shape (entries,).

    Raises:
        ValueError: a list names what is no row of the catalogue.
    """
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.long)
    request = torch.arange(len(lists)).repeat_interleave(lengths)
    items = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64))
    wrong = (items < 0) | (items >= num_items)
    if bool(wrong.any()):
        place = int(wrong.int().argmax())
        raise ValueError(
            f"the list of request {int(request[place])} names item {int(items[place])}, "
            f"expected 0 to {num_items - 1}"
        )
    return request, items


class CatalogueFilters:
    """Masks for conditions on the items of one catalogue, each worked out once.

    Conditions that were not asked for lately are forgotten. A mask is shared by all who ask for
    it: combine it into a new one, and don't write into it.
    """

    def __init__(self, catalogue: Catalogue, *, remembered: int = 256) -> None:
        """Works out nothing yet.

        Args:
            catalogue: whose items the masks are about, in the order of its rows.
            remembered: how many masks are kept, a byte an item each.

        Raises:
            ValueError: ``remembered`` is below 1.
        """
        if remembered < 1:
            raise ValueError(f"remembered must be at least 1, not {remembered}")
        self._catalogue, self._remembered = catalogue, remembered
        self._masks: dict[tuple[object, ...], torch.Tensor] = {}

    def category(self, name: str) -> torch.Tensor:
        """The items of a category, shape (items,).

        Raises:
            ValueError: no item has this category; names the nearest one.
        """

        def compute() -> pl.Series:
            known = self._catalogue.category_names
            if name not in known:
                raise ValueError(f"unknown category {name!r}{_nearest(name, known)}")
            return self._column("categories").list.contains(name)

        return self._mask(("category", name), compute)

    def price_below(self, value: float) -> torch.Tensor:
        """The items that cost less than a value, shape (items,); none whose price is unknown.

        Raises:
            ValueError: the catalogue has no prices.
        """
        return self._mask(("price below", float(value)), lambda: self._column("price") < value)

    def column_equals(self, column: str, value: str | float | bool) -> torch.Tensor:
        """The items with a value in a column of the items table, such as a market or "in stock".

        Args:
            column: its name in the table.
            value: text, a number or a truth value, as the column has it.

        Returns:
            Shape (items,); an empty cell equals nothing.

        Raises:
            ValueError: there is no such column, with the name of the nearest one, or it can't
                hold such a value.
        """

        def compute() -> pl.Series:
            series = self._column(column)
            if not _comparable(series.dtype, value):
                raise ValueError(
                    f"the column {column!r} holds {series.dtype}, so that nothing in it can equal "
                    f"{value!r} ({type(value).__name__})"
                )
            return series == value

        # True, 1 and 1.0 would be one key.
        return self._mask(("column", column, type(value), value), compute)

    def _column(self, name: str) -> pl.Series:
        table = self._catalogue.table
        if name not in table.columns:
            raise ValueError(f"the items have no column {name!r}{_nearest(name, table.columns)}")
        return table[name]

    def _mask(
        self, condition: tuple[object, ...], compute: Callable[[], pl.Series]
    ) -> torch.Tensor:
        """The mask of a condition, from memory if it is there; an unknown cell fulfils nothing."""
        mask = self._masks.pop(condition, None)
        if mask is None:
            mask = torch.tensor(compute().fill_null(False).to_numpy())
        # Last in, so that the first is the one that was asked for longest ago.
        self._masks[condition] = mask
        if len(self._masks) > self._remembered:
            del self._masks[next(iter(self._masks))]
        return mask


def _comparable(kind: pl.DataType, value: str | float | bool) -> bool:
    """Whether a column of some type can hold a value like this one."""
    if isinstance(value, bool):
        return kind == pl.Boolean
    if isinstance(value, str):
        return kind in (pl.String, pl.Categorical, pl.Enum)
    return kind.is_numeric()


def _nearest(given: str, known: Iterable[str]) -> str:
    """A hint for an error message: the nearest name, and all names where they are few."""
    names = list(known)
    if not names:
        return ": there is none"
    near = difflib.get_close_matches(given, names, n=1, cutoff=0)[0]
    listed = f" (there are {', '.join(names)})" if len(names) <= _FEW else ""
    return f"; the nearest is {near!r}{listed}"
