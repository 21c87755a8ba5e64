"""Prepare MovieLens-100K: 100,000 ratings of 1,682 films by 943 people.

The data come from the first source that works: a local copy (``--source``), GroupLens' archive, or
the copy inside the recbole 1.2.1 wheel, which pip fetches and which is only unpacked, never
imported. All of them give the same tables. Downloads are checked against pinned checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from tqdm import tqdm

from p5_t5.data.tables import check_tables, data_card, write_tables
from p5_t5.data.titles import tidy_title

HERE = Path(__file__).resolve().parent
ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
CHECKSUMS = {
    "ml-100k.zip": ("md5", "0e33842e24a9c977be4e0107933c0723"),
    WHEEL: ("sha256", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"),
    "ml-100k.inter": ("sha256", "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
    "ml-100k.item": ("sha256", "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
    "ml-100k.user": ("sha256", "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"),
}
GROUPLENS_FILES = ("u.data", "u.item", "u.user", "u.genre")
RECBOLE_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
TIMEOUT = 20  # seconds without a byte before the next source is tried
TERMS = (
    "GroupLens lets these data be used for research. They may not be passed on, nor used for "
    "profit, without GroupLens' permission; no endorsement by the University of Minnesota may be "
    "claimed, and nothing is guaranteed. Publications cite F. M. Harper and J. A. Konstan, The "
    "MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015. This project ships no copy: "
    "the files were fetched to this machine and stay here."
)
Frames = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


def check_sum(name: str, content: bytes) -> None:
    """Compare a file's content with its pinned checksum.

    Raises:
        ValueError: they differ; says which was expected and found.
    """
    kind, expected = CHECKSUMS[name]
    found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"{name}: expected the {kind} checksum {expected}, found {found}")


def _fetch_archive() -> dict[str, bytes]:
    """GroupLens' own archive."""
    content = io.BytesIO()
    with urllib.request.urlopen(ARCHIVE, timeout=TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(desc="ml-100k.zip", total=size, unit="B", unit_scale=True) as bar:
            while block := answer.read(1 << 16):
                content.write(block)
                bar.update(len(block))
    check_sum("ml-100k.zip", content.getvalue())
    return _read_zip(content, "ml-100k.zip")


def _fetch_wheel() -> dict[str, bytes]:
    """The copy in the recbole wheel, which pip downloads from the user's own package index."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--dest", folder, "recbole==1.2.1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines() or ["no message"]
            raise OSError(f"pip download failed: {reason[-1]}")
        wheel = Path(folder) / WHEEL
        if not wheel.is_file():
            found = ", ".join(path.name for path in Path(folder).iterdir()) or "nothing"
            raise ValueError(f"pip download: expected {WHEEL}, found {found}")
        content = wheel.read_bytes()
    check_sum(WHEEL, content)
    files = _read_zip(io.BytesIO(content), WHEEL)
    for name in RECBOLE_FILES:
        check_sum(name, files[name])
    return files


def _read_zip(archive: Path | io.BytesIO, name: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(member).name: member for member in opened.namelist()}
            wanted = [file for file in (*GROUPLENS_FILES, *RECBOLE_FILES) if file in members]
            return _complete({file: opened.read(members[file]) for file in wanted}, name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name}: expected a zip archive or a folder") from error


def _read_local(source: Path, check: bool) -> dict[str, bytes]:
    """A folder or zip in either form."""
    if source.is_dir():
        names = [name for name in (*GROUPLENS_FILES, *RECBOLE_FILES) if (source / name).is_file()]
        files = {name: (source / name).read_bytes() for name in names}
    elif source.is_file():
        if check and source.name in CHECKSUMS:
            check_sum(source.name, source.read_bytes())
        files = _read_zip(source, str(source))
    else:
        raise ValueError(f"--source {source}: expected a folder or a zip; there is none")
    files = _complete(files, str(source))
    for name in (name for name in files if check and name in CHECKSUMS):
        check_sum(name, files[name])
    return files


def _complete(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    """The files of one form, GroupLens' first; an error if neither is whole."""
    for form in (GROUPLENS_FILES, RECBOLE_FILES):
        if all(name in files for name in form):
            return {name: files[name] for name in form}
    raise ValueError(
        f"{where}: expected {', '.join(GROUPLENS_FILES)} or {', '.join(RECBOLE_FILES)}; "
        f"found {', '.join(files) or 'none of them'}"
    )


def _cells(files: dict[str, bytes], name: str, columns: Sequence[str], **form: str) -> pl.DataFrame:
    """A delimited file as text columns; recbole's files begin with a line of names and types."""
    text = files[name].decode(form.get("encoding", "utf-8"))
    header = text.startswith(columns[0] + ":")
    try:
        return pl.read_csv(
            io.StringIO(text),
            separator=form.get("separator", "\t"),
            quote_char=None,
            has_header=False,
            skip_lines=int(header),
            new_columns=list(columns),
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name}: expected the columns {', '.join(columns)}; {error}") from error


def _from_grouplens(files: dict[str, bytes]) -> Frames:
    genres = [
        line.split("|")[0] for line in files["u.genre"].decode("latin-1").splitlines() if line
    ]
    names = ("item_id", "title", "date", "video_date", "url", *genres)
    items = _cells(files, "u.item", names, separator="|", encoding="latin-1")
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in genres]
    items = items.select("item_id", "title", categories=pl.concat_list(flags).list.drop_nulls())
    interactions = _cells(files, "u.data", ("user_id", "item_id", "rating", "timestamp"))
    fields = ("user_id", "age", "gender", "occupation", "zip")
    users = _cells(files, "u.user", fields, separator="|", encoding="latin-1")
    return interactions, items, users


