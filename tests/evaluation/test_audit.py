from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import read_tables, write_tables
from p5_t5.evaluation.audit import audit, baselines
from p5_t5.prompting.tasks import RATING, SEQUENTIAL


def split_of(tmp_path: Path, rows: list[tuple[str, str, float, int]]) -> Split:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    write_tables(tmp_path / "made", frame)
    return leave_one_out(read_tables(tmp_path / "made"))


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
    assert found["repeated_pairs"] == 2  # v's two first b
    assert found["derived_explanations"] is False


def test_popularity_counts_training_only_and_can_leave_seen_items_out(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    found = baselines(split, [SEQUENTIAL], 5)["sequential"]["popularity"]
    # Training counts: b 3, a 2, c 1; d and e are unknown and follow in catalogue order.
    # u has a, b, c, d and wants e: the only item left. v wants b, which it has.
    assert found["hr@1"] == 0.5
    assert found["hr@20"] == 0.5
    assert found["hr@1/keep_seen"] == 0.5  # v's b is the most popular of all
    assert found["hr@5/keep_seen"] == 1.0
    assert found["n"] == 2


def test_means_know_training_only(tmp_path: Path) -> None:
    split = split_of(tmp_path, ROWS)
    found = baselines(split, [RATING], 5)["rating"]
    mean = (5 + 3 + 4 + 1 + 2 + 3) / 6
    actual = np.array([2.0, 4.0])
    assert found["global_mean"]["mae"] == pytest.approx(np.abs(actual - mean).mean())
    assert found["user_mean"]["mae"] == pytest.approx(np.abs(actual - [4, 2]).mean())
    # Nobody rated e in training, so the mean of all stands in; b has 3, 1 and 3.
    assert found["item_mean"]["mae"] == pytest.approx(np.abs(actual - [mean, 7 / 3]).mean())


def test_a_held_out_star_changes_no_baseline(tmp_path: Path) -> None:
    other = [(u, i, 6 - r if t > 3 else r, t) for u, i, r, t in ROWS]
    first = split_of(tmp_path, ROWS)
    (tmp_path / "x").mkdir()
    second = split_of(tmp_path / "x", other)
    assert np.array_equal(
        first.histories.ratings[first.rows("train")],
        second.histories.ratings[second.rows("train")],
    )
    assert baselines(first, [SEQUENTIAL], 5) == baselines(second, [SEQUENTIAL], 5)
