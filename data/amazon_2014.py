"""Prepare a category of the Amazon reviews of 2014: ratings, times, review texts.

The files have one review, or one product, a line: strict JSON in the later files, a Python literal
in the older ones; both are read, plain or gzipped, and nothing is ever evaluated. A category's
name fetches its 5-core reviews and its metadata from their public address.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import html
import json
import re
import tempfile
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import polars as pl
from tqdm import tqdm

from p5_t5.data.tables import check_tables, data_card, write_tables

HERE = Path(__file__).resolve().parent
ADDRESS = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
TIMEOUT = 30  # seconds without a byte
ORIGIN = (
    "Amazon product data of 2014, collected by J. McAuley and others; 5-core reviews: every user "
    "and every item has at least five. Explanations are taken from the reviews on reading."
)
TERMS = (
    "Given out for research; no licence text comes with it. Publications cite R. He and J. "
    "McAuley, Ups and Downs, WWW 2016. This project ships no copy: the data stay on this machine."
)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a file with one JSON object or Python literal a line.

    Raises:
        ValueError: the file is missing, or a line is neither; names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of reviews or products; there is none")
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    number = 0
    with (
        cast("IO[bytes]", gzip.open(path) if zipped else path.open("rb")) as stream,
        tqdm(stream, desc=path.name, unit="line") as lines,
    ):
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: broken after line {number}: {error}") from error


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
        try:
            row = json.loads(text)
        except ValueError:
            row = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: expected a JSON object or a Python literal: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with named fields, found {str(row)[:60]!r}")
    return row


def _clean(value: object) -> str | None:
    """Text without HTML entities and doubled blanks; nothing for anything that is not text."""
    if not isinstance(value, str):
        return None
    # Some texts were escaped twice.
    return " ".join(html.unescape(html.unescape(value)).split()) or None


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ValueError(f"{where}: the field {name!r} is missing; found {', '.join(row)}")
    return row[name]


def _number(row: dict[str, Any], name: str, where: str) -> float:
    value = _field(row, name, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: {name} is {value!r}; expected a number")
    return float(value)


def read_reviews(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the interactions and the users of a file of reviews.

    Raises:
        ValueError: a line cannot be used; names file, line and field.
    """
    rows: list[dict[str, Any]] = []
    names: dict[str, str | None] = {}
    for number, review in enumerate(read_lines(path), start=1):
        where = f"{path}, review {number}"
        user = str(_field(review, "reviewerID", where))
        names[user] = names.get(user) or _clean(review.get("reviewerName"))
        rows.append(
            {
                "user_id": user,
                "item_id": str(_field(review, "asin", where)),
                "rating": _number(review, "overall", where),
                "timestamp": int(_number(review, "unixReviewTime", where)),
                "review": _clean(review.get("reviewText")),
                "summary": _clean(review.get("summary")),
            }
        )
    if not rows:
        raise ValueError(f"{path}: the file is empty; expected one review a line")
    texts = {"review": pl.String, "summary": pl.String}
    users = {"user_id": list(names), "name": list(names.values())}
    return pl.DataFrame(rows, schema_overrides=texts), pl.DataFrame(users)


def read_metadata(path: Path, wanted: Iterable[str]) -> pl.DataFrame:
    """Read the wanted products of a metadata file, in sorted order of their ids.

    Products that the file lacks get a row without a title, so that every review stays usable.
    """
    found: dict[str, dict[str, Any]] = {asin: {"item_id": asin} for asin in sorted(set(wanted))}
    for number, product in enumerate(read_lines(path), start=1):
        asin = str(_field(product, "asin", f"{path}, product {number}"))
        if asin in found:
            price = product.get("price")
            found[asin] = {
                "item_id": asin,
                "title": _clean(product.get("title")),
                "categories": _flatten(product.get("categories")),
                "brand": _clean(product.get("brand")),
                "price": float(price) if isinstance(price, (int, float)) else None,
                "description": _clean(product.get("description")),
            }
    schema: dict[str, pl.DataType] = {
        "item_id": pl.String(),
        "title": pl.String(),
        "categories": pl.List(pl.String()),
        "brand": pl.String(),
        "price": pl.Float64(),
        "description": pl.String(),
    }
    return pl.DataFrame(list(found.values()), schema=schema)


def _flatten(paths: object) -> list[str]:
    """The names on all category paths, each once, without the root that every path shares."""
    lists = [path for path in paths if isinstance(path, list)] if isinstance(paths, list) else []
    names = [_clean(name) for path in lists for name in (path[1:] if len(path) > 1 else path)]
    return list(dict.fromkeys(name for name in names if name))


def fetch(name: str, folder: Path) -> Path:
    """Download one file of the collection.

    Raises:
        ValueError: the address cannot be reached or has no such file.
    """
    target = folder / name
    try:
        with (
            urllib.request.urlopen(ADDRESS + name, timeout=TIMEOUT) as answer,
            target.open("wb") as file,
            tqdm(
                desc=name,
                total=int(answer.headers.get("Content-Length", 0)) or None,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := answer.read(1 << 18):
                file.write(block)
                bar.update(len(block))
    except OSError as error:
        raise ValueError(
            f"{ADDRESS}{name} cannot be fetched ({error}); without a network, or for another "
            "category name, pass the file with --reviews"
        ) from error
    return target


def prepare(output: Path, reviews: Path, metadata: Path | None = None) -> str:
    """Prepare a category and write it into a folder.

    Args:
        output: the folder to write.
        reviews: the category's reviews.
        metadata: its products; without them items have ids only.

    Returns:
        The text of the data card.

    Raises:
        ValueError: a file is missing or a line cannot be used; names file, line and field.
    """
    interactions, users = read_reviews(reviews)
    asins = interactions["item_id"].unique().sort()
    items = pl.DataFrame({"item_id": asins}) if metadata is None else read_metadata(metadata, asins)
    tables = check_tables(
        output.name, interactions, items, users, min_interactions=1, rating_range=(1, 5)
    )
    title = "Amazon 2014: " + output.name.replace("-", " ")
    card = data_card(tables, title=title, origin=ORIGIN, terms=TERMS)
    write_tables(output, interactions, items, users, card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and prepare the data set."""
    parser = argparse.ArgumentParser(description="Prepare a category of Amazon's 2014 reviews.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--reviews", type=Path, help="reviews file, json lines, plain or .gz")
    source.add_argument("--category", help="category to download, such as Musical_Instruments")
    parser.add_argument("--metadata", type=Path, help="metadata file of the same category")
    parser.add_argument("--name", help="name of the folder under data/ (default: the category's)")
    parser.add_argument("--output", type=Path, help="folder to write (default: data/NAME)")
    options = parser.parse_args(argv)
    category = options.category or _category(options.reviews)
    name = options.name or category.lower().replace("_", "-")
    output = options.output or HERE / name
    try:
        with tempfile.TemporaryDirectory() as folder:
            reviews, metadata = options.reviews, options.metadata
            if options.category:
                reviews = fetch(f"reviews_{category}_5.json.gz", Path(folder))
                metadata = metadata or fetch(f"meta_{category}.json.gz", Path(folder))
            card = prepare(output, reviews, metadata)
    except ValueError as error:
        parser.error(str(error))
    print(card.split("---\n", 2)[2].strip())
    print(f"\nwritten to {output}")


def _category(reviews: Path) -> str:
    """The category in a file name such as reviews_Musical_Instruments_5.json.gz."""
    stem = reviews.name.split(".")[0]
    return re.sub(r"^reviews_|_5$", "", stem) or stem


if __name__ == "__main__":
    main()
