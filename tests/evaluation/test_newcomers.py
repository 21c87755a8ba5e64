from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import read_tables, write_tables
from p5_t5.evaluation.audit import popular_lists
from p5_t5.evaluation.evaluator import RankedLists, questions
from p5_t5.evaluation.metrics import ranking_metrics
from p5_t5.evaluation.newcomers import newcomers
from p5_t5.model_card import metrics_tables
from p5_t5.prompting.tasks import TASKS

# Training shows a six times, b twice and c once; nobody trains on z. The last item is the test.
HISTORIES = {"u": "ayz", "v": "abyc", "w": "abacyb", "x": "ayb", "y": "ayc"}


@pytest.fixture
def split(tmp_path: Path) -> Split:
    rows = [(user, item, t) for user, items in HISTORIES.items() for t, item in enumerate(items)]
    columns = ["user_id", "item_id", "timestamp"]
    write_tables(tmp_path / "made", pl.DataFrame(rows, columns, orient="row"))
    return leave_one_out(read_tables(tmp_path / "made"))


def test_targets_and_users_are_sorted_by_what_training_shows(split: Split) -> None:
    asked = questions(split, TASKS["sequential"], "test")
    target = split.histories.items[asked.rows].astype(np.int64)
    # u's and w's targets come first, v's second, the others are not found.
    items = np.full((5, 20), -1)
    items[[0, 2], 0], items[1, 0], items[1, 1] = target[[0, 2]], target[0], target[1]
    found = newcomers(split, {"made": RankedLists(asked, items)})
    second = 1 / np.log2(3)
    assert found["items"]["made"] == {
        "0": {"hr@10": 1, "ndcg@10": 1, "n": 1},  # u's z
        "1": {"hr@10": 0.5, "ndcg@10": pytest.approx(second / 2), "n": 2},  # v's and y's c
        "2-4": {"hr@10": 0.5, "ndcg@10": 0.5, "n": 2},  # w's and x's b
    }
    assert found["users"]["made"] == {
        "1-2": {"hr@10": 0.5, "ndcg@10": pytest.approx((1 + second) / 4), "n": 4},
        "3-5": {"hr@10": 1, "ndcg@10": 1, "n": 1},  # w
    }


def test_the_bins_add_up_to_the_whole(split: Split) -> None:
    asked = questions(split, TASKS["sequential"], "test")
    lists = popular_lists(split, asked, 5)
    whole = ranking_metrics(lists, split.histories.items[asked.rows], (10,))
    for found in newcomers(split, {"popularity": RankedLists(asked, lists)}).values():
        bins = found["popularity"].values()
        for name in ("hr@10", "ndcg@10"):
            assert sum(b[name] * b["n"] for b in bins) / len(asked) == pytest.approx(whole[name])


def test_the_tables_hold_them(split: Split) -> None:
    asked = questions(split, TASKS["sequential"], "test")
    ranked = RankedLists(asked, popular_lists(split, asked, 5))
    found = newcomers(split, {"2-3": ranked, "popularity": ranked})
    text = metrics_tables({"kinds": {}, "newcomers": {"sequential": found}}, {})
    lines = text.splitlines()
    assert any("training interactions of the target item" in line for line in lines)
    row = found["items"]["2-3"]["2-4"]
    (ours,) = [line for line in lines if line.startswith("| P5 2-3") and line.count("/") == 3]
    assert f"{row['hr@10']:.4f} / {row['ndcg@10']:.4f}" in ours
    assert lines.index(ours) > [line.startswith("| popularity") for line in lines].index(True)
