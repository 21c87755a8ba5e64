"""Make the toy data set: a small world whose users have tastes and habits that can be learnt.

The works of this world come in series of five parts, each series in one genre. A user likes one
or two genres and reads a series part after part before turning to another one, so that the next
item follows from the last ones; all series are read about equally often, so that popularity says
little. Ratings follow taste, quality and the user's mood. All of it comes from one seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from p5_t5.data.tables import check_tables, data_card, write_tables

HERE = Path(__file__).resolve().parent
PARTS = 5
GENRES = ("mystery", "romance", "adventure", "comedy", "horror", "history")
BRANDS = ("Lantern House", "Quillwood", "Harbour & Finch", "Ninth Street", "Old Mill", "Papermoon")
PRICES = (4.99, 7.5, 9.99, 12.0, 14.95, 19.99, 24.5)
COLOURS = (
    "Amber",
    "Silver",
    "Crimson",
    "Hollow",
    "Quiet",
    "Golden",
    "Winter",
    "Velvet",
    "Broken",
    "Distant",
    "Emerald",
    "Paper",
    "Iron",
    "Midnight",
    "Gentle",
    "Wandering",
    "Salt",
)
THINGS = (
    "Lantern",
    "Harbour",
    "Orchard",
    "Compass",
    "Letter",
    "Garden",
    "Clock",
    "River",
    "Tower",
    "Mirror",
    "Bridge",
    "Feather",
    "Violin",
    "Island",
    "Key",
    "Meadow",
    "Sparrow",
)
FIRST_NAMES = (
    "Ada",
    "Bruno",
    "Cleo",
    "Dario",
    "Elin",
    "Felix",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Leon",
    "Mara",
    "Nils",
    "Olga",
    "Pavel",
    "Rosa",
    "Sami",
    "Tilda",
    "Viktor",
)
LAST_NAMES = (
    "Alder",
    "Berg",
    "Castell",
    "Dorn",
    "Ekholm",
    "Farrow",
    "Grove",
    "Hale",
    "Ivers",
    "Juhl",
    "Kern",
    "Lund",
    "Marsh",
    "North",
    "Orde",
    "Pike",
    "Reed",
    "Stone",
    "Thorn",
)
OCCUPATIONS = ("baker", "teacher", "nurse", "sailor", "student", "gardener", "clerk", "painter")
QUALITIES = {
    "plot": ("tangled", "gripping", "well built"),
    "pace": ("slow", "quick", "steady"),
    "dialogue": ("stiff", "witty", "natural"),
    "ending": ("flat", "surprising", "fitting"),
    "cast": ("thin", "lively", "memorable"),
    "mood": ("dull", "dense", "warm"),
}
VERDICTS = {
    1: ("a waste of an evening", "not for me at all", "I gave up halfway"),
    2: ("weaker than I had hoped", "I would not open it again", "mostly a let-down"),
    3: ("fine for a rainy day", "neither good nor bad", "it passes the time"),
    4: ("well worth the hours", "I enjoyed nearly all of it", "a solid choice"),
    5: ("one of the best I know", "I could not put it down", "a joy from start to end"),
}
OPENINGS = (
    "{title}: {verdict}.",
    "In short, {verdict}.",
    "My view of {title}: {verdict}.",
    "After part {part} I can say: {verdict}.",
    "As a {occupation} I say: {verdict}.",
)
EXPLANATIONS = (
    "The {feature} is {word} in this {genre}.",
    "A {genre} whose {feature} is {word}.",
    "You notice the {word} {feature} first.",
    "It is the {word} {feature} that counts.",
)
GENRE_EXPLANATIONS = (
    "It is {genre} through and through.",
    "Part {part} is all about {genre}.",
    "Anyone who likes {genre} knows this tone.",
)
START = 1_672_531_200  # 2023-01-01, UTC
YEAR = 365 * 24 * 3600
FEWEST, MOST = 8, 30
HABIT = 0.9  # how often a user goes on with the series at hand
STRAY = 0.3  # how often a user who turns away leaves the favourite genres


def _make_items(rng: np.random.Generator, count: int) -> pl.DataFrame:
    """The catalogue in series order, with the hidden columns series, part and quality."""
    names = [f"The {colour} {thing}" for colour in COLOURS for thing in THINGS]
    names = [names[i] for i in rng.permutation(len(names))]
    series = np.arange(count) // PARTS
    part = np.arange(count) % PARTS + 1
    brand = rng.integers(len(BRANDS), size=series[-1] + 1)
    start = rng.integers(1960, 2015, size=series[-1] + 1)
    price = np.resize(PRICES, series[-1] + 1)
    # Ids are dealt out at random: neither the id nor the catalogue's order tells the series.
    ids = rng.permutation(count)
    return pl.DataFrame(
        {
            "item_id": [f"w{i:04d}" for i in ids],
            "title": [
                names[s] + (f" {p}" if p > 1 else "") for s, p in zip(series, part, strict=True)
            ],
            "categories": [[GENRES[s % len(GENRES)]] for s in series],
            "brand": [BRANDS[brand[s]] for s in series],
            "price": price[series],
            "year": start[series] + part * 2,
            "series": series,
            "part": part,
            "quality": rng.normal(0.0, 0.7, size=count),
        }
    )


def _make_users(rng: np.random.Generator, count: int) -> pl.DataFrame:
    """The users, with the hidden columns likes (one or two genres) and mood."""
    likes = [
        [int(genre) for genre in rng.permutation(len(GENRES))[: rng.integers(1, 3)]]
        for _ in range(count)
    ]
    names = [
        (int(rng.integers(len(FIRST_NAMES))), int(rng.integers(len(LAST_NAMES))))
        for _ in range(count)
    ]
    return pl.DataFrame(
        {
            "user_id": [f"u{i:04d}" for i in range(count)],
            "name": [f"{FIRST_NAMES[first]} {LAST_NAMES[last]}" for first, last in names],
            # The first names of women and men take turns.
            "gender": [("woman", "man")[first % 2] for first, _ in names],
            "age": rng.integers(16, 80, size=count),
            "occupation": [OCCUPATIONS[rng.integers(len(OCCUPATIONS))] for _ in range(count)],
            "likes": likes,
            "mood": rng.normal(0.0, 0.4, size=count),
        }
    )


def _walk(rng: np.random.Generator, items: int, likes: Sequence[int], length: int) -> list[int]:
    """The items of one user in order: part after part, series after series, none twice."""
    genre = np.arange(items) // PARTS % len(GENRES)
    unseen = np.ones(items, dtype=bool)
    path: list[int] = []
    while len(path) < length:
        if path and rng.random() < HABIT:
            series, part = divmod(path[-1], PARTS)
            ring = [series * PARTS + (part + step) % PARTS for step in range(1, PARTS)]
            following = [item for item in ring if item < items and unseen[item]]
        else:
            following = []
        if not following:
            liked = unseen & np.isin(genre, likes)
            stray = rng.random() < STRAY and bool(path)
            pool = np.flatnonzero(unseen if stray or not liked.any() else liked)
            following = [int(rng.choice(pool))]
        path.append(following[0])
        unseen[following[0]] = False
    return path


def _write_review(
    rng: np.random.Generator, item: dict[str, Any], user: dict[str, Any], rating: int
) -> dict[str, str]:
    """A review of two sentences, its summary, and the sentence and word that explain it."""

    def pick(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    genre, verdict = item["categories"][0], pick(VERDICTS[rating])
    feature = pick((*QUALITIES, genre))
    word = QUALITIES[feature][0 if rating < 3 else rng.integers(1, 3)] if feature != genre else ""
    slots = {
        "title": item["title"],
        "part": item["part"],
        "occupation": user["occupation"],
        "genre": genre,
        "verdict": verdict,
        "feature": feature,
        "word": word,
    }
    explanation = pick(EXPLANATIONS if word else GENRE_EXPLANATIONS).format(**slots)
    opening = pick(OPENINGS).format(**slots)
    return {
        "review": f"{opening} {explanation}",
        "summary": verdict[0].upper() + verdict[1:],
        "explanation": explanation,
        "feature": feature,
    }


def make_world(
    users: int = 200, items: int = 120, seed: int = 7
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Make the interactions, items and users of a toy world.

    Args:
        users: how many users, at least 1.
        items: how many items, from 60 to 1445.
        seed: of the one generator behind everything.

    Raises:
        ValueError: a count is out of its range.
    """
    most = PARTS * len(COLOURS) * len(THINGS)
    for option, value, low, high in (("users", users, 1, 9999), ("items", items, 60, most)):
        if not low <= value <= high:
            raise ValueError(f"--{option} is {value}; expected {low} to {high}")
    rng = np.random.default_rng(seed)
    catalogue, people = _make_items(rng, items), _make_users(rng, users)
    shelf = catalogue.to_dicts()
    rows: list[dict[str, Any]] = []
    for user in tqdm(people.to_dicts(), desc="users", unit="user"):
        length = int(rng.integers(FEWEST, MOST + 1))
        times = START + np.sort(rng.choice(YEAR, size=length, replace=False))
        for index, time in zip(_walk(rng, items, user["likes"], length), times, strict=True):
            item = shelf[index]
            liked = GENRES.index(item["categories"][0]) in user["likes"]
            score = (4.2 if liked else 2.3) + item["quality"] + user["mood"] + rng.normal(0, 0.5)
            rating = int(np.clip(round(score), 1, 5))
            rows.append(
                {
                    "user_id": user["user_id"],
                    "item_id": item["item_id"],
                    "rating": float(rating),
                    "timestamp": int(time),
                    **_write_review(rng, item, user, rating),
                }
            )
    interactions = pl.DataFrame(rows).sort("timestamp", "user_id")
    catalogue = catalogue.drop("series", "part", "quality").sort("item_id")
    return interactions, catalogue, people.drop("likes", "mood")


