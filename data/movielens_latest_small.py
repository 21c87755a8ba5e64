"""Prepare a newer release of MovieLens: ratings in half stars, titles, genres and people's tags.

``ml-latest-small`` has 100,836 ratings of 9,724 films by 610 people, up to 2018. ``--source`` takes
any release of the same form (ratings.csv, movies.csv and tags.csv), such as ml-latest or ml-25m.
"""

from __future__ import annotations

import argparse
import io
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tqdm import tqdm

from p5_t5.data.tables import check_tables, data_card, write_tables
from p5_t5.data.titles import tidy_title

HERE = Path(__file__).resolve().parent
ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
TIMEOUT = 20  # seconds without a byte
COLUMNS = {
    "ratings.csv": ("userId", "movieId", "rating", "timestamp"),
    "movies.csv": ("movieId", "title", "genres"),
    "tags.csv": ("userId", "movieId", "tag"),
}
NO_GENRES = "(no genres listed)"
# A tag is a category where it is a word that people share. What one person notes for himself, such
# as which films are in his queue, would tell what he has seen.
LEAST_PEOPLE, LEAST_FILMS = 2, 5
TERMS = (
    "GroupLens lets these data be used for research, and passed on under the same terms. They may "
    "not be used for profit without GroupLens' permission; no endorsement by the University of "
    "Minnesota may be claimed, and nothing is guaranteed. Publications cite F. M. Harper and J. A. "
    "Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015. This project "
    "ships no copy."
)


def fetch() -> io.BytesIO:
    """Downloads the archive of ml-latest-small.

    Raises:
        ValueError: it cannot be reached.
    """
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length", 0)) or None
            with tqdm(desc="ml-latest-small.zip", total=size, unit="B", unit_scale=True) as bar:
                while block := answer.read(1 << 16):
                    content.write(block)
                    bar.update(len(block))
    except OSError as error:
        raise ValueError(
            f"{ARCHIVE} cannot be fetched ({error}); pass the zip, or its folder, with --source"
        ) from error
    return content


def read_files(source: Path | io.BytesIO) -> dict[str, pl.DataFrame]:
    """Reads the three files of a folder or a zip as columns of text.

    Raises:
        ValueError: there is no such folder or zip, or a file or a column is missing.
    """
    where = "the archive" if isinstance(source, io.BytesIO) else str(source)
    if isinstance(source, Path) and source.is_dir():
        contents = {n: (source / n).read_bytes() for n in COLUMNS if (source / n).is_file()}
    else:
        try:
            with zipfile.ZipFile(source) as opened:
                members = {Path(member).name: member for member in opened.namelist()}
                contents = {n: opened.read(members[n]) for n in COLUMNS if n in members}
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{where}: expected a folder or a zip archive: {error}") from error
    missing = [name for name in COLUMNS if name not in contents]
    if missing:
        raise ValueError(f"{where}: expected {', '.join(COLUMNS)}; no {', '.join(missing)}")
    frames = {}
    for name, columns in COLUMNS.items():
        try:
            frame = pl.read_csv(contents[name], infer_schema=False)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{where}, {name}: not a csv file: {error}") from error
        lost = [column for column in columns if column not in frame.columns]
        if lost:
            found = ", ".join(frame.columns)
            raise ValueError(f"{where}, {name}: no column {lost[0]!r}; found {found}")
        frames[name] = frame.select(columns)
    return frames


def shared_tags(tags: pl.DataFrame) -> pl.DataFrame:
    """The tags that people share, written alike.

    Args:
        tags: ``userId``, ``movieId`` and ``tag``.

    Returns:
        ``movieId`` and ``tag``, each pair once, by film and then by how many films have the tag.
    """
    tags = tags.with_columns(
        tag=pl.col("tag").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    ).filter(pl.col("tag") != "")
    used = tags.group_by("tag").agg(
        people=pl.col("userId").n_unique(), films=pl.col("movieId").n_unique()
    )
    kept = used.filter((pl.col("people") >= LEAST_PEOPLE) & (pl.col("films") >= LEAST_FILMS))
    pairs = tags.select("movieId", "tag").unique().join(kept, on="tag")
    order = pairs.sort(["movieId", "films", "tag"], descending=[False, True, False])
    return order.select("movieId", "tag")


def make_tables(files: dict[str, pl.DataFrame]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Makes interactions and items.

    Raises:
        ValueError: a rating, a time or a film's number is no number.
    """
    try:
        interactions = files["ratings.csv"].select(
            user_id="userId",
            item_id="movieId",
            rating=pl.col("rating").cast(pl.Float64),
            timestamp=pl.col("timestamp").cast(pl.Int64),
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"ratings.csv: expected numbers: {error}") from error
    films = files["movies.csv"]
    tidied = [tidy_title(title or "") for title in tqdm(films["title"], desc="titles")]
    genres = pl.col("genres").fill_null("").str.split("|")
    known = pl.element().filter(~pl.element().is_in(["", NO_GENRES]))
    tags = shared_tags(files["tags.csv"]).group_by("movieId", maintain_order=True).agg("tag")
    try:
        items = (
            films.with_columns(
                pl.Series("title", [title or None for title, _ in tidied], dtype=pl.String),
                pl.Series("year", [year for _, year in tidied], dtype=pl.Int64),
                genres.list.eval(known),
            )
            .join(tags, on="movieId", how="left", maintain_order="left")
            .sort(pl.col("movieId").cast(pl.Int64))
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"movies.csv: expected numbers as movieId: {error}") from error
    # A genre that is a tag too ("Sci-Fi", "sci-fi") is one category.
    low = pl.col("genres").list.eval(pl.element().str.to_lowercase())
    tag = pl.col("tag").fill_null([]).list.set_difference(low)
    items = items.select(
        item_id="movieId", title="title", categories=pl.concat_list("genres", tag), year="year"
    )
    # Films that have tags alone were never rated.
    return interactions, items.join(interactions, on="item_id", how="semi", maintain_order="left")


def prepare(output: Path, source: Path | None = None) -> str:
    """Prepares the data set and writes it into a folder.

    Args:
        output: the folder to write.
        source: a folder or zip of the release, or ``None`` to fetch ml-latest-small.

    Returns:
        The text of the data card.

    Raises:
        ValueError: see ``read_files`` and ``make_tables``.
    """
    interactions, items = make_tables(read_files(fetch() if source is None else source))
    tables = check_tables(output.name, interactions, items, None, rating_range=(0.5, 5))
    card = data_card(
        tables,
        title=f"MovieLens ({output.name})",
        origin="Ratings and tags on movielens.org, collected by GroupLens at the University of "
        "Minnesota. Titles are tidied, articles moved to the front, the year kept apart. "
        f"Categories are genres, then tags that at least {LEAST_PEOPLE} people used, for at least "
        f"{LEAST_FILMS} films.",
        terms=TERMS,
    )
    write_tables(output, interactions, items, None, card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and prepares the data set."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0] + " " + TERMS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--source", type=Path, help="a release's folder or zip; not given: fetched")
    parser.add_argument(
        "--output", type=Path, default=HERE / "movielens-latest-small", help="folder to write"
    )
    options = parser.parse_args(argv)
    try:
        card = prepare(options.output, options.source)
    except ValueError as error:
        parser.error(str(error))
    print(card.split("---\n", 2)[2].strip())
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
