"""One leave-one-out split that every task shares.

Each user's interactions stand in time order (equal timestamps keep the order of the file); the
last one is the test, the one before it the validation, all others the training. Tasks may ask only
about training positions while the model learns, so that no rating, review or explanation of a
held-out pair can reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from p5_t5.data.histories import Histories, as_text
from p5_t5.data.tables import Tables
from p5_t5.data.user_order import in_drawn_order

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
TEXT_COLUMNS = ("review", "summary", "explanation", "feature")


@dataclass(frozen=True)
class Split:
    """All interactions and which part each belongs to.

    Attributes:
        histories: users and their interactions in time order.
        texts: for each text column of the data set its values, shape (interactions,).
        tied_users: how many users have equal timestamps among their own interactions.
        tied_targets: how many users' held-out items share their time with a neighbour.
        derived_explanations: whether the explanations were made from facts, not written by users.
        review_stars: the stars that the words of each interaction's review make likely, NaN without
            one, shape (interactions,); ``None`` where nobody asked.
        held_back: which users' last training interaction is held back, so that validation, which
            then asks about them alone, asks as the test does: one interaction after the last that
            training shows. Shape (users,), ``None`` where validation asks about all users.
        row_parts: as an index into ``PARTS``, the part of each interaction for tasks about single
            rows, shape (interactions,); ``None`` where these share the split of all tasks.
    """

    histories: Histories
    texts: Mapping[str, list[str | None]]
    tied_users: int
    tied_targets: int
    derived_explanations: bool = False
    review_stars: npt.NDArray[np.float32] | None = None
    held_back: npt.NDArray[np.bool_] | None = None
    row_parts: npt.NDArray[np.int8] | None = None

    @cached_property
    def train_lengths(self) -> npt.NDArray[np.int64]:
        """How many training interactions each user has, shape (users,)."""
        lengths: npt.NDArray[np.int64] = np.diff(self.histories.offsets) - 2
        return lengths if self.held_back is None else lengths - self.held_back

    @cached_property
    def of_rows(self) -> Split:
        """The split for tasks about single rows: this one, or that of ``row_parts``."""
        if self.row_parts is None:
            return self
        return _RowSplit(**{field.name: getattr(self, field.name) for field in fields(self)})

    def positions(self, part: Part) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The interactions of one part, as (user, position in the user's own order).

        Returns:
            Two arrays of the same length. ``train`` has every position before the last two, and
            one less for users in ``held_back``.
        """
        lengths = np.diff(self.histories.offsets)
        users = np.arange(len(lengths), dtype=np.int64)
        if part == "test":
            return users, lengths - 1
        if part == "validation":
            asked = users if self.held_back is None else np.flatnonzero(self.held_back)
            return asked, lengths[asked] - 2
        counts = self.train_lengths
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(users, counts), np.arange(int(counts.sum()), dtype=np.int64) - starts

    def rows(self, part: Part) -> npt.NDArray[np.int64]:
        """The interactions of one part as indices into the arrays of ``histories``."""
        users, positions = self.positions(part)
        return self.histories.offsets[users] + positions

    def known(self, column: str) -> npt.NDArray[np.bool_]:
        """Which interactions have a value in a column, ``rating`` or a text; (interactions,)."""
        if column == "rating":
            known: npt.NDArray[np.bool_] = ~np.isnan(self.histories.ratings)
            return known
        texts = self.texts.get(column, [None] * len(self.histories.items))
        return np.array([bool(text and text.strip()) for text in texts], dtype=bool)

    def stars(self) -> list[float]:
        """The stars that stand in training, each once, lowest first."""
        stars = self.histories.ratings[self.of_rows.rows("train")]
        found: list[float] = np.unique(stars[~np.isnan(stars)]).tolist()
        return found

    def heldout_again(self) -> npt.NDArray[np.bool_]:
        """Which training interactions are of an item that the same user's held-out part has too.

        Returns:
            Shape (training interactions,), in the order of ``rows("train")``.
        """
        users, _ = self.positions("train")
        items, ends = self.histories.items, self.histories.offsets[1:]
        own = items[self.rows("train")]
        last, before = items[ends - 1][users], items[ends - 2][users]
        again: npt.NDArray[np.bool_] = (own == last) | (own == before)
        return again

    @cached_property
    def taught(self) -> Histories:
        """The histories as training may tell them: without the stars of ``heldout_again``."""
        again = self.heldout_again()
        if not again.any():
            return self.histories
        ratings = self.histories.ratings.copy()
        ratings[self.rows("train")[again]] = np.nan
        return replace(self.histories, ratings=ratings)

    def all_histories(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """All interactions as (offsets, items), held-out ones included."""
        return self.histories.offsets, self.histories.items

    def train_histories(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Training interactions only, as (offsets, items): all that item codes may learn from."""
        offsets = np.concatenate([[0], np.cumsum(self.train_lengths)]).astype(np.int64)
        return offsets, self.histories.items[self.rows("train")]


class _RowSplit(Split):
    """Rows that belong to the parts as drawn, whatever the user's order is."""

    @property
    def of_rows(self) -> Split:
        """This one."""
        return self

    def positions(self, part: Part) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The interactions of one part, as (user, position in the user's own order)."""
        assert self.row_parts is not None
        offsets = self.histories.offsets
        rows = np.flatnonzero(self.row_parts == PARTS.index(part))
        users = np.searchsorted(offsets, rows, side="right") - 1
        return users, rows - offsets[users]

    def heldout_again(self) -> npt.NDArray[np.bool_]:
        """None: nothing is hidden where rows are split by chance."""
        return np.zeros(len(self.rows("train")), dtype=bool)


def leave_one_out(
    tables: Tables,
    *,
    row_seed: int | None = None,
    drawn_order: bool = False,
    held_back: int = 0,
    seed: int = 0,
) -> Split:
    """Splits a data set per user: last item test, second last validation, the rest training.

    Args:
        tables: the data set.
        row_seed: tasks about single rows get a split of their own, at random 80/10/10 and drawn
            from this seed, as in P5's program; ``None`` for one split for all tasks.
        drawn_order: number the users as ``in_drawn_order`` does, and call no one by an id that only
            counts; in the order of the file without it.
        held_back: the last training interaction of so many users is held back, and validation asks
            about these users alone.
        seed: of their choice.

    Raises:
        ValueError: a user has fewer than three interactions, so that a part would be empty; or
            too few have the four that ``held_back`` needs.
    """
    if drawn_order:
        tables = in_drawn_order(tables)
    interactions = tables.interactions
    user_ids = interactions["user_id"].unique(maintain_order=True)
    lengths = interactions.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    if lengths.min() < 3:
        short = user_ids[int(lengths.argmin())]
        raise ValueError(
            f"{tables.name}: user {short!r} has {lengths.min()} interactions, but training, "
            "validation and test need at least 3; read the tables with min_interactions=3"
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    catalogue = tables.items["item_id"]
    rows = pl.DataFrame({"item_id": catalogue}).with_row_index("row")
    items = interactions.select("item_id").join(
        rows, on="item_id", how="left", maintain_order="left"
    )["row"]
    count = len(interactions)
    ratings = (
        interactions["rating"].cast(pl.Float32).to_numpy()
        if "rating" in interactions.columns
        else np.full(count, np.nan, dtype=np.float32)
    )
    tied_users, tied_targets = _ties(interactions, offsets)
    profiles = {c: as_text(tables.users[c]) for c in tables.users.columns if c != "user_id"}
    return Split(
        histories=Histories(
            user_ids=tuple(user_ids.to_list()),
            offsets=offsets,
            items=items.to_numpy().astype(np.int32),
            ratings=ratings,
            profiles=profiles,
            ids_are_names=not drawn_order,
        ),
        texts={c: interactions[c].to_list() for c in TEXT_COLUMNS if c in interactions.columns},
        tied_users=tied_users,
        tied_targets=tied_targets,
        held_back=_held_back(tables.name, lengths, held_back, seed) if held_back else None,
        row_parts=None if row_seed is None else _random_parts(count, row_seed),
    )


def _held_back(
    name: str, lengths: npt.NDArray[np.int64], count: int, seed: int
) -> npt.NDArray[np.bool_]:
    """So many users, drawn among those with training interactions left without the last."""
    enough = np.flatnonzero(lengths >= 4)
    if len(enough) < count:
        raise ValueError(
            f"{name}: --held_back_users {count}: only {len(enough):,} users have the 4 "
            "interactions that this needs"
        )
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[np.random.default_rng([8, seed]).choice(enough, count, replace=False)] = True
    return chosen


def _random_parts(count: int, seed: int) -> npt.NDArray[np.int8]:
    """The part of each row: a tenth validation, a tenth test, the rest training."""
    parts = np.zeros(count, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(count)
    tenth = max(round(count / 10), 1)
    parts[order[:tenth]] = PARTS.index("validation")
    parts[order[tenth : 2 * tenth]] = PARTS.index("test")
    return parts


def _ties(interactions: pl.DataFrame, offsets: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Counts users with any tie, and users whose held-out order is decided by the file."""
    if "timestamp" not in interactions.columns:
        return 0, 0
    times = interactions["timestamp"].to_numpy()
    equal = np.zeros(len(times), dtype=bool)
    equal[1:] = times[1:] == times[:-1]
    equal[offsets[:-1]] = False
    any_tie = np.add.reduceat(equal, offsets[:-1]) > 0
    ends = offsets[1:]
    return int(any_tie.sum()), int((equal[ends - 1] | equal[ends - 2]).sum())