def _from_recbole(files: dict[str, bytes]) -> Frames:
    interactions = _cells(files, RECBOLE_FILES[0], ("user_id", "item_id", "rating", "timestamp"))
    items = _cells(files, RECBOLE_FILES[1], ("item_id", "title", "year", "class"))
    # The year was cut off the title; in one row (1412) a "V" stands in its place.
    year = pl.when(pl.col("year").str.contains(r"^\d{4}$")).then(" (" + pl.col("year") + ")")
    items = items.select(
        "item_id",
        pl.col("title") + year.otherwise(pl.lit("")),
        categories=pl.col("class").str.split(" "),
    )
    users = _cells(files, RECBOLE_FILES[2], ("user_id", "age", "gender", "occupation", "zip"))
    return interactions, items, users


def make_tables(files: dict[str, bytes]) -> Frames:
    """Make interactions, items and users from the files of either form.

    Raises:
        ValueError: a file has other columns or values than expected.
    """
    form = _from_grouplens if GROUPLENS_FILES[0] in files else _from_recbole
    try:
        return _tidy(*form(files))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{', '.join(files)}: not as expected: {error}") from error


def _tidy(interactions: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> Frames:
    """Numbers as numbers, plain titles, no genre called unknown, films in the order of ids."""
    interactions = interactions.with_columns(
        pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)
    )
    # Film 267 has no name in the original; the recbole copy misspells that.
    titles = items["title"].replace("unkonwn", "unknown")
    tidied = [tidy_title(title) for title in tqdm(titles, desc="titles")]
    known = pl.element().filter(pl.element() != "unknown")
    items = items.select(
        "item_id",
        pl.Series("title", [title for title, _ in tidied]),
        pl.col("categories").list.eval(known),
        pl.Series("year", [year for _, year in tidied], dtype=pl.Int64),
    ).sort(pl.col("item_id").cast(pl.Int64))
    gender = pl.col("gender").replace_strict({"M": "male", "F": "female"})
    users = users.select("user_id", pl.col("age").cast(pl.Int64), gender, "occupation")
    return interactions, items, users


def find_files(source: Path | None = None, *, check: bool = True) -> tuple[dict[str, bytes], str]:
    """Get the files from the first source that works.

    Args:
        source: a local folder or zip; if given, nothing else is tried.
        check: whether files of ``source`` that have a pinned checksum are compared with it.

    Returns:
        The files' contents by name, and where they come from in words.

    Raises:
        ValueError: a checksum is wrong, ``source`` is incomplete, or no source can be reached.
    """
    if source is not None:
        return _read_local(source, check), "a local copy"
    sources: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
        ("the GroupLens archive", _fetch_archive),
        ("the recbole 1.2.1 wheel", _fetch_wheel),
    ]
    for name, fetch in sources:
        try:
            return fetch(), name
        except OSError as error:
            print(f"{name} cannot be reached ({error}); trying the next source")
    raise ValueError("no source can be reached; download ml-100k.zip and pass it with --source")


def prepare(output: Path, source: Path | None = None, *, check: bool = True) -> str:
    """Prepare the data set and write it into a folder.

    Args:
        output: the folder to write.
        source: a local copy, or None to fetch one.
        check: whether a local copy is compared with the pinned checksums.

    Returns:
        The text of the data card.

    Raises:
        ValueError: see ``find_files`` and ``make_tables``.
    """
    files, origin = find_files(source, check=check)
    interactions, items, users = make_tables(files)
    tables = check_tables(output.name, interactions, items, users, rating_range=(1, 5))
    card = data_card(
        tables,
        title="MovieLens-100K",
        origin=f"Ratings on movielens.org, September 1997 to April 1998, collected by GroupLens "
        f"at the University of Minnesota; read from {origin}. Titles are tidied, articles moved "
        "to the front, the year kept apart; the genre unknown is left empty.",
        terms=TERMS,
    )
    write_tables(output, interactions, items, users, card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and prepare the data set."""
    parser = argparse.ArgumentParser(
        description="Prepare MovieLens-100K. " + TERMS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--source", type=Path, help="a local copy: folder or zip, in either form")
    parser.add_argument(
        "--output", type=Path, default=HERE / "movielens-100k", help="folder to write"
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
