"""An order of the users, and names for them, that say nothing of what they chose."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import polars as pl

from p5_t5.data.histories import UNKNOWN, as_text
from p5_t5.data.tables import Tables

# Letters and then a number: such ids count the users in the order of some file.
_COUNTED = re.compile(r"\D*\d+").fullmatch


def in_drawn_order(tables: Tables) -> Tables:
    """The same data set with its users in an order that their ids' hashes give.

    Prompts call users by their places. Files that were made from reviews sorted by item have the
    users in the order in which these meet them, so that neighbours share an item, often a held-out
    one: of Beauty's users as P5 has them 79% share one with the next (2% by chance), and 10% have
    their test item in the training of the five before or after them (1% by chance). A user without
    a name whose id only counts is called by the new place too.
    """
    ids = tables.users["user_id"].to_list()
    order = sorted(ids, key=lambda id_: hashlib.blake2b(id_.encode(), digest_size=8).digest())
    places = pl.DataFrame({"user_id": order}).with_row_index("place")
    users = places.join(tables.users, on="user_id", how="left", maintain_order="left")
    if any(map(_COUNTED, order)):
        own = as_text(users["name"]) if "name" in users.columns else [UNKNOWN] * len(order)
        names = [
            str(place) if name == UNKNOWN and _COUNTED(id_) else name
            for place, (id_, name) in enumerate(zip(order, own, strict=True), 1)
        ]
        users = users.with_columns(name=pl.Series(names))
    interactions = tables.interactions.join(
        places, on="user_id", how="left", maintain_order="left"
    ).sort("place", maintain_order=True)
    return replace(tables, interactions=interactions.drop("place"), users=users.drop("place"))
