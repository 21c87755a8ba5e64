"""Users and what they did, as arrays: everything a prompt may know about a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

UNKNOWN = "unknown"
# Letters and then a number: such ids count the users in the order of some file.
_COUNTS = re.compile(r"\D*\d+").fullmatch


@dataclass(frozen=True)
class UserState:
    """One user at one moment, before the interaction that a prompt asks about.

    Attributes:
        number: the user's number in the data set, ``None`` for a new user.
        name: what to call the user: a name, else the raw id or the number; ``None`` for a new one.
        profile: profile columns as text (age, occupation ...); empty for a new user.
        items: catalogue rows in time order, oldest first, shape (history,).
        ratings: their stars, NaN where there are none, shape (history,).
        usual: what may be told of the items' usual stars while training, shape (history,).
    """

    number: int | None
    name: str | None
    profile: Mapping[str, str]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    usual: npt.NDArray[np.float32] | None = None

    def only(self, kept: npt.NDArray[np.bool_]) -> UserState:
        """The same user with some of the interactions alone, ``kept`` of shape (history,)."""
        usual = None if self.usual is None else self.usual[kept]
        return replace(self, items=self.items[kept], ratings=self.ratings[kept], usual=usual)


@dataclass(frozen=True)
class Histories:
    """All users' interactions, user by user in time order.

    Attributes:
        user_ids: shape (users,).
        offsets: user ``u`` owns the entries ``offsets[u]:offsets[u + 1]``, shape (users + 1,).
        items: the catalogue's row of each interaction, shape (interactions,).
        ratings: stars, NaN where there are none, shape (interactions,).
        profiles: profile columns as text, each of shape (users,); ``name`` is one of them.
        numbers: what prompts call each user by, less one, shape (users,); their places here
            without it.
        usual: what ``usual_stars`` tells with each interaction while training, shape
            (interactions,).
        ids_are_names: whether a user without a name is called by the raw id even where it only
            counts the users, as "user_7" does; by the number without it.
    """

    user_ids: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    profiles: Mapping[str, list[str]]
    numbers: npt.NDArray[np.int64] | None = None
    usual: npt.NDArray[np.float32] | None = None
    ids_are_names: bool = True

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.user_ids)

    @cached_property
    def number(self) -> dict[str, int]:
        """User id to number."""
        return {user_id: number for number, user_id in enumerate(self.user_ids)}

    @property
    def has_ratings(self) -> bool:
        """Whether the data set has stars at all."""
        return bool(len(self.ratings)) and not bool(np.isnan(self.ratings).all())

    @property
    def profile_columns(self) -> tuple[str, ...]:
        """The profile columns that a template may name as ``{user_COLUMN}``."""
        return tuple(column for column in self.profiles if column != "name")

    def state(self, user: int, position: int | None = None, skipped: int = 0) -> UserState:
        """A user as known before their ``position``-th interaction, or with all of them.

        Args:
            user: the user's number.
            position: of the interaction in the user's order, counted from 0.
            skipped: so many of the oldest interactions are left out.
        """
        start, end = int(self.offsets[user]), int(self.offsets[user + 1])
        if position is not None:
            assert 0 <= position <= end - start
            end = start + position
        start += skipped
        assert start <= end
        number = user if self.numbers is None else int(self.numbers[user])
        name = self.profiles["name"][user] if "name" in self.profiles else UNKNOWN
        if name == UNKNOWN:
            name = self.user_ids[user]
            if not self.ids_are_names and _COUNTS(name):
                name = str(number + 1)
        return UserState(
            number=number,
            name=name,
            profile={column: self.profiles[column][user] for column in self.profile_columns},
            items=self.items[start:end],
            ratings=self.ratings[start:end],
            usual=None if self.usual is None else self.usual[start:end],
        )


def as_text(column: pl.Series) -> list[str]:
    """Any column as text for a prompt: whole numbers without a point, nothing as "unknown"."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        known = column.drop_nulls()
        # Beyond 2^53 a float no longer says which whole number it is.
        if bool(((known == known.round()) & (known.abs() <= 2**53)).all()):
            column = column.cast(pl.Int64)
    if isinstance(column.dtype, pl.List):
        column = column.list.eval(pl.element().cast(pl.String)).list.join(", ")
    values = column.cast(pl.String).fill_null(UNKNOWN).to_list()
    return [value if value.strip() else UNKNOWN for value in values]