def prepare(output: Path, *, users: int = 200, items: int = 120, seed: int = 7) -> str:
    """Make a toy world and write it into a folder.

    Returns:
        The text of the data card.

    Raises:
        ValueError: a count is out of its range, or the folder cannot be replaced.
    """
    interactions, catalogue, people = make_world(users, items, seed)
    tables = check_tables("toy", interactions, catalogue, people, rating_range=(1, 5))
    card = data_card(
        tables,
        title="Toy world",
        origin=f"Made by data/toy.py: {users} users, {items} items, seed {seed}. Nobody in it is "
        "real. Users like one or two genres and read series part after part.",
        terms="Part of this project, under its licence (Apache-2.0).",
    )
    write_tables(output, interactions, catalogue, people, card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and make the data set."""
    parser = argparse.ArgumentParser(
        description="Make the toy data set from a seed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--users", type=int, default=200, help="number of users")
    parser.add_argument("--items", type=int, default=120, help="number of items")
    parser.add_argument("--seed", type=int, default=7, help="seed of the one random generator")
    parser.add_argument("--output", type=Path, default=HERE / "toy", help="folder to write")
    options = parser.parse_args(argv)
    try:
        card = prepare(options.output, users=options.users, items=options.items, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(card.split("---\n", 2)[2].strip())
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
