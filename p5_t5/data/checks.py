"""What the columns of the three tables must be: every check on reading, and every filter.

Checks raise one ``ValueError`` that names table, row and field; filters and repairs add a counted
line to ``notes``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import polars as pl

TEXTS = ("review", "summary", "explanation", "feature")
COLUMNS = ("user_id", "item_id", "rating", "timestamp", *TEXTS)
ITEM_TEXTS = ("title", "brand", "description")
# Seconds beyond the year 5138: nobody means them, but milliseconds since 1973 look like this.
LATEST_SECOND = 100_000_000_000
TIME_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f")
ZONED_TIME_FORMS = ("%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S%.f%z")


def _first(frame: pl.DataFrame, bad: pl.Expr) -> int | None:
    """The number of the first row where ``bad`` holds, counted from 1, without a header."""
    rows = frame.lazy().with_row_index("_row", offset=1).filter(bad).select("_row").head(1)
    numbers = rows.collect().to_series()
    return int(numbers[0]) if len(numbers) else None


def _refuse(frame: pl.DataFrame, column: str, bad: pl.Expr, where: str, expected: str) -> None:
    """Raise for the first row where ``bad`` holds."""
    if (row := _first(frame, bad)) is not None:
        raise ValueError(
            f"{where}, row {row}: {column} is {frame[column][row - 1]!r}; expected {expected}"
        )


def require(frame: pl.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise a ``ValueError`` for the first of the columns that a table lacks."""
    for column in columns:
        if column in frame.columns:
            continue
        near = difflib.get_close_matches(column, frame.columns, n=1, cutoff=0.5)
        hint = f"; did you mean to rename {near[0]!r}?" if near else ""
        found = ", ".join(frame.columns) or "none"
        raise ValueError(f"{where}: the column {column!r} is missing; found {found}{hint}")


def _ids(frame: pl.DataFrame, column: str, where: str) -> pl.DataFrame:
    """Ids as strings, none of them empty."""
    kind = frame.schema[column]
    value = pl.col(column)
    if kind.is_nested() or kind.is_temporal() or kind == pl.Boolean:
        raise ValueError(f"{where}: {column} has the type {kind}; expected text or whole numbers")
    if kind.is_float():
        # A whole-number column with a gap arrives as floats; 7.0 then means the id 7.
        _refuse(frame, column, value.is_finite() & (value != value.floor()), where, "an id")
        value = pl.when(value.is_finite()).then(value).cast(pl.Int64)
    frame = frame.with_columns(value.cast(pl.String).alias(column))
    empty = pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")
    _refuse(frame, column, empty, where, "an id that is not empty")
    return frame


def _plain(frame: pl.DataFrame, columns: Sequence[str], where: str, lists: bool = False) -> None:
    """Refuses columns of lists, unless ``lists`` are wanted, and all that no text can say."""
    for column in columns:
        kind = frame.schema[column]
        inner = kind.inner if lists and isinstance(kind, pl.List) else kind
        if inner.is_nested() or inner in (pl.Binary, pl.Object):
            expected = "text, numbers or a list of these" if lists else "text"
            raise ValueError(f"{where}: {column} has the type {kind}; expected {expected}")


def _text(column: str) -> pl.Expr:
    value = pl.col(column).cast(pl.String)
    return pl.when(value.str.strip_chars() != "").then(value).alias(column)


def _number(frame: pl.DataFrame, column: str, where: str) -> pl.DataFrame:
    """A column as float64; empty text and NaN become null, other text is refused."""
    frame = frame.with_columns(_text(column)) if frame.schema[column] == pl.String else frame
    if not (frame.schema[column].is_numeric() or frame.schema[column] in (pl.String, pl.Null)):
        raise ValueError(f"{where}: {column} has the type {frame.schema[column]}; expected numbers")
    number = pl.col(column).cast(pl.Float64, strict=False)
    _refuse(frame, column, number.is_null() & pl.col(column).is_not_null(), where, "a number")
    return frame.with_columns(number.fill_nan(None))


def _complete(frame: pl.DataFrame, column: str, where: str, notes: list[str]) -> pl.DataFrame:
    """A column filled in every row; dropped if it is filled in none."""
    if frame[column].null_count() == frame.height > 0:
        notes.append(f"the column {column} is empty in every row: left out")
        return frame.drop(column)
    _refuse(frame, column, pl.col(column).is_null(), where, f"a {column} in every row or in none")
    return frame


