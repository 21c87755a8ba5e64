from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import read_tables, write_tables
from p5_t5.evaluation.audit import audit, baselines
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import TASKS, read_prompts

TEMPLATES = list(read_prompts().values())


def split_of(tmp_path: Path, rows: list[tuple[str, str, float, int]]) -> Split:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    write_tables(tmp_path / "made", frame)
    return leave_one_out(read_tables(tmp_path / "made"))


def baselines_of(split: Split, family: str, kind: str, candidates: int = 3) -> Any:
    drawn = Candidates(split, 5, [1, 2, 3, 4, 5], PromptSettings(candidates=candidates))
    found = baselines(split, [TASKS[family]], TEMPLATES, drawn)
    return found[family][kind]


# Training holds a, b and c for u; b, a and b's neighbour d for v.
ROWS = [
    ("u", "a", 5.0, 1), ("u", "b", 3.0, 2), ("u", "c", 4.0, 3), ("u", "d", 1.0, 4),
    ("u", "e", 2.0, 5),
    ("v", "b", 1.0, 1), ("v", "a", 2.0, 2), ("v", "b", 3.0, 3), ("v", "c", 5.0, 7),
    ("v", "b", 4.0, 7),
]  # fmt: skip


def test_the_audit_counts_what_makes_numbers_look_better_or_worse(tmp_path: Path) -> None:
    found = audit(split_of(tmp_path, ROWS))
    assert found["tied_users"] == found["tied_targets"] == 0.5
    assert found["repeated_targets"] == 0.5  # v had b before
    assert found["cold_targets"] == 0.5  # nobody trains on e
    assert found["neighbour_targets"] == 0.5  # u trains on v's b, v not on u's e
    assert found["repeated_pairs"] == 2  # v's two first b
    assert found["derived_explanations"] is False


def test_popularity_counts_training_only_and_can_leave_seen_items_out(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    found = baselines_of(split, "sequential", "next_item")["popularity"]
    # Training counts: b 3, a 2, c 1; d and e are unknown and follow in catalogue order.
    # u has a, b, c, d and wants e: the only item left. v wants b, which it has.
    assert found["hr@1"] == 0.5
    assert found["hr@20"] == 0.5
    assert found["hr@1/keep_seen"] == 0.5  # v's b is the most popular of all
    assert found["hr@5/keep_seen"] == 1.0
    assert found["n"] == 2


def test_means_know_training_only(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    found = baselines_of(split, "rating", "stars")
    mean = (5 + 3 + 4 + 1 + 2 + 3) / 6
    actual = np.array([2.0, 4.0])
    assert found["global_mean"]["mae"] == pytest.approx(np.abs(actual - mean).mean())
    assert found["user_mean"]["mae"] == pytest.approx(np.abs(actual - [4, 2]).mean())
    # Nobody rated e in training, so the mean of all stands in; b has 3, 1 and 3.
    assert found["item_mean"]["mae"] == pytest.approx(np.abs(actual - [mean, 7 / 3]).mean())


def test_what_prompts_are_told_of_a_reviews_words_stands_beside_them(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    told = np.where(np.arange(10) % 5 == 4, 4.0, np.nan).astype(np.float32)
    texts = {"review": ["It works."] * 10}
    found = baselines_of(replace(split, texts=texts, review_stars=told), "review", "stars")
    # The last of u has 2 stars, the last of v 4.
    assert found["review_words"]["rmse"] == pytest.approx(np.sqrt(2))
    assert "review_words" not in baselines_of(split, "rating", "stars")


def test_a_held_out_star_changes_no_baseline(tmp_path: Path) -> None:
    other = [(u, i, 6 - r if t > 3 else r, t) for u, i, r, t in ROWS]
    first = split_of(tmp_path, ROWS)
    (tmp_path / "x").mkdir()
    second = split_of(tmp_path / "x", other)
    assert np.array_equal(
        first.histories.ratings[first.rows("train")],
        second.histories.ratings[second.rows("train")],
    )
    for kind in ("next_item", "choice", "yes_no"):
        assert baselines_of(first, "sequential", kind) == baselines_of(second, "sequential", kind)


def test_popularity_ranks_the_candidates_too(tmp_path: Path) -> None:
    more = [("w", "d", 3.0, 1), ("w", "d", 3.0, 2), ("w", "e", 3.0, 3)]
    found = baselines_of(split_of(tmp_path, ROWS + more), "direct", "choice", candidates=4)
    # u has everything, so e stands alone; v's b is the most popular item of all; w's e comes after
    # b, a and c, which are all that w never had.
    assert found["popularity"]["mrr/candidates"] == pytest.approx((1 + 1 + 1 / 4) / 3)
    assert found["popularity"]["hr@1/candidates"] == pytest.approx(2 / 3)


def test_the_majority_is_that_of_training(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    # Of six training stars two are 4 or more, so everybody is said to dislike; v likes b with 4.
    found = baselines_of(split, "rating", "like")["majority"]
    assert found == {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "auc": 0.5, "n": 2}
    assert set(baselines_of(split, "direct", "yes_no")) == {"majority", "popularity"}


def test_frequent_texts_are_those_of_training(tmp_path: Path) -> None:
    said = ["dull", "warm tone", "warm tone", "held out", "held out"]
    said += ["dull", "dull", "sharp", "no word", "dull"]
    split = replace(split_of(tmp_path, ROWS), texts={"explanation": said})
    found = baselines_of(split, "explanation", "sentence")
    # All say "dull" most, so does v, but u says "warm tone". Of e nothing is said, and of b three
    # things once each, "warm tone" first. "held out" and "dull" are right.
    assert set(found) == {"frequent_text", "user_text", "item_text"}
    assert found["frequent_text"]["rouge-1"] == 50
    assert found["user_text"]["distinct"] == 1
    assert found["user_text"]["rouge-1"] == 50
    assert found["item_text"]["rouge-1"] == 0
    silent = replace(split, texts={"explanation": [*said[:3], None, None, *said[5:8], None, "x"]})
    assert baselines_of(silent, "explanation", "sentence")["frequent_text"]["n"] == 1


def test_a_kind_of_answer_that_is_not_judged_gets_no_baseline(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    drawn = Candidates(split, 5, [1, 2, 3, 4, 5], PromptSettings())
    stars = [t for t in TEMPLATES if t.answer == "stars"]
    found = baselines(split, [TASKS["rating"], TASKS["direct"]], stars, drawn)
    assert {task: set(kinds) for task, kinds in found.items()} == {"rating": {"stars"}}
