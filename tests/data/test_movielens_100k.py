"""data/movielens_100k.py: two forms of the same files, checksums, and the order of sources."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import polars as pl
import pytest

HOUSE = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"preparer_{name}", HOUSE / "data" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


movielens = load("movielens_100k")


def frames(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = frames(first), frames(second)
    assert list(ours) == list(theirs) == ["interactions.parquet", "items.parquet", "users.parquet"]
    for name, frame in ours.items():
        assert frame.equals(theirs[name]), name


RATINGS = [(2, 1, 3), (1, 4, 5), (2, 5, 4), (1, 2, 1), (2, 4, 2), (1, 3, 5)]
FILMS = [
    # id, listed title, year, genres as flags of GENRES
    (10, "Matrix, The", 1999, "0101"),
    (2, "Misérables, Les", 1995, "0010"),
    (1, "Blue Angel, The (Blaue Engel, Der)", 1930, "0010"),
    (3, "Cry, the Beloved Country", 1995, "1000"),
    (4, "Enfer, L'", 1994, "0110"),
    (5, "Seven (Se7en)", 1995, "0001"),
]
GENRES = ("unknown", "Action", "Children's", "Sci-Fi")
PEOPLE = [(1, 24, "M", "technician", "85711"), (2, 53, "F", "other", "05201")]


def grouplens_files(folder: Path) -> Path:
    folder.mkdir()
    rows = [f"{user}\t{item}\t{stars}\t88125{item}" for user, item, stars in RATINGS]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    films = [
        f"{number}|{title} ({year})|01-Jan-{year}||http://x/?{number}|{'|'.join(flags)}"
        for number, title, year, flags in FILMS
    ]
    films.append("267|unknown||||1|0|0|0")
    (folder / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")
    (folder / "u.user").write_text("\n".join("|".join(map(str, row)) for row in PEOPLE) + "\n")
    genres = [f"{genre}|{number}" for number, genre in enumerate(GENRES)]
    (folder / "u.genre").write_text("\n".join(genres) + "\n\n")
    return folder


def recbole_files(folder: Path) -> Path:
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{stars}\t88125{item}" for user, item, stars in RATINGS]
    (folder / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for number, title, year, flags in FILMS:
        names = [name for name, flag in zip(GENRES, flags, strict=True) if flag == "1"]
        lines.append(f"{number}\t{title}\t{year}\t{' '.join(names)}")
    lines.append("267\tunkonwn\tunkonwn\tunknown")
    (folder / "ml-100k.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    lines += ["\t".join(map(str, row)) for row in PEOPLE]
    (folder / "ml-100k.user").write_text("\n".join(lines) + "\n")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-100k/{file.name}")
    return path


def test_both_forms_of_movielens_give_the_same_tables(tmp_path: Path) -> None:
    grouplens, recbole = grouplens_files(tmp_path / "g"), recbole_files(tmp_path / "r")
    sources = [grouplens, recbole, zipped(grouplens), zipped(recbole)]
    for number, source in enumerate(sources):
        movielens.prepare(tmp_path / f"out{number}", source, check=False)
        assert_same(tmp_path / "out0", tmp_path / f"out{number}")
    tables = frames(tmp_path / "out0")
    assert tables["items.parquet"].rows() == [
        ("1", "The Blue Angel (Der Blaue Engel)", ["Children's"], 1930),
        ("2", "Les Misérables", ["Children's"], 1995),
        ("3", "Cry, the Beloved Country", [], 1995),
        ("4", "L'Enfer", ["Action", "Children's"], 1994),
        ("5", "Seven (Se7en)", ["Sci-Fi"], 1995),
        ("10", "The Matrix", ["Action", "Sci-Fi"], 1999),
        ("267", "unknown", [], None),
    ]
    assert tables["users.parquet"].rows() == [
        ("1", 24, "male", "technician"),
        ("2", 53, "female", "other"),
    ]
    assert tables["interactions.parquet"].row(0) == ("2", "1", 3.0, 881251)
    card = (tmp_path / "out0" / "README.md").read_text("utf-8")
    assert "Harper" in card
    assert "not be passed on" in card


def test_a_wrong_checksum_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = recbole_files(tmp_path / "r"), tmp_path / "out"
    with pytest.raises(SystemExit):
        movielens.main(["--source", str(source), "--output", str(output)])
    message = capsys.readouterr().err
    assert "ml-100k.inter: expected the sha256 checksum 4edb74e2a81178c2ba9ff38" in message
    assert "found " in message
    assert not output.exists()
    archive = grouplens_files(tmp_path / "ml-100k") and zipped(tmp_path / "ml-100k")
    with pytest.raises(ValueError, match="md5 checksum 0e33842e24a9c977be4e0107933c0723, found"):
        movielens.prepare(output, archive)


def test_sources_that_are_not_movielens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: expected a folder or a zip"):
        movielens.prepare(tmp_path / "out", tmp_path / "nowhere")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "u.data").write_text("")
    with pytest.raises(ValueError, match=r"expected u\.data, u\.item, .* found u\.data"):
        movielens.prepare(tmp_path / "out", tmp_path / "part")
    (tmp_path / "fake.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"fake\.zip: expected a zip archive"):
        movielens.prepare(tmp_path / "out", tmp_path / "fake.zip")
    broken = grouplens_files(tmp_path / "broken")
    (broken / "u.user").write_text("1|24|M|technician|85711\n2|old|F|other|05201\n")
    with pytest.raises(ValueError, match=r"u\.user.*not as expected"):
        movielens.prepare(tmp_path / "out", broken, check=False)
    assert not (tmp_path / "out").exists()


def test_the_next_source_is_tried_when_one_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recbole_files(tmp_path / "r")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"recbole/dataset_example/ml-100k/{file.name}")
    commands: list[list[str]] = []

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    def pip(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / movielens.WHEEL).write_bytes(wheel.getvalue())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(movielens.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(movielens.subprocess, "run", pip)
    with pytest.raises(ValueError, match="whl: expected the sha256 checksum 9c9948202011f37eb0a7"):
        movielens.prepare(tmp_path / "out")
    monkeypatch.setattr(movielens, "check_sum", lambda name, content: None)
    card = movielens.prepare(tmp_path / "out")
    assert "read from the recbole 1.2.1 wheel" in card
    assert "GroupLens archive cannot be reached (no route to host)" in capsys.readouterr().out
    assert {"--no-deps", "recbole==1.2.1"} <= set(commands[0])

    def no_pip(command: list[str], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=1, stderr="first\nNo matching distribution\n")

    monkeypatch.setattr(movielens.subprocess, "run", no_pip)
    with pytest.raises(ValueError, match="no source can be reached"):
        movielens.prepare(tmp_path / "out")
    assert "pip download failed: No matching distribution" in capsys.readouterr().out
