"""The peers of benchmarks/quality.py, and what it prints. SASRec has an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import peers
import pytest
import quality
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import Histories

from p5_t5.data.splits import leave_one_out
from p5_t5.data.tables import read_tables
from p5_t5.evaluation.audit import baselines
from p5_t5.evaluation.metrics import ranking_metrics
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import TASKS, read_prompts

LISTS = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=9), min_size=2, max_size=8)


def histories(rows: list[list[int]], num_items: int = 7) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Histories(offsets, np.concatenate(rows).astype(np.int64), num_items)


def rows_of(given: Histories) -> list[list[int]]:
    return [row.tolist() for row in np.split(given.items, given.offsets[1:-1])]


@given(LISTS, st.randoms(use_true_random=False))
def test_histories_are_cut_and_chosen_like_lists(rows: list[list[int]], random) -> None:
    made = histories(rows)
    assert rows_of(made.without_newest()) == [row[:-1] for row in rows]
    assert made.newest.tolist() == [row[-1] for row in rows]
    chosen = random.sample(range(len(rows)), k=random.randint(1, len(rows)))
    assert rows_of(made.of(np.array(chosen))) == [rows[user] for user in chosen]


def test_an_item_taken_twice_weighs_as_its_newest_time() -> None:
    weights = histories([[1, 2, 1, 3]]).matrix(0.5).toarray()
    np.testing.assert_allclose(weights, [[0, 0.5, 0.25, 1, 0, 0, 0]])


def test_ease_is_the_ridge_solution_without_self_similarity() -> None:
    """Each column solves its own ridge regression on all other items."""
    taken = histories([[0, 1, 2], [1, 2, 3], [0, 3, 4], [2, 4, 1], [0, 1, 4]], 5).matrix()
    weights, x, l2 = peers.ease_weights(taken, 2.0), taken.toarray().astype(float), 2.0
    for item in range(5):
        others = np.arange(5) != item
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + l2 * np.eye(4), a.T @ x[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)
        assert weights[item, item] == 0


@given(LISTS)
def test_neighbourhoods_are_mutual(rows: list[list[int]]) -> None:
    taken = histories(rows).matrix()
    for similar in (peers.cosine(taken, 3.0), peers.bm25(taken, 0.5)):
        dense = similar.toarray()
        np.testing.assert_allclose(dense, dense.T, atol=1e-5)
        assert not dense.diagonal().any()


def test_cosine_by_hand() -> None:
    similar = peers.cosine(histories([[0, 1], [0, 1], [0, 2]]).matrix(), 1.0).toarray()
    assert similar[0, 1] == pytest.approx(2 / (3**0.5 * 2**0.5 + 1))
    assert similar[1, 2] == 0


@given(LISTS, st.integers(1, 3))
def test_only_the_largest_of_each_row_stay(rows: list[list[int]], neighbours: int) -> None:
    similar = peers.cosine(histories(rows).matrix(), 0.0)
    kept = peers.nearest_only(similar, neighbours).toarray()
    for before, after in zip(similar.toarray(), kept, strict=True):
        largest = np.sort(before)[::-1][:neighbours]
        np.testing.assert_allclose(np.sort(after)[::-1][:neighbours], largest)
        assert (after > 0).sum() <= neighbours


@settings(deadline=None)
@given(LISTS)
@pytest.mark.parametrize("peer", sorted(quality.PEERS))
def test_nobody_is_shown_what_they_have(peer: str, rows: list[list[int]]) -> None:
    made = histories(rows)
    _, scorer = next(quality.PEERS[peer](made))
    lists = peers.rank(scorer, made, keep_seen=False, batch_size=3)
    for row, found in zip(rows, lists.tolist(), strict=True):
        assert sorted(found)[-7:] == sorted([*(set(range(7)) - set(row)), *([-1] * 7)])[-7:]
    kept = peers.rank(scorer, made, keep_seen=True)
    assert (np.sort(kept[:, :7], axis=1) == np.arange(7)).all()


def test_ranking_goes_by_score_then_by_catalogue() -> None:
    scores = np.array([[1.0, 3.0, -np.inf, 3.0, 2.0]])
    found = peers.rank(lambda _: scores, histories([[4]], 5), keep_seen=False, length=4)
    assert found.tolist() == [[1, 3, 0, -1]]


def test_the_measure_of_choice_is_that_of_the_report() -> None:
    lists = np.array([[3, 1, 2], [0, 4, -1], [5, 6, 1]])
    targets = np.array([1, 0, 2])
    assert peers.ndcg(lists, targets, 2) == ranking_metrics(lists, targets, (2,))["ndcg@2"]


def test_the_best_setting_within_the_time_is_chosen() -> None:
    asked = histories([[0], [1]])
    scores = {name: np.zeros((2, 7)) for name in ("bad", "good", "late")}
    scores["good"][:, 5] = 1
    made = (({"name": name}, lambda _, name=name: scores[name]) for name in scores)
    found = peers.choose(made, asked, np.array([5, 5]), keep_seen=False, minutes=1)
    assert (found.setting, found.validation, found.tried) == ({"name": "good"}, 1.0, 3)
    made = (({"name": name}, lambda _, name=name: scores[name]) for name in scores)
    assert peers.choose(made, asked, np.array([5, 5]), keep_seen=False, minutes=0).tried == 1


def test_the_last_line_is_one_object(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality.main([f"--dataset={toy}", "--json", "--minutes=0.02", "--models", *quality.PEERS])
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    for name in quality.PEERS:
        assert set(quality.SHOWN) | {"minutes", "setting", "validation"} <= set(found[name])
        assert f"| {name} | {found[name]['hr@10']:.4f} |" in printed
        assert found[name]["minutes"] < 0.1
    tables = read_tables(toy)
    split = leave_one_out(tables)
    candidates = Candidates(split, len(tables.items), [], PromptSettings())
    templates = list(read_prompts([]).values())
    known = baselines(split, [TASKS["sequential"]], templates, candidates)
    for name in quality.SHOWN:
        assert found["popularity"][name] == known["sequential"]["next_item"]["popularity"][name]
    assert found["itemknn"]["hr@10"] > 2 * found["popularity"]["hr@10"]


def test_several_seeds_are_averaged() -> None:
    one = dict.fromkeys((*quality.SHOWN, "minutes"), 0.1) | {"setting": "a"}
    two = dict.fromkeys((*quality.SHOWN, "minutes"), 0.3) | {"setting": "b"}
    found = quality.average([one, two])
    assert found["hr@10"] == pytest.approx(0.2) and found["setting"] == ["a", "b"]
    assert found["std"]["minutes"] == pytest.approx(0.02**0.5)
    assert "| ours | 0.2000 ± 0.1414 |" in quality.table({"ours": found})


def test_a_missing_peer_is_left_out_and_said(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named rectools >&2\nexit 1\n")
    python.chmod(0o755)
    given = [f"--dataset={toy}", "--json", "--models", "popularity", "sasrec"]
    quality.main([*given, f"--peers_python={python}"])
    out, said = capsys.readouterr()
    assert "sasrec" not in json.loads(out.splitlines()[-1])
    assert "No module named rectools" in said and "requirements-peers.txt" in said


def test_what_all_models_share_is_not_changed_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--models", "ours", "--", "--seed=1"])
    assert "--seed after --" in capsys.readouterr().err
    options, train = quality.read_options(["--minutes", "2", "--", "--item_ids", "collaborative"])
    assert options.minutes == 2 and train == ["--item_ids", "collaborative"]
    assert options.peers_python == sys.executable
