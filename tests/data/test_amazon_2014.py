"""data/amazon_2014.py: JSON and Python lines, and broken ones."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from p5_t5.data.tables import describe, read_tables

HOUSE = Path(__file__).parents[2]
SHARED = HOUSE.parent / "shared" / "data"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"preparer_{name}", HOUSE / "data" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


amazon = load("amazon_2014")


def frames(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def review(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "reviewerID": f"A{number % 4}",
        "asin": f"B00{number % 3}",
        "reviewerName": f"Jo &amp; {number % 4}",
        "reviewText": "Just great! The strings are bright &#34;and&#34; last for months.",
        "overall": float(number % 5 + 1),
        "summary": "It's good",
        "unixReviewTime": 1393545600 + number,
        **fields,
    }


def product(asin: str, **fields: Any) -> dict[str, Any]:
    return {
        "asin": asin,
        "title": "Light &amp; bright strings",
        "price": 4.5,
        "categories": [["Music", "Guitars", "Strings"], ["Music", "Strings"]],
        "description": "Six strings.",
        **fields,
    }


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_python(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{row!r}\n" for row in rows).encode()


@pytest.mark.parametrize("form", [as_json, as_python])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_all_forms_of_amazon_files_give_the_same_tables(
    tmp_path: Path,
    form: Callable[[list[dict[str, Any]]], bytes],
    pack: Callable[[bytes], bytes],
) -> None:
    reviews, metadata = tmp_path / "reviews_Toy_Box_5.json", tmp_path / "meta"
    reviews.write_bytes(pack(form([review(number) for number in range(12)])))
    metadata.write_bytes(
        pack(form([product("B002"), product("B000", price=None, brand="Ö"), product("other")]))
    )
    output = tmp_path / "out"
    amazon.main(["--reviews", str(reviews), "--metadata", str(metadata), "--output", str(output)])
    tables = frames(output)
    text = 'Just great! The strings are bright "and" last for months.'
    assert tables["interactions.parquet"].row(1, named=True) == {
        "user_id": "A1",
        "item_id": "B001",
        "rating": 2.0,
        "timestamp": 1393545601,
        "review": text,
        "summary": "It's good",
    }
    title, described = "Light & bright strings", "Six strings."
    assert tables["items.parquet"].rows() == [
        ("B000", title, ["Guitars", "Strings"], "Ö", None, described),
        ("B001", None, None, None, None, None),
        ("B002", title, ["Guitars", "Strings"], None, 4.5, described),
    ]
    assert tables["users.parquet"].row(2) == ("A2", "Jo & 2")
    read = read_tables(output)
    assert "items without a title: 1" in read.notes
    card = (output / "README.md").read_text("utf-8")
    assert "Explanations are taken from the reviews on reading" in card


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"reviewerID": \n', "reviews, line 2: expected a JSON object or a Python literal"),
        (b"__import__('os').getcwd()\n", "reviews, line 2: expected a JSON object or a Python"),
        (b"[1, 2]\n", "reviews, line 2: expected an object with named fields, found '[1, 2]'"),
        (b"\xff\xfe\n", "reviews, line 2: expected a JSON object"),
        (as_json([review(1, overall="5")]), "reviews, review 2: overall is '5'; expected a number"),
        (b'{"reviewerID": "A1"}\n', "reviews, review 2: the field 'asin' is missing; found review"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "reviews"
    path.write_bytes(as_json([review(0)]) + line + as_json([review(2)]))
    with pytest.raises(ValueError, match=re.escape(message)):
        amazon.prepare(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_reviews_that_are_missing_empty_or_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "reviews.gz"
    with pytest.raises(ValueError, match="there is none"):
        amazon.prepare(tmp_path / "out", path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="the file is empty"):
        amazon.prepare(tmp_path / "out", path)
    path.write_bytes(gzip.compress(as_json([review(i) for i in range(500)]))[:-200])
    with pytest.raises(ValueError, match=r"reviews\.gz: broken after line \d+"):
        amazon.prepare(tmp_path / "out", path)


def test_a_category_without_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(amazon.urllib.request, "urlopen", unreachable)
    with pytest.raises(SystemExit):
        amazon.main(["--category", "Musical_Instruments", "--output", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert "reviews_Musical_Instruments_5.json.gz cannot be fetched (no route to host)" in message
    assert "--reviews" in message


def test_musical_instruments_of_shared(tmp_path: Path) -> None:
    path = SHARED / "amazon_musical_instruments" / "reviews_Musical_Instruments_5.json.gz"
    if not path.exists():
        pytest.skip(f"needs shared/data/{path.relative_to(SHARED)} beside the repository")
    amazon.prepare(tmp_path / "musical-instruments", path)
    numbers = describe(read_tables(tmp_path / "musical-instruments", rating_range=(1, 5)))
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == (1429, 900, 10261)
    assert numbers["share_with_review"] > 0.99
    assert numbers["share_with_explanation"] == 0
