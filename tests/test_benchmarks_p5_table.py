"""benchmarks/p5_table.py and the matrix factorisation beside it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import factorisation
import numpy as np
import p5_table
import pytest
from factorisation import Stars

from p5_t5.arguments import read_arguments
from p5_t5.artifact import Knowledge


def made_stars(seed: int, count: int) -> Stars:
    """Stars of 30 users and 20 items that are biases and one factor, without noise."""
    world = np.random.default_rng(0)
    of_users, of_items = world.normal(0, 0.4, 30), world.normal(0, 0.4, 20)
    p, q = world.normal(0, 0.8, 30), world.normal(0, 0.8, 20)
    drawn = np.random.default_rng(seed)
    users, items = drawn.integers(0, 30, count), drawn.integers(0, 20, count)
    values = 3 + of_users[users] + of_items[items] + p[users] * q[items]
    return Stars((users, items), values)


def test_biases_are_the_ridge_solution() -> None:
    train = made_stars(1, 200)
    rows = np.arange(200)
    design = np.zeros((200, 50))
    design[rows, train.pairs[0]] = design[rows, 30 + train.pairs[1]] = 1
    centred = train.values - train.values.mean()
    exact = np.linalg.solve(design.T @ design + 2 * np.eye(50), design.T @ centred)
    # With these to be met on validation it stops at no earlier point of the way.
    met = Stars(train.pairs, train.values.mean() + design @ exact)
    found = factorisation.fit(train, met, 30, 20, rank=0, bias_l2=2.0, factor_l2=0.0)
    biases = np.concatenate([tensor.numpy() for tensor in found.biases])
    np.testing.assert_allclose(biases, exact, atol=0.05)


def test_factors_are_found_and_chosen_where_they_help() -> None:
    train, validation, test = made_stars(1, 450), made_stars(2, 100), made_stars(3, 100)
    best = factorisation.choose_factorisation(train, validation, 30, 20, seed=0, minutes=1)
    assert best.setting["rank"] > 0
    error = best.predict(test.pairs) - test.values
    alone = factorisation.fit(train, validation, 30, 20, rank=0, bias_l2=1.0, factor_l2=0.0)
    biased = alone.predict(test.pairs) - test.values
    assert np.sqrt(np.mean(error**2)) < 0.8 * np.sqrt(np.mean(biased**2))
    assert best.predict(test.pairs).max() <= train.values.max() + 1e-6


def test_biases_alone_are_tried_first_when_there_is_no_time() -> None:
    train = made_stars(1, 100)
    best = factorisation.choose_factorisation(train, train, 30, 20, seed=0, minutes=0)
    assert best.setting == {"rank": 0, "bias_l2": factorisation.BIAS_L2[0], "factor_l2": 0.0}


def test_the_last_line_holds_families_templates_and_baselines(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    p5_table.main([f"--reuse={trained}", "--json", "--peer_minutes=0.1"])
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    metrics = json.loads((trained / "metrics.json").read_text())
    for task, rows in metrics["test"].items():
        assert found[task].keys() == rows.keys()
    assert found["rating"]["1-6"]["rmse"] == metrics["test"]["rating"]["1-6"]["rmse"]
    assert set(p5_table.RANKING) <= set(found["sequential"]["2-3"])
    baselines = found["baselines"]
    ranked = baselines["sequential"]["next_item"]
    assert ranked["ease"]["hr@10"] > 2 * ranked["popularity"]["hr@10"]
    stars = baselines["rating"]["stars"]
    assert stars["biased_mf"]["rmse"] < stars["global_mean"]["rmse"]
    assert stars["biased_mf"]["n"] == stars["global_mean"]["n"]
    assert {"frequent_text", "user_text", "item_text"} <= set(baselines["explanation"]["sentence"])
    assert (
        found["heldout"]["rating"] == ["1-10", "compared-3", "habit-3", "rated-4"]
        and "1-10" in printed
    )
    assert f"| ease                     | {ranked['ease']['hr@1']:.4f}" in printed


def test_a_held_out_template_is_held_against_the_seen_one_most_like_it(trained: Path) -> None:
    templates = Knowledge.load(trained).templates
    metrics = json.loads((trained / "metrics.json").read_text())
    test = metrics["test"]
    losses = p5_table.heldout_losses(metrics, templates)
    seen = {id_: row["seen"] for id_, row in losses["sequential"].items()}
    assert seen == {"2-13": "2-3", "continue-4": "continue-1"}
    before, after = (test["sequential"][id_]["ndcg@10"] for id_ in ("2-3", "2-13"))
    assert losses["sequential"]["2-13"]["loss"] == pytest.approx(100 * (before - after) / before)
    # More error is a loss too.
    before, after = (test["rating"][id_]["rmse"] for id_ in ("1-6", "1-10"))
    assert losses["rating"]["1-10"]["loss"] == pytest.approx(100 * (after - before) / before)


def test_the_summary_says_which_way() -> None:
    loss = {"seen": "2-3", "metric": "ndcg@10", "loss": 12.34}
    facts = {
        "heldout_loss_percent": {"sequential": {"2-13": loss, "x": loss | {"loss": -5.0}}},
        "distinct_per_item": {"3-3": 0.5},
        "rating_rmse": {"1-6": {"expected": 1.0, "decoded": 1.5}},
        "review_rmse_below_mean_percent": {"4-2": 7.5, "4-4": -1.0},
    }
    assert p5_table.summary_lines(facts).splitlines() == [
        "- sequential: ndcg@10 of held-out 2-13 is 12.3% worse than that of 2-3",
        "- sequential: ndcg@10 of held-out x is 5.0% better than that of 2-3",
        "- explanation: 3-3 writes 0.500 different texts per item",
        "- rating: RMSE of 1-6 1.0000 by expected stars, 1.5000 by decoded ones",
        "- review: RMSE of 4-2 is 7.5% below that of the mean star",
        "- review: RMSE of 4-4 is 1.0% above that of the mean star",
    ]


def test_runs_are_started_as_asked(
    trained: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def train(command: list[str]) -> None:
        commands.append(command)
        (output,) = [w.split("=")[1] for w in command if w.startswith("--output_dir=")]
        shutil.copytree(trained, output)

    monkeypatch.setattr(p5_table, "call", train)
    options = p5_table.read_options(
        [
            *(f"--dataset={toy}", "--max_train_minutes=3", "--paper_minutes=4", "--peer_minutes=0"),
            *(f"--output_dir={tmp_path / 'own'}", "--train_args=--seed 7 --tasks rating=2"),
        ]
    )
    report = p5_table.run(options)
    own, paper = commands
    assert "--max_train_minutes=3.0" in own and "--protocol" not in own
    assert own[-4:] == ["--seed", "7", "--tasks", "rating=2"]
    assert "--max_train_minutes=4.0" in paper
    for command in (own, paper):
        # train.py must take what it is given: shares of tasks mean nothing to the paper's epochs.
        monkeypatch.setattr(sys, "argv", command[command.index("train.py") :])
        read = read_arguments()
        assert (read.tasks, read.train.seed) == (["rating" if command is paper else "rating=2"], 7)
        assert read.train.metric_for_best_model == ["rating/rmse", "review/rmse"]
        assert read.protocol.sampling_counts == (command is paper)
    assert (tmp_path / "own-paper" / "metrics.json").exists()
    assert report["paper"]["rating"] == report["rating"]
    assert "ease" not in report["paper"]["baselines"]["sequential"]["next_item"]


def test_presets_are_those_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (p5_table.HOME / "README.md").read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(r"^accelerate launch (train\.py .*--eval_examples.*)$", readme, re.M)
    assert len(commands) == len(p5_table.PRESETS) == 3
    for (_, options), command in zip(p5_table.PRESETS, commands, strict=True):
        words, read = command.split(), []
        # The data set and the limit of the training come first.
        for line in (words, [*words[:5], *options]):
            monkeypatch.setattr(sys, "argv", line)
            read.append(read_arguments())
        assert read[0] == read[1]


@pytest.mark.parametrize(
    ("columns", "preset"), [(("rating", "review"), 0), (("rating",), 1), (("review",), 2), ((), 2)]
)
def test_the_preset_is_that_of_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...], preset: int
) -> None:
    rows = [f"u{user},i{item}" + ",3" * len(columns) for user in range(3) for item in range(3)]
    header = ",".join(("user_id", "item_id", *columns))
    (tmp_path / "interactions.csv").write_text("\n".join((header, *rows)), "utf-8")
    commands: list[list[str]] = []
    monkeypatch.setattr(p5_table, "call", commands.append)
    options = p5_table.read_options([f"--dataset={tmp_path}"])
    p5_table.train(options, 1.0, tmp_path / "model")
    ((command),) = commands
    own = p5_table.PRESETS[preset][1]
    assert tuple(command[-len(own) :]) == own


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        p5_table.main(["--train_args=--dataset x"])
    assert "--dataset in --train_args" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="not a folder that train.py wrote"):
        p5_table.main([f"--reuse={tmp_path}"])
