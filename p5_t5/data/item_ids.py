"""Item → short code: how the items of a catalogue are named in text.

A code is a word without white space that names one item and no other. Four ways to choose it
follow Hua et al., "How to Index Item IDs for Recommendation Foundation Models" (SIGIR-AP 2023):
plain numbers in the order in which training meets the items, plain numbers at random, one token
an item, and the path to the item in a tree that puts items of the same histories close together.

Codes are learnt from training interactions alone. The order of the catalogue's rows is never used
to make them, since it often follows the data file and so tells which items come next in held-out
rows. Atomic codes show the row, but there each token has an embedding of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from p5_t5.data.cooccurrence import Indices, Vectors, cooccurrence_vectors

SCHEMES = ("sequential", "random", "collaborative", "atomic")

_LEVELS = "abcdefghijklmnopqrstuvwxyz"
_DIMENSIONS = 64
_WIDEST_DEFAULT = 64  # children of a node, when the caller names no branching
_SPLIT_ROUNDS = 8


@dataclass(frozen=True)
class ItemCodes:
    """The code of every item of a catalogue.

    Attributes:
        scheme: One of `SCHEMES`.
        pieces: (items,) the pieces of each item's code, in the order of the catalogue's rows.
            sequential and random: one piece, a number such as "7391", which the tokenizer cuts by
            itself. atomic: one added token, "<item_57>". collaborative: one added token a level,
            "<a_3>", "<b_17>", "<c_4>".
    """

    scheme: str
    pieces: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """(items,) each item's code as it is written in a prompt."""
        return tuple("".join(pieces) for pieces in self.pieces)

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Tokens to add to the tokenizer, by level, then by number; none for plain numbers."""
        if self.scheme in ("sequential", "random"):
            return ()
        levels = zip(*self.pieces, strict=True)
        return tuple(token for level in levels for token in sorted(set(level), key=_token_number))

    @property
    def continuation_tokens(self) -> frozenset[str]:
        """Added tokens that never start a word: those of every level after the first."""
        return frozenset(token for pieces in self.pieces for token in pieces[1:])

    def to_dict(self) -> dict[str, object]:
        """The codes as plain lists and strings, ready for JSON."""
        return {"scheme": self.scheme, "pieces": [list(pieces) for pieces in self.pieces]}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ItemCodes:
        """Reads what `to_dict` wrote.

        Args:
            data: A mapping with the fields "scheme" and "pieces".

        Returns:
            Codes equal to those that were written.

        Raises:
            ValueError: A field is missing, has an unknown scheme, a malformed code, codes of
                different depth, or the same code twice. The message names the field and the row.
        """
        for field in ("scheme", "pieces"):
            if field not in data:
                raise ValueError(f"item codes: field {field!r} is missing")
        scheme, rows = data["scheme"], data["pieces"]
        if not isinstance(scheme, str) or scheme not in SCHEMES:
            raise ValueError(f"item codes: field 'scheme': {_unknown_scheme(scheme)}")
        if not isinstance(rows, list | tuple) or not rows:
            raise ValueError("item codes: field 'pieces': expected a list with one entry an item")
        first_row: dict[tuple[str, ...], int] = {}
        for index, row in enumerate(rows):
            pieces = _checked_pieces(scheme, index, row)
            if len(pieces) != len(rows[0]):
                raise ValueError(
                    f"item codes: field 'pieces[{index}]': {len(pieces)} pieces, but "
                    f"'pieces[0]' has {len(rows[0])}; every code has the same number"
                )
            if pieces in first_row:
                raise ValueError(
                    f"item codes: field 'pieces[{index}]': code {''.join(pieces)!r} is already "
                    f"that of 'pieces[{first_row[pieces]}]'"
                )
            first_row[pieces] = index
        return cls(scheme, tuple(first_row))


def assign_item_ids(
    scheme: str,
    offsets: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    num_items: int,
    *,
    seed: int,
    branching: int | None = None,
) -> ItemCodes:
    """Gives every item of the catalogue a code of its own.

    sequential: 1, 2, 3 … in the order in which items first appear when the users are walked one
    after the other (Geng et al. 2022), so that neighbours in time get neighbouring numbers; items
    that training never meets come last, in an order drawn from the seed. random: 1 … num_items,
    shuffled. atomic: the item's row. collaborative: the path in a balanced tree over items that
    occur in the same histories; items about which training says nothing are spread over the tree.

    Args:
        scheme: One of `SCHEMES`.
        offsets: (users + 1,) where each user's interactions start in `items`, from 0 to their end.
        items: (interactions,) catalogue rows of the training interactions, user by user, each
            user's in time order. Held-out interactions must not be among them.
        num_items: Rows of the catalogue.
        seed: Fixes every draw; the same seed gives the same codes.
        branching: Children of a tree node, for collaborative codes; the tree is as deep as it must
            be to hold the catalogue, at least 2 levels. None takes the smallest depth from 2 that
            needs at most 64 children a node.

    Returns:
        The codes, all different.

    Raises:
        ValueError: The scheme is unknown, an item is not a row of the catalogue, the offsets do not
            rise from 0 to the number of interactions, or branching is below 2.
    """
    if scheme not in SCHEMES:
        raise ValueError(_unknown_scheme(scheme))
    _check_histories(offsets, items, num_items)
    if branching is not None and branching < 2:
        raise ValueError(f"branching is {branching}; a tree needs at least 2 children a node")

    rng = np.random.default_rng(seed)
    pieces: list[tuple[str, ...]]
    if scheme == "atomic":
        pieces = [(f"<item_{row}>",) for row in range(num_items)]
    elif scheme == "random":
        pieces = [(str(number),) for number in (rng.permutation(num_items) + 1).tolist()]
    else:
        walk = _appearance_order(items, num_items, rng)
        position = np.empty(num_items, dtype=np.int64)
        position[walk] = np.arange(num_items)
        if scheme == "sequential":
            pieces = [(str(number),) for number in (position + 1).tolist()]
        else:
            # Positions in the walk stand for the items from here on, so that nothing can depend on
            # the order of the catalogue's rows.
            paths = _tree_paths(offsets, position[items], num_items, branching, rng)[position]
            tokens = [
                [f"<{_LEVELS[level]}_{digit}>" for digit in digits]
                for level, digits in enumerate(paths.T.tolist())
            ]
            pieces = list(zip(*tokens, strict=True))
    codes = ItemCodes(scheme, tuple(pieces))
    assert len(set(codes.texts)) == num_items, "two items share a code"
    return codes


def _token_number(token: str) -> int:
    """57 of "<item_57>"."""
    return int(token[token.rindex("_") + 1 : -1])


def _unknown_scheme(scheme: object) -> str:
    """What to tell someone who asked for a scheme that does not exist."""
    nearest = difflib.get_close_matches(str(scheme), SCHEMES, n=1, cutoff=0)[0]
    return f"unknown scheme {scheme!r}; did you mean {nearest!r}? There are {', '.join(SCHEMES)}"


def _checked_pieces(scheme: str, index: int, row: object) -> tuple[str, ...]:
    """One entry of "pieces" in the form of its scheme, or a ValueError that names it."""
    where = f"item codes: field 'pieces[{index}]'"
    if not isinstance(row, list | tuple) or not all(isinstance(piece, str) for piece in row):
        raise ValueError(f"{where}: expected a list of texts, got {row!r}")
    number = "(0|[1-9][0-9]*)"
    forms, example = [number], ["7391"]
    if scheme == "atomic":
        forms, example = [f"<item_{number}>"], ["<item_57>"]
    elif scheme == "collaborative":
        forms = [f"<{letter}_{number}>" for letter in _LEVELS[: max(2, len(row))]]
        example = ["<a_3>", "<b_17>"]
    if len(row) != len(forms) or not all(map(re.fullmatch, forms, row)):
        raise ValueError(f"{where}: expected a {scheme} code such as {example}, got {row!r}")
    return tuple(row)


def _check_histories(
    offsets: npt.NDArray[np.int64], items: npt.NDArray[np.int32], num_items: int
) -> None:
    """Raises ValueError if the interactions are not well-formed rows over the catalogue."""
    if num_items < 1:
        raise ValueError(f"num_items is {num_items}; a catalogue has at least one item")
    if not offsets.size or offsets[0] != 0 or offsets[-1] != len(items):
        ends = [int(offset) for offset in offsets[[0, -1]]] if offsets.size else []
        raise ValueError(f"offsets must go from 0 to {len(items)} interactions, got ends {ends}")
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if falls.size:
        user = int(falls[0])
        raise ValueError(
            f"offsets must never fall, but user {user} goes from {offsets[user]} to "
            f"{offsets[user + 1]}"
        )
    outside = np.flatnonzero((items < 0) | (items >= num_items))
    if outside.size:
        row = int(outside[0])
        raise ValueError(
            f"items[{row}] is {items[row]}, not a row of the catalogue (0 to {num_items - 1})"
        )


def _appearance_order(
    items: npt.NDArray[np.int32], num_items: int, rng: np.random.Generator
) -> Indices:
    """(items,) catalogue rows by first appearance, then the rows never met, shuffled."""
    seen, first = np.unique(items, return_index=True)
    unseen = np.setdiff1d(np.arange(num_items), seen, assume_unique=True)
    return np.concatenate([seen[np.argsort(first)], rng.permutation(unseen)]).astype(np.int64)


def _tree_paths(
    offsets: npt.NDArray[np.int64],
    items: Indices,
    num_items: int,
    branching: int | None,
    rng: np.random.Generator,
) -> Indices:
    """(items, depth) the child taken at each level on the way from the root to each item.

    Every node shares its items among `branching` children as evenly as whole numbers allow. The
    leaves hold one item each.
    """
    branching, depth = _tree_shape(num_items, branching)
    # One thread: sums in another order could turn a near tie and with it a code.
    with threadpool_limits(limits=1):
        vectors = _filled(cooccurrence_vectors(offsets, items, num_items, _DIMENSIONS, rng), rng)
        paths = np.zeros((num_items, depth), dtype=np.int64)
        # Members of a node are kept in a drawn order, which decides between equal vectors.
        nodes = [rng.permutation(num_items)]
        for level in range(depth):
            children: list[Indices] = []
            for members in nodes:
                parts = _split_evenly(vectors, members, branching)
                for digit, part in enumerate(parts):
                    paths[part, level] = digit
                children.extend(part for part in parts if part.size)
            nodes = children
    assert len(nodes) == num_items, "a leaf holds more than one item"
    return paths


def _filled(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """An item without a vector takes that of an item drawn at random.

    So such items neither gather in one place nor disturb the others.
    """
    known = vectors.any(axis=1)
    if not known.any():
        return rng.standard_normal((len(vectors), 2))
    vectors[~known] = vectors[rng.choice(np.flatnonzero(known), int((~known).sum()))]
    return vectors


def _tree_shape(num_items: int, branching: int | None) -> tuple[int, int]:
    """The children of a node and the number of levels that hold the catalogue."""
    depth = 2
    while (branching or _WIDEST_DEFAULT) ** depth < num_items:
        depth += 1
    assert depth <= len(_LEVELS), "a level has no letter"
    if branching is None:
        branching = 2
        while branching**depth < num_items:
            branching += 1
    return branching, depth


def _split_evenly(vectors: Vectors, members: Indices, parts: int) -> list[Indices]:
    """Cuts members into parts of equal size (or one less), close vectors in the same part."""
    if parts == 1:
        return [members]
    if members.size <= parts:
        # One item a part: order along the widest direction, so that neighbours stay neighbours.
        order = np.argsort(vectors[members] @ _widest(vectors[members]), kind="stable")
        return np.split(members[order], np.arange(1, parts).clip(max=members.size))
    half = (parts + 1) // 2
    whole, rest = divmod(members.size, parts)
    first, second = _cut_in_two(vectors, members, half * whole + min(half, rest))
    return [
        *_split_evenly(vectors, first, half),
        *_split_evenly(vectors, second, parts - half),
    ]


def _cut_in_two(vectors: Vectors, members: Indices, size: int) -> tuple[Indices, Indices]:
    """Cuts members into the `size` first and the others: 2-means with the sizes held.

    With both sizes given, the best cut for two centres is a cut by rank along the line between
    them, so each round is exact. The first line is the direction of the largest variance.
    """
    points = vectors[members]
    direction = _widest(points)
    order = np.argsort(points @ direction, kind="stable")
    for _ in range(_SPLIT_ROUNDS):
        direction = points[order[size:]].mean(axis=0) - points[order[:size]].mean(axis=0)
        order = np.argsort(points @ direction, kind="stable")
    # Sorted, the members keep the drawn order in which equal vectors are told apart.
    return members[np.sort(order[:size])], members[np.sort(order[size:])]


def _widest(points: Vectors) -> Vectors:
    """(dimensions,) the direction in which the points vary most."""
    centred = points - points.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    widest: Vectors = directions[:, -1]
    return widest
