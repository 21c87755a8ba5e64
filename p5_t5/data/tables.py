"""The three tables of a data set: interactions, items and users.

A folder that holds ``interactions.parquet`` (or ``.csv`` or ``.jsonl``) is a data set; ``items``
and ``users`` may stand beside it in any of the three forms. Reading checks everything that later
rooms rely on: what cannot be used is one ``ValueError`` that names file, row and field; what is
left out or repaired is counted and said in ``Tables.notes``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from p5_t5.data.checks import (
    check_interactions,
    check_items,
    check_known,
    enough,
    match_users,
    require,
)

FORMS = ("parquet", "csv", "jsonl")
PARTS = ("interactions", "items", "users")
KEYS = (("items", ("item_id",)), ("users", ("user_id",)))


@dataclass(frozen=True)
class Tables:
    """A checked data set.

    Attributes:
        name: the folder's name.
        interactions: user_id, item_id and any of rating, timestamp (seconds), review, summary,
            explanation, feature. Users stand in the order of their first appearance in the file,
            each user's rows in time order; equal timestamps keep the order of the file.
        items: item_id and any of title, categories (a list), brand, price, description and further
            columns, in the order of the file.
        users: user_id and any profile columns, one row a user, in the users' order above.
        notes: every filter and repair with its count, one line each.
        derived_explanations: whether the explanations were made from facts rather than written.
    """

    name: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    notes: tuple[str, ...]
    derived_explanations: bool = False


def read_tables(
    folder: str | Path,
    *,
    min_interactions: int = 3,
    k_core: int = 0,
    rating_range: tuple[float, float] | None = None,
) -> Tables:
    """Read and check the data set in a folder.

    Args:
        folder: holds interactions, and optionally items and users, each as parquet, csv or jsonl.
        min_interactions: users with fewer are left out, and counted in the notes.
        k_core: if above 0, users and items with fewer interactions are left out again and again
            until all that stay have at least this many.
        rating_range: lowest and highest legal rating, both included.

    Returns:
        The tables, with a note for every filter and repair.

    Raises:
        ValueError: a file is missing, unreadable or there twice, a field cannot be used, or
            nothing is left after filtering; names file, row, what was given and expected.
    """
    folder = Path(folder)
    paths = {part: _find(folder, part) for part in PARTS}
    interactions = paths["interactions"]
    if interactions is None:
        expected = ", ".join(f"interactions.{form}" for form in FORMS)
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ValueError(f"{folder}: expected one of {expected}; found {found}")
    items, users = paths["items"], paths["users"]
    return check_tables(
        folder.resolve().name,
        _read(interactions),
        None if items is None else _read(items),
        None if users is None else _read(users),
        sources=[str(paths[part] or folder / part) for part in PARTS],
        min_interactions=min_interactions,
        k_core=k_core,
        rating_range=rating_range,
    )


def check_tables(
    name: str,
    interactions: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    sources: Sequence[str] = PARTS,
    min_interactions: int = 3,
    k_core: int = 0,
    rating_range: tuple[float, float] | None = None,
) -> Tables:
    """Check tables that are in memory already; the rules are those of ``read_tables``.

    Args:
        name: name of the data set.
        interactions: as in a file: ids of any scalar type, rows in file order.
        items: the catalogue, or None to make it from the ids that occur, in sorted order.
        users: the profiles, if there are any.
        sources: what error messages call the three tables.
        min_interactions: see ``read_tables``.
        k_core: see ``read_tables``.
        rating_range: see ``read_tables``.

    Raises:
        ValueError: see ``read_tables``.
    """
    for option, value in (("min_interactions", min_interactions), ("k_core", k_core)):
        if value < 0:
            raise ValueError(f"{option} must be 0 or more, but is {value}")
    notes: list[str] = []
    where, items_where, users_where = sources
    frame = check_interactions(interactions, where, notes, rating_range)
    catalogue = None if items is None else check_items(items, items_where, notes)
    if catalogue is not None:
        check_known(frame, catalogue, where, items_where)
    frame = enough(frame, min_interactions, k_core, notes)
    if frame.is_empty():
        raise ValueError(
            f"{where}: no interactions are left with min_interactions={min_interactions} and "
            f"k_core={k_core} (" + ("; ".join(notes) or "the table is empty") + ")"
        )
    if catalogue is None:
        # Sorted ids say nothing about time; the order of appearance would.
        catalogue = frame.select(pl.col("item_id").unique().sort())
        notes.append(f"no items table: a catalogue of {catalogue.height} ids without titles")
    elif k_core > 0:
        catalogue = catalogue.join(frame, on="item_id", how="semi", maintain_order="left")
    return Tables(
        name, frame, catalogue, match_users(users, frame, users_where, notes), tuple(notes)
    )


def _find(folder: Path, part: str) -> Path | None:
    """The one file of a table, None if there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with an interactions table; it is not one")
    found = [path for form in FORMS if (path := folder / f"{part}.{form}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{folder}: found {names}; expected exactly one file of {part}")
    return found[0] if found else None


def _read(path: Path) -> pl.DataFrame:
    """Read a file as it stands; a csv's cells stay text, so that ids such as 007 survive.

    polars reads all three forms into Arrow memory. The builders of ``datasets`` would first write
    a copy into a cache and guess types there (ids to numbers, "NA" to nothing).
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema=False)
        return pl.read_ndjson(path, infer_schema_length=None)
    except pl.exceptions.NoDataError as error:
        raise ValueError(f"{path}: the file is empty; expected rows with named fields") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        line = _broken_line(path) if path.suffix == ".jsonl" else ""
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}{line}: not readable as {path.suffix[1:]}: {reason}") from error


def _broken_line(path: Path) -> str:
    """Where the first line stands that is no JSON object, as text for an error message."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                if not line.strip() or isinstance(json.loads(line), dict):
                    continue
            except ValueError:
                pass
            return f", line {number}"
    return ""


def write_tables(
    folder: str | Path,
    interactions: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    card: str | None = None,
) -> None:
    """Write a data set as parquet, whole or not at all.

    The files are written into a new folder beside the target, which then takes its place; a
    failure before that leaves what was there untouched.

    Args:
        folder: where the data set will stand; an older data set there is replaced.
        interactions: needs the columns user_id and item_id.
        items: needs the column item_id.
        users: needs the column user_id.
        card: the text of README.md.

    Raises:
        ValueError: a column is missing, or the folder holds something that is no data set.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    tables = {"interactions": interactions, "items": items, "users": users}
    for part, keys in (("interactions", ("user_id", "item_id")), *KEYS):
        if (table := tables[part]) is not None:
            require(table, keys, f"{folder}, {part}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        written.mkdir()
        for part, table in tables.items():
            if table is not None:
                table.write_parquet(written / f"{part}.parquet")
        if card is not None:
            (written / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rename(replaced)
        try:
            written.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
    finally:
        shutil.rmtree(written, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but a data set: a slip of the user's hand."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder or a free name for one; it is a file")
    own = {f"{part}.{form}" for part in PARTS for form in FORMS} | {"README.md"}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if foreign:
        raise ValueError(
            f"{folder}: expected a data set to replace, or a free name; found {foreign[0]!r}, "
            "which is no part of one"
        )


def describe(tables: Tables) -> dict[str, Any]:
    """Count what a data set holds.

    Returns:
        users, items, interactions; density (share of all user-item pairs); interactions_per_user
        (mean); tie_share (share of users with equal timestamps of their own); the shares of rows
        with_review, with_explanation; rating_mean and time_range (first and last UTC date), None
        without ratings or timestamps.
    """
    frame = tables.interactions
    users, items, rows = tables.users.height, tables.items.height, frame.height
    pairs = frame.n_unique(["user_id", "item_id"])
    summary: dict[str, Any] = {
        "users": users,
        "items": items,
        "interactions": rows,
        "density": pairs / (users * items),
        "interactions_per_user": rows / users,
        "time_range": None,
        "tie_share": 0.0,
        "rating_mean": None,
    }
    if "timestamp" in frame.columns:
        days = frame.select(pl.from_epoch("timestamp", time_unit="s").dt.date().alias("day"))["day"]
        summary["time_range"] = (str(days.min()), str(days.max()))
        ties = frame.group_by("user_id").agg(pl.col("timestamp").is_duplicated().any())
        summary["tie_share"] = ties["timestamp"].sum() / users
    if "rating" in frame.columns:
        summary["rating_mean"] = frame["rating"].mean()
    for column in ("review", "explanation"):
        filled = rows - frame[column].null_count() if column in frame.columns else 0
        summary[f"share_with_{column}"] = filled / rows
    return summary


def data_card(tables: Tables, *, title: str, origin: str, terms: str) -> str:
    """Write the card of a data set as markdown.

    Args:
        tables: the data set, whose numbers and notes the card shows.
        title: its heading.
        origin: where the data come from, one or more sentences.
        terms: what may be done with them.

    Returns:
        Text for README.md. Its header tells ``datasets.load_dataset`` that the three files are
        three tables.
    """
    numbers = describe(tables)
    span, mean = numbers["time_range"], numbers["rating_mean"]
    rows = [
        ("users", f"{numbers['users']:,}"),
        ("items", f"{numbers['items']:,}"),
        ("interactions", f"{numbers['interactions']:,}"),
        ("interactions a user, mean", f"{numbers['interactions_per_user']:.1f}"),
        ("density", f"{numbers['density']:.3%}"),
        ("time range", " to ".join(span) if span else "no timestamps"),
        ("users with equal timestamps", f"{numbers['tie_share']:.1%}"),
        ("mean rating", "no ratings" if mean is None else f"{mean:.2f}"),
        ("rows with a review", f"{numbers['share_with_review']:.1%}"),
        ("rows with an explanation", f"{numbers['share_with_explanation']:.1%}"),
    ]
    header = "".join(f"- config_name: {part}\n  data_files: {part}.parquet\n" for part in PARTS)
    fields = {
        "interactions": tables.interactions.columns,
        "items": tables.items.columns,
        "users": tables.users.columns,
    }
    lines = [
        f"---\npretty_name: {json.dumps(title)}\nconfigs:\n{header}---",
        f"# {title}",
        "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]),
        "\n".join(f"- {part}: {', '.join(names)}" for part, names in fields.items()),
        "## Origin\n\n" + origin,
        "## Terms\n\n" + terms,
    ]
    if tables.notes:
        lines.append("## Notes\n\n" + "\n".join(f"- {note}" for note in tables.notes))
    return "\n\n".join(lines) + "\n"
