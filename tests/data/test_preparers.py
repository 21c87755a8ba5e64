"""data/toy.py and data/sequences.py, and what holds for every preparer."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from p5_t5.data.tables import Tables, describe, read_tables

HOUSE = Path(__file__).parents[2]
SHARED = HOUSE.parent / "shared" / "data"
NAMES = ("amazon_2014", "movielens_100k", "movielens_latest_small", "sequences", "toy")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"preparer_{name}", HOUSE / "data" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sequences, toy = load("sequences"), load("toy")


def frames(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = frames(first), frames(second)
    assert list(ours) == list(theirs) == ["interactions.parquet", "items.parquet", "users.parquet"]
    for name, frame in ours.items():
        assert frame.equals(theirs[name]), name


def test_toy_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        toy.main(["--output", str(tmp_path / name), "--seed", str(seed)])
    for name in ("interactions", "items", "users"):
        contents = [(tmp_path / side / f"{name}.parquet").read_bytes() for side in "abc"]
        assert contents[0] == contents[1] != contents[2]


def test_the_committed_toy_is_what_the_script_writes(tmp_path: Path) -> None:
    toy.main(["--output", str(tmp_path / "toy")])
    assert_same(HOUSE / "data" / "toy", tmp_path / "toy")
    card = (HOUSE / "data" / "toy" / "README.md").read_text("utf-8")
    assert card == (tmp_path / "toy" / "README.md").read_text("utf-8")
    assert sum(path.stat().st_size for path in (HOUSE / "data" / "toy").iterdir()) < 400_000


def test_toy_keeps_its_promises() -> None:
    world = read_tables(HOUSE / "data" / "toy", rating_range=(1, 5))
    numbers = describe(world)
    assert (world.notes, numbers["users"], numbers["items"]) == ((), 200, 120)
    assert numbers["tie_share"] == 0
    assert numbers["share_with_review"] == numbers["share_with_explanation"] == 1
    lengths = world.interactions.group_by("user_id").len()["len"]
    assert (lengths.min(), lengths.max()) == (8, 30)
    assert not world.interactions.select("user_id", "item_id").is_duplicated().any()
    assert set(world.interactions["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert world.interactions["review"].n_unique() > 1000
    assert world.items["title"].is_unique().all()
    assert len(set(world.items["categories"].explode())) == 6
    for text, feature in world.interactions.select("explanation", "feature").iter_rows():
        assert feature in text


def hits(world: Tables) -> tuple[float, float]:
    """HR@10 on the last items: of popularity, and of what followed the last item before."""
    histories = [group["item_id"].to_list() for _, group in world.interactions.group_by("user_id")]
    popular: Counter[str] = Counter()
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    for history in histories:
        popular.update(history[:-2])
        for item, following in pairwise(history[:-2]):
            follows[item][following] += 1
    found = [0, 0]
    for history in histories:
        unseen = [item for item, _ in popular.most_common() if item not in history[:-1]]
        after = follows[history[-2]]
        found[0] += history[-1] in unseen[:10]
        found[1] += history[-1] in sorted(unseen, key=lambda item: -after[item])[:10]
    return found[0] / len(histories), found[1] / len(histories)


def test_toy_can_be_learnt_and_popularity_says_little() -> None:
    popularity, habit = hits(read_tables(HOUSE / "data" / "toy"))
    assert 0.03 < popularity < 0.15
    assert habit > 0.6


@pytest.mark.parametrize(("option", "value"), [("--users", "0"), ("--items", "10")])
def test_toy_refuses_a_world_that_is_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit):
        toy.main(["--output", str(tmp_path / "toy"), option, value])
    assert f"{option} is {value}; expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sequences_keep_users_and_items_in_order(tmp_path: Path) -> None:
    path, titles = tmp_path / "Shop.txt", tmp_path / "titles.tsv"
    path.write_text("u2 10 9 8\n\nu1 8 11 10 9\n")
    titles.write_text('id\ttext\tcolour\n9\t5" nail\tred\n8\tpen\tblue\n11\tink\t\n10\tcap\tred\n')
    sequences.main(
        ["--input", str(path), "--items", str(titles), "--output", str(tmp_path / "shop")]
    )
    read = read_tables(tmp_path / "shop")
    assert read.interactions.columns == ["user_id", "item_id"]
    assert read.interactions["item_id"].to_list() == ["10", "9", "8", "8", "11", "10", "9"]
    assert read.users["user_id"].to_list() == ["u2", "u1"]
    assert read.items.rows() == [
        ("10", "cap", "red"),
        ("11", "ink", None),
        ("8", "pen", "blue"),
        ("9", '5" nail', "red"),
    ]
    (tmp_path / "titles.csv").write_text('item_id,title\n8,"a, b"\n9,c\n10,d\n11,e\n')
    sequences.prepare(tmp_path / "shop", path, tmp_path / "titles.csv")
    assert read_tables(tmp_path / "shop").items["title"].to_list() == ["d", "e", "a, b", "c"]
    sequences.prepare(tmp_path / "shop", path)
    assert read_tables(tmp_path / "shop").items.rows() == [("10",), ("11",), ("8",), ("9",)]


@pytest.mark.parametrize(
    ("text", "titles", "message"),
    [
        ("u1 1 2\nu2\n", None, "in.txt, line 2: user 'u2' has no items"),
        ("u1 1 2\nu1 3\n", None, "in.txt, line 2: user 'u1' stands in line 1 already"),
        ("\n", None, "in.txt: the file is empty"),
        ("u1 1 2\n", "asin\ttitle\n1\tx\n", "expected a column id or item_id; found asin, title"),
        ("u1 1 2 3\n", "id\n1\n", "2 items have no row in items, the first: '2', '3'"),
        ("u1 1 2\n", "id\n1\n2\n1\n", "items, row 2: item_id is '1'; expected an id that no"),
    ],
)
def test_sequences_that_cannot_be_used(
    tmp_path: Path, text: str, titles: str | None, message: str
) -> None:
    (tmp_path / "in.txt").write_text(text)
    if titles is not None:
        (tmp_path / "items.tsv").write_text(titles)
    with pytest.raises(ValueError, match=re.escape(message)):
        sequences.prepare(tmp_path / "out", tmp_path / "in.txt", titles and tmp_path / "items.tsv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "titles", "counts"),
    [
        ("Beauty.txt", "Beauty_items.tsv", (22363, 12101, 198502)),
        ("LastFM.txt", None, (1090, 3646, 52551)),
    ],
)
def test_sequences_of_shared(
    tmp_path: Path, name: str, titles: str | None, counts: tuple[int, int, int]
) -> None:
    path = SHARED / "p5_sequences" / name
    if not path.exists():
        pytest.skip(f"needs shared/data/p5_sequences/{name} beside the repository")
    sequences.prepare(tmp_path / "out", path, titles and path.with_name(titles))
    numbers = describe(read_tables(tmp_path / "out"))
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == counts


@pytest.mark.parametrize("name", NAMES)
def test_every_preparer_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        load(name).main(["--help"])
    assert left.value.code == 0
    assert "--output" in capsys.readouterr().out