def _seconds(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The column timestamp as whole seconds since 1970; text without a zone counts as UTC."""
    kind = frame.schema["timestamp"]
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return frame.with_columns(pl.col("timestamp").dt.epoch("s"))
    value = pl.col("timestamp")
    if kind == pl.String:
        frame = frame.with_columns(_text("timestamp"))
        iso = value.str.strip_chars().str.replace(" ", "T").str.replace(r"[zZ]$", "+00:00")
        naive = [iso.str.to_datetime(form, strict=False).dt.epoch("s") for form in TIME_FORMS]
        zoned = [iso.str.to_datetime(form, strict=False).dt.epoch("s") for form in ZONED_TIME_FORMS]
        number = value.cast(pl.Float64, strict=False)
        seconds = pl.coalesce(number, *naive, *zoned).cast(pl.Float64)
    elif kind.is_numeric() or kind == pl.Null:
        seconds = value.cast(pl.Float64).fill_nan(None)
    else:
        raise ValueError(f"{where}: timestamp has the type {kind}; expected seconds or ISO times")
    wanted = "seconds since 1970 or a time such as 2014-07-23T10:00:00"
    _refuse(frame, "timestamp", seconds.is_null() & value.is_not_null(), where, wanted)
    far = seconds.is_infinite() | (seconds.abs() > LATEST_SECOND)
    _refuse(frame, "timestamp", far, where, f"{wanted}; milliseconds must be divided by 1000")
    return frame.with_columns(seconds.floor().cast(pl.Int64).alias("timestamp"))


def check_interactions(
    frame: pl.DataFrame,
    where: str,
    notes: list[str],
    rating_range: tuple[float, float] | None,
) -> pl.DataFrame:
    """Check the columns of the interactions, drop repeated rows, sort by user and time.

    Args:
        frame: the table as read, rows in file order.
        where: what error messages call the table.
        notes: gets a line for every repair.
        rating_range: lowest and highest legal rating, or None.

    Raises:
        ValueError: a field cannot be used; names table, row, what was given and expected.
    """
    require(frame, ("user_id", "item_id"), where)
    if unused := [column for column in frame.columns if column not in COLUMNS]:
        notes.append(f"columns of interactions that are not used: {', '.join(unused)}")
    frame = frame.select(column for column in COLUMNS if column in frame.columns)
    for column in ("user_id", "item_id"):
        frame = _ids(frame, column, where)
    if "rating" in frame.columns:
        frame = _complete(_number(frame, "rating", where), "rating", where, notes)
    if "rating" in frame.columns:
        rating = pl.col("rating")
        _refuse(frame, "rating", rating.is_infinite(), where, "a finite number")
        if rating_range is not None:
            low, high = rating_range
            span = f"a rating from {low:g} to {high:g}"
            _refuse(frame, "rating", ~rating.is_between(low, high), where, span)
    if "timestamp" in frame.columns:
        frame = _complete(_seconds(frame, where), "timestamp", where, notes)
    if "timestamp" not in frame.columns:
        notes.append("no timestamps: the order of the file is taken as the order of time")
    texts = [column for column in TEXTS if column in frame.columns]
    _plain(frame, texts, where)
    frame = frame.with_columns(_text(column) for column in texts)
    rows = frame.height
    frame = frame.unique(maintain_order=True, keep="first")
    if rows > frame.height:
        notes.append(f"exact copies of another row, left out: {rows - frame.height}")
    if repeated := frame.height - frame.n_unique(["user_id", "item_id"]):
        notes.append(f"rows that repeat a user's item with other values, kept: {repeated}")
    time = ["timestamp"] if "timestamp" in frame.columns else []
    frame = frame.with_row_index("_row")
    first = pl.col("_row").min().over("user_id")
    return frame.sort(first, *time, maintain_order=True).drop("_row")


def _lookup(frame: pl.DataFrame, key: str, where: str) -> pl.DataFrame:
    """A table with one row an id; columns that a csv left as text get their types back."""
    require(frame, (key,), where)
    frame = _ids(frame, key, where)
    _plain(frame, frame.columns, where, lists=True)
    again = ~pl.col(key).is_first_distinct()
    _refuse(frame, key, again, where, "an id that no earlier row has")
    return frame.select(key, *(_typed(frame[column]) for column in frame.columns if column != key))


def _typed(column: pl.Series) -> pl.Series:
    """Text as whole or decimal numbers where writing these back gives the same text (no 007)."""
    if column.dtype != pl.String or column.name in (*ITEM_TEXTS, "categories", "name"):
        return column
    column = column.to_frame().select(_text(column.name)).to_series()
    if column.null_count() == len(column):
        return column
    for kind in (pl.Int64, pl.Float64):
        numbers = column.cast(kind, strict=False)
        if numbers.cast(pl.String).equals(column, null_equal=True):
            return numbers
    return column


def check_items(frame: pl.DataFrame, where: str, notes: list[str]) -> pl.DataFrame:
    """Check the catalogue: ids once each, categories as lists, prices as numbers.

    Raises:
        ValueError: a field cannot be used; names table, row, what was given and expected.
    """
    frame = _lookup(frame, "item_id", where)
    if "categories" in frame.columns:
        categories = pl.col("categories")
        if frame.schema["categories"] in (pl.String, pl.Null):
            categories = categories.cast(pl.String).str.split("|")
        elif not isinstance(frame.schema["categories"], pl.List):
            kind = frame.schema["categories"]
            raise ValueError(f"{where}: categories has the type {kind}; expected lists or a|b|c")
        names = categories.cast(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())
        names = names.list.eval(pl.element().filter(pl.element() != ""))
        frame = frame.with_columns(names.fill_null([]).alias("categories"))
    if "price" in frame.columns:
        frame = _number(frame, "price", where)
    texts = [column for column in ITEM_TEXTS if column in frame.columns]
    _plain(frame, texts, where)
    frame = frame.with_columns(_text(column) for column in texts)
    if "title" in frame.columns and (untitled := frame["title"].null_count()):
        notes.append(f"items without a title: {untitled}")
    return frame


def check_known(frame: pl.DataFrame, items: pl.DataFrame, where: str, items_where: str) -> None:
    """Refuse interactions with items that have no row in the catalogue.

    Raises:
        ValueError: counts these items and names the first three.
    """
    unknown = frame.join(items, on="item_id", how="anti", maintain_order="left")["item_id"].unique(
        maintain_order=True
    )
    if len(unknown):
        shown = ", ".join(map(repr, unknown[:3]))
        raise ValueError(
            f"{where}: {len(unknown)} items have no row in {items_where}, the first: {shown}; "
            "expected a row for every item_id"
        )


def enough(frame: pl.DataFrame, least: int, k_core: int, notes: list[str]) -> pl.DataFrame:
    """Leave out users with too few interactions, then all that is outside the k-core."""
    kept = frame.filter(pl.len().over("user_id") >= least)
    if kept.height < frame.height:
        users = frame["user_id"].n_unique() - kept["user_id"].n_unique()
        notes.append(
            f"users with fewer than {least} interactions, left out: {users} "
            f"(with {frame.height - kept.height} interactions)"
        )
    if k_core <= 0:
        return kept
    core, height = kept, -1
    while core.height != height:
        height = core.height
        core = core.filter(pl.len().over("item_id") >= k_core)
        core = core.filter(pl.len().over("user_id") >= max(k_core, least))
    users, items = (kept[key].n_unique() - core[key].n_unique() for key in ("user_id", "item_id"))
    notes.append(
        f"outside the {k_core}-core, left out: {users} users, {items} items, "
        f"{kept.height - core.height} interactions"
    )
    return core


def match_users(
    frame: pl.DataFrame | None, interactions: pl.DataFrame, where: str, notes: list[str]
) -> pl.DataFrame:
    """One row a user of the interactions, in their order, with the profile if there is one.

    Raises:
        ValueError: a user_id is missing, empty or there twice.
    """
    users = interactions.select(pl.col("user_id").unique(maintain_order=True))
    if frame is None:
        return users
    profiles = _lookup(frame, "user_id", where)
    if "name" in profiles.columns:
        _plain(profiles, ["name"], where)
        profiles = profiles.with_columns(_text("name"))
    if unknown := users.join(profiles, on="user_id", how="anti").height:
        notes.append(f"users without a row in the users table, profile left empty: {unknown}")
    if unused := profiles.join(users, on="user_id", how="anti").height:
        notes.append(f"rows of the users table without interactions, left out: {unused}")
    return users.join(profiles, on="user_id", how="left", maintain_order="left")
