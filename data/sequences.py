"""Prepare a file of sequences: one user a line, the user's id, then item ids in order of time.

Beauty.txt, Sports.txt, Toys.txt and LastFM.txt, which many papers on sequential recommendation
use, have this form. A table of items may give titles.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tqdm import tqdm

from p5_t5.data.tables import check_tables, data_card, write_tables

HERE = Path(__file__).resolve().parent
RENAMED = {"item_id": ("item_id", "id"), "title": ("title", "text")}


def read_sequences(path: Path) -> pl.DataFrame:
    """Read the interactions, users in file order and each user's items in order of time.

    Raises:
        ValueError: the file is missing or empty, a line has a user but no items, or a user has
            two lines; names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a file with one user a line; there is none")
    users: dict[str, int] = {}
    histories: list[list[str]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; {error}") from error
    for number, line in enumerate(tqdm(lines, desc=path.name, unit="user"), start=1):
        if not line.strip():
            continue
        user, *items = line.split()
        if not items:
            raise ValueError(f"{path}, line {number}: user {user!r} has no items; expected some")
        if user in users:
            raise ValueError(
                f"{path}, line {number}: user {user!r} stands in line {users[user]} already; "
                "expected one line a user"
            )
        users[user] = number
        histories.append(items)
    if not users:
        raise ValueError(f"{path}: the file is empty; expected one user a line")
    return pl.DataFrame({"user_id": list(users), "item_id": histories}).explode("item_id")


def read_items(path: Path) -> pl.DataFrame:
    """Read a table of items; id or item_id names the item, title or text its title.

    Raises:
        ValueError: the file is missing or unreadable, or has no column with ids.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a tsv or csv file of items; there is none")
    comma = path.suffix == ".csv"
    try:
        # Titles may hold stray quotation marks; only a csv uses them to quote.
        items = pl.read_csv(
            path,
            separator="," if comma else "\t",
            quote_char='"' if comma else None,
            infer_schema=False,
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path}: not readable as a table: {error}") from error
    for wanted, names in RENAMED.items():
        given = next((name for name in names if name in items.columns), None)
        if given is not None:
            items = items.rename({given: wanted})
    if "item_id" not in items.columns:
        found = ", ".join(items.columns)
        raise ValueError(f"{path}: expected a column id or item_id; found {found}")
    return items


def prepare(output: Path, sequences: Path, items: Path | None = None) -> str:
    """Prepare a file of sequences and write it into a folder.

    Args:
        output: the folder to write.
        sequences: the file, one user a line.
        items: a table of items, or None.

    Returns:
        The text of the data card.

    Raises:
        ValueError: a file is missing or a line cannot be used; names file, line and field.
    """
    interactions = read_sequences(sequences)
    known = interactions.select(pl.col("item_id").unique())
    catalogue = known if items is None else read_items(items)
    # The numbers in such files often follow the first appearance of an item, held-out items too;
    # ids sorted as text keep little of that, and nothing of the file's own order.
    catalogue = catalogue.sort("item_id")
    users = interactions.select(pl.col("user_id").unique(maintain_order=True))
    tables = check_tables(output.name, interactions, catalogue, users, min_interactions=1)
    card = data_card(
        tables,
        title=output.name,
        origin=f"Read from {sequences.name}, one user a line in order of time"
        + (f", titles from {items.name}." if items else ", without titles."),
        terms="Those of the file it was made from.",
    )
    write_tables(output, interactions, catalogue, users, card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and prepare the data set."""
    parser = argparse.ArgumentParser(description="Prepare a file with one user's items a line.")
    parser.add_argument("--input", type=Path, required=True, help="user id, then item ids, a line")
    parser.add_argument("--items", type=Path, help="tsv or csv: id or item_id, title or text, ...")
    parser.add_argument("--name", help="name of the folder under data/ (default: the input's)")
    parser.add_argument("--output", type=Path, help="folder to write (default: data/NAME)")
    options = parser.parse_args(argv)
    output = options.output or HERE / (options.name or options.input.stem.lower())
    try:
        card = prepare(output, options.input, options.items)
    except ValueError as error:
        parser.error(str(error))
    print(card.split("---\n", 2)[2].strip())
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
