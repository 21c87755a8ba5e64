"""data/movielens_latest_small.py: half stars, genres, and the tags that people share."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from p5_t5.data.tables import describe, read_tables

HOUSE = Path(__file__).parents[2]
SHARED = HOUSE.parent / "shared" / "data" / "movielens_latest_small"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"preparer_{name}", HOUSE / "data" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


movielens = load("movielens_latest_small")

FILMS = """movieId,title,genres
10,"Matrix, The (1999)",Action|Sci-Fi
2,Jumanji (1995),(no genres listed)
3,Babylon 5,Drama
4,"Cry, the Beloved Country (1995)",Drama
5,Seven (a.k.a. Se7en) (1995),Thriller
6,Never Rated (2001),Drama
7,Heat (1995),Action
"""
RATINGS = "userId,movieId,rating,timestamp\n" + "".join(
    f"{user},{film},{film / 2 if film < 10 else 5.0},{880 + film}\n"
    for user in (1, 2)
    for film in (2, 3, 4, 5, 7, 10)
)
TAGS = (
    "userId,movieId,tag,timestamp\n"
    # one person's own list
    + "".join(f"1,{film},in my queue,900\n" for film in (2, 3, 4, 5, 7, 10))
    # two people, but of four films only
    + "".join(f"{user},{film},dull,900\n" for user in (1, 2) for film in (2, 3, 4, 5))
    # shared, written in two ways, by both of one film
    + "".join(f"1,{film},Dark  City ,900\n" for film in (2, 3, 4))
    + "".join(f"2,{film},dark city,900\n" for film in (4, 5, 7, 6))
    + "".join(f"{film % 2},{film},sci-fi,900\n" for film in (3, 4, 5, 7, 10))
)


def release(folder: Path) -> Path:
    folder.mkdir()
    for name, text in (("movies", FILMS), ("ratings", RATINGS), ("tags", TAGS)):
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{folder.name}/{file.name}")
    return path


@pytest.mark.parametrize("form", ["folder", "zip", "fetched"])
def test_the_tables(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Path | None = release(tmp_path / "ml-new")
    if form != "folder":
        source = zipped(tmp_path / "ml-new")
    if form == "fetched":
        archive = io.BytesIO(source.read_bytes())
        monkeypatch.setattr(movielens, "fetch", lambda: archive)
        source = None
    movielens.prepare(tmp_path / "out", source)
    tables = read_tables(tmp_path / "out", rating_range=(0.5, 5))
    assert tables.items.rows() == [
        ("2", "Jumanji", ["dark city"], 1995),
        ("3", "Babylon 5", ["Drama", "dark city", "sci-fi"], None),
        ("4", "Cry, the Beloved Country", ["Drama", "dark city", "sci-fi"], 1995),
        ("5", "Seven (a.k.a. Se7en)", ["Thriller", "dark city", "sci-fi"], 1995),
        ("7", "Heat", ["Action", "dark city", "sci-fi"], 1995),
        ("10", "The Matrix", ["Action", "Sci-Fi"], 1999),
    ]
    assert tables.interactions["rating"].to_list() == [1.0, 1.5, 2.0, 2.5, 3.5, 5.0] * 2
    assert "Harper" in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tags", None, "expected ratings.csv, movies.csv, tags.csv; no tags.csv"),
        ("movies", "id,title,genres\n1,x,y\n", "movies.csv: no column 'movieId'; found id, title"),
        ("movies", "movieId,title,genres\nten,x,y\n", "movies.csv: expected numbers as movieId"),
        ("ratings", "userId,movieId,rating,timestamp\n1,2,good,3\n", "ratings.csv: expected numb"),
        ("ratings", "userId,movieId,rating,timestamp\n1,2,7,3\n", "rating is 7"),
    ],
)
def test_what_is_no_release_is_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    source = release(tmp_path / "ml-new")
    if text is None:
        (source / f"{name}.csv").unlink()
    else:
        (source / f"{name}.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        movielens.prepare(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_no_source_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        movielens.main(["--source", str(tmp_path / "none"), "--output", str(tmp_path / "out")])
    assert "none: expected a folder or a zip archive" in capsys.readouterr().err


def test_the_small_release(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs shared/data/movielens_latest_small beside the repository")
    movielens.prepare(tmp_path / "out", SHARED)
    numbers = describe(read_tables(tmp_path / "out"))
    counts = numbers["users"], numbers["items"], numbers["interactions"]
    assert counts == (610, 9724, 100836)
