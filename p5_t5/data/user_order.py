"""An order of the users that says nothing of what they chose."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import polars as pl

from p5_t5.data.tables import Tables


def in_drawn_order(tables: Tables) -> Tables:
    """The same data set with its users in an order that their ids' hashes give.

    Prompts call users by their places. Files that were made from reviews sorted by item have the
    users in the order in which these meet them, so that neighbours share an item, often a held-out
    one: of Beauty's users as P5 has them 79% share one with the next (2% by chance), and 10% have
    their test item in the training of the five before or after them (1% by chance).
    """
    ids = tables.users["user_id"].to_list()
    order = sorted(ids, key=lambda id_: hashlib.blake2b(id_.encode(), digest_size=8).digest())
    places = pl.DataFrame({"user_id": order}).with_row_index("place")
    users = places.join(tables.users, on="user_id", how="left", maintain_order="left")
    interactions = tables.interactions.join(
        places, on="user_id", how="left", maintain_order="left"
    ).sort("place", maintain_order=True)
    return replace(tables, interactions=interactions.drop("place"), users=users.drop("place"))
