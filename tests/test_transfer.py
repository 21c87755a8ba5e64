"""A model of the made world is asked about kettles."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from p5_t5 import transfer
from p5_t5.arguments import TransferArguments
from p5_t5.artifact import Knowledge, load_artifact
from p5_t5.data.tables import read_tables, write_tables
from p5_t5.evaluation.metrics import rating_metrics
from p5_t5.prompting.corpus import Corpus, read_corpus
from p5_t5.prompting.prompter import Asked, PromptSettings
from p5_t5.prompting.tasks import ZERO_SHOT

USERS, ITEMS = 8, 12


def items(title: str = "Copper Kettle") -> pl.DataFrame:
    titles = [f"{title} {i}" for i in range(ITEMS)]
    table = pl.DataFrame({"item_id": [f"k{i}" for i in range(ITEMS)], "title": titles})
    return table.with_columns(brand=pl.lit("Hearth & Co"), price=9.5 + pl.int_range(pl.len()))


def interactions(most_stars: int = 5, users: str = "p{}") -> pl.DataFrame:
    rows = [
        (users.format(u), f"k{(u + 3 * t) % ITEMS}", 1.0 + (u + t) % most_stars, t, "It boils.")
        for u in range(USERS)
        for t in range(4)
    ]
    columns = ["user_id", "item_id", "rating", "timestamp", "explanation"]
    return pl.DataFrame(rows, columns, orient="row")


@pytest.fixture
def kettles(tmp_path: Path) -> Path:
    write_tables(tmp_path / "kettles", interactions(), items())
    return tmp_path / "kettles"


def judged(folder: Path) -> Corpus:
    return read_corpus(folder, [(ZERO_SHOT, 1.0)], PromptSettings(), judged_only=True)


def test_unseen_items_are_judged_beside_what_training_says(
    trained: Path,
    kettles: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["transfer", f"--model={trained}", f"--dataset={kettles}", "--json=true"]
    monkeypatch.setattr(sys, "argv", given)
    transfer.main()
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    rows = found["test"]["zero-shot"]
    # The model learnt stars, likes and sentences; of features nothing is known here.
    assert set(rows) == {"Z-1", "Z-2", "Z-3", "Z-4", "Z-5", "Z-7"}
    assert {row["n"] for row in rows.values()} == {USERS}
    assert "8 of 8 users' last items are new" in printed and "pieces a word" in printed
    # What users said of the very items would not be transferred.
    assert "explanations are written word by word" in printed

    model, tokenizer, known = load_artifact(trained)
    corpus = judged(kettles)
    template = next(t for t in corpus.templates if t.id == "Z-3")
    histories, prompts, actual = corpus.split.histories, [], []
    for user in range(USERS):
        state = replace(histories.state(user, 3), number=known.histories.num_users + user)
        row = int(histories.offsets[user]) + 3
        asked = Asked(item=int(histories.items[row]))
        prompts.append(corpus.prompter.render(template, state, asked))
        actual.append(histories.ratings[row])
    assert f"user_{known.histories.num_users + 1} " in prompts[0].source
    assert "Hearth & Co" in prompts[0].source and "<" not in prompts[0].source
    expected, _ = known.predictor(model, tokenizer).rate(prompts)
    assert rows["Z-3"]["rmse"] == pytest.approx(rating_metrics(expected, actual)["rmse"])
    offsets = known.histories.offsets
    training = np.concatenate([known.histories.ratings[a : b - 2] for a, b in pairwise(offsets)])
    mean = found["baselines"]["zero-shot"]["stars"]["source_mean"]["mae"]
    assert mean == pytest.approx(np.abs(np.array(actual) - training.mean()).mean(), abs=1e-4)
    likes = found["baselines"]["zero-shot"]["like"]["source_majority"]["accuracy"]
    most = (training >= 4).mean() >= 0.5
    assert likes == pytest.approx(np.mean((np.array(actual) >= 4) == most))


def test_only_items_that_the_model_does_not_know_are_asked_about(
    trained: Path, toy: Path, tmp_path: Path
) -> None:
    table = read_tables(toy).items.select("item_id", "title", "brand", "price").head(ITEMS)
    known_items = table.with_columns(
        item_id=pl.Series([f"k{i}" for i in range(ITEMS)]), old=pl.col("item_id")
    )
    # The first half keeps its ids and titles from the made world, the other half only the titles.
    names = pl.when(pl.int_range(pl.len()) < 6).then("old").otherwise("item_id")
    ids = known_items.with_columns(new=names)
    renamed = dict(zip(ids["item_id"], ids["new"], strict=True))
    rows = interactions().with_columns(pl.col("item_id").replace_strict(renamed))
    write_tables(
        tmp_path / "half", rows, ids.select("title", "brand", "price", item_id=pl.col("new"))
    )
    report, notes = transfer.transfer(
        TransferArguments(model=str(trained), dataset=str(tmp_path / "half"))
    )
    last = [(u + 9) % ITEMS for u in range(USERS)]
    fresh = sum(item >= 6 for item in last)
    assert 0 < fresh < USERS
    assert report["test"]["zero-shot"]["Z-2"]["n"] == fresh
    assert f"{fresh} of 8 users' last items are new" in notes


def test_users_are_those_of_the_model_only_where_that_is_said(
    trained: Path, tmp_path: Path
) -> None:
    known = Knowledge.load(trained)
    rows = interactions().with_columns(
        pl.col("user_id").replace("p0", known.histories.user_ids[17])
    )
    write_tables(tmp_path / "kettles", rows, items())
    pair = transfer.Transfer(known, judged(tmp_path / "kettles"))
    shared = pair.other.split.histories.number[known.histories.user_ids[17]]
    total = known.histories.num_users
    alone, together = (pair.split(flag).histories for flag in (False, True))
    assert [alone.state(u).number for u in range(USERS)] == list(range(total, total + USERS))
    # Their ids only count them, so that the numbers are their names.
    assert [alone.state(u).name for u in range(USERS)] == [f"{total + u + 1}" for u in range(USERS)]
    assert together.state(shared).number == 17
    assert together.state(shared).name == "18"
    others = [together.state(u).number for u in range(USERS) if u != shared]
    assert min(number for number in others if number is not None) >= total


def test_a_model_that_knows_too_little_is_refused(
    trained: Path, toy: Path, kettles: Path, tmp_path: Path
) -> None:
    def refused(dataset: Path, message: str, **given: object) -> None:
        options = TransferArguments(model=str(trained), dataset=str(dataset), **given)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            transfer.transfer(options)

    refused(toy, "knows all items that are asked about")
    refused(kettles, "--examples must be at least 1, not 0", examples=0)
    write_tables(tmp_path / "ten", interactions(10), items())
    refused(tmp_path / "ten", "stars from 1 to 10, but the model .* from 1 to 5")
    write_tables(tmp_path / "script", interactions(), items("銅の湯沸かし やかん 茶釜 鉄瓶"))
    refused(tmp_path / "script", "% of the words in brand, price, title .* never saw, as in '銅の")
    write_tables(tmp_path / "bare", interactions(), items().drop("brand"))
    refused(tmp_path / "bare", r"zero-shot can be asked about it: .* no template can be filled")
    known = Knowledge.load(trained)
    silent = replace(known, best_templates={"sequential": known.best_templates["sequential"]})
    with pytest.raises(ValueError, match="never learnt to answer with explanation, like_dislike"):
        transfer.Transfer(silent, judged(kettles)).templates()


def test_an_answer_that_was_never_taught_is_left_out(trained: Path, kettles: Path) -> None:
    known = Knowledge.load(trained)
    without = {k: v for k, v in known.best_templates.items() if k != "explanation"}
    fit, notes = transfer.Transfer(
        replace(known, best_templates=without), judged(kettles)
    ).templates()
    assert [t.id for t in fit] == ["Z-1", "Z-2", "Z-3", "Z-4"]
    assert notes == ["templates Z-5, Z-7 left out: explanation was never taught"]


def test_prompts_of_ones_own_need_only_what_the_data_has(
    trained: Path, kettles: Path, tmp_path: Path
) -> None:
    write_tables(tmp_path / "bare", interactions(), items().select("item_id", "title"))
    own = {
        "id": "by-title",
        "answer": "stars",
        "source": "{user_name} meets {title} . Stars?",
        "target": "{rating}",
        "heldout": True,
    }
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"family": "zero-shot", "templates": [own]}))
    report, _ = transfer.transfer(
        TransferArguments(
            model=str(trained), dataset=str(tmp_path / "bare"), prompts=[str(file)], examples=5
        )
    )
    # The shipped ones want a brand and a price too.
    assert set(report["test"]["zero-shot"]) == {"by-title"}
    assert report["test"]["zero-shot"]["by-title"]["n"] == 5
