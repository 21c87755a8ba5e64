from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from p5_t5.data.tables import write_tables
from p5_t5.data.usual_stars import choose_priors, usual_stars, usual_text
from p5_t5.prompting.corpus import read_corpus, read_tasks
from p5_t5.prompting.prompter import PromptSettings

ALL = read_tasks(["sequential=3", "rating", "explanation=0.5"])


def made(folder: Path, **columns: list[object]) -> Path:
    rows = {"user_id": ["u"] * 4 + ["v"] * 4, "item_id": list("abcd") + list("bcda")}
    write_tables(folder, pl.DataFrame(rows | columns))
    return folder


def test_the_toy_teaches_all_tasks(toy: Path) -> None:
    corpus = read_corpus(toy, ALL, PromptSettings())
    assert [(task.name, share) for task, share in corpus.tasks] == [
        ("sequential", 3.0),
        ("rating", 1.0),
        ("explanation", 0.5),
    ]
    assert corpus.ratings == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert corpus.heldout()["rating"] == {"1-10", "rated-4", "compared-3", "habit-3"}
    for prompt in corpus.examples().values():
        assert prompt.source and prompt.target
    assert not corpus.split.derived_explanations


def test_what_the_data_cannot_teach_is_left_out_and_said(tmp_path: Path) -> None:
    corpus = read_corpus(made(tmp_path / "bare"), ALL, PromptSettings())
    assert [task.name for task, _ in corpus.tasks] == ["sequential"]
    notes = "\n".join(corpus.notes)
    assert "bare: task rating left out: no training interaction has any rating" in notes
    assert "bare: task explanation left out: no training interaction has any explanation" in notes
    assert "template continue-3 (sequential) left out: no {favourite_categories}" in notes


def test_explanations_are_derived_only_where_none_are_written(tmp_path: Path) -> None:
    folder = made(tmp_path / "films", rating=[5.0] * 8)
    items = {"item_id": list("abcd"), "title": list("ABCD"), "categories": [["war"]] * 4}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    corpus = read_corpus(folder, ALL, PromptSettings())
    assert corpus.split.derived_explanations
    assert any("derived from facts" in note for note in corpus.notes)


def test_reviews_explain_before_facts_do(tmp_path: Path) -> None:
    praise = [f"It has a {word} tone." for word in ("great", "good", "nice", "poor")]
    items = {"item_id": list("abcd"), "title": list("ABCD"), "categories": [["war"]] * 4}
    folder = made(tmp_path / "praised", rating=[5.0] * 8, review=praise * 2)
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    corpus = read_corpus(folder, ALL, PromptSettings())
    assert corpus.split.texts["explanation"] == praise * 2
    assert not corpus.split.derived_explanations
    assert any(
        "sentences of the reviews explain 8 interactions, by 1 feature words (tone ...)" in note
        for note in corpus.notes
    )
    folder = made(tmp_path / "mute", rating=[5.0] * 8, review=["?"] * 8)
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    assert read_corpus(folder, ALL, PromptSettings()).split.derived_explanations


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the tasks rating can be learnt"):
        read_corpus(made(tmp_path / "bare"), read_tasks(["rating"]), PromptSettings())


@pytest.mark.parametrize(
    ("text", "message"),
    [("ranking=1", "unknown task 'ranking'"), ("rating=x", "must be a number"), ("rating=-1", "0")],
)
def test_wrong_shares_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tasks([text])


def test_a_share_of_zero_leaves_a_task_out() -> None:
    assert [task.name for task, _ in read_tasks(["rating=0", "sequential=2"])] == ["sequential"]


def test_usual_stars_are_known_wherever_training_has_stars(toy: Path, tmp_path: Path) -> None:
    corpus = read_corpus(toy, ALL, PromptSettings())
    assert corpus.split.histories.usual is not None
    said = corpus.catalogue.columns["usual_stars"]
    assert all(1.0 <= float(value) <= 5.0 for value in said) and len(set(said)) > 3
    priors = choose_priors(corpus.split, len(corpus.catalogue), seed=0)
    assert corpus.prompter.settings.habit_prior == priors[1]
    told, of_items = usual_stars(corpus.split, len(corpus.catalogue), 0, priors[0])
    np.testing.assert_array_equal(corpus.split.histories.usual, told)
    assert [usual_text(value) for value in of_items.tolist()] == said
    bare = read_corpus(made(tmp_path / "bare"), ALL, PromptSettings())
    assert bare.split.histories.usual is None and "usual_stars" not in bare.catalogue.columns


def test_a_column_of_that_name_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "made", rating=[4.0] * 8)
    items = pl.DataFrame({"item_id": list("abcd"), "usual_stars": [1, 2, 3, 4]})
    items.write_csv(folder / "items.csv")
    with pytest.raises(ValueError, match="made: the items table has a column 'usual_stars'.*name"):
        read_corpus(folder, ALL, PromptSettings())
