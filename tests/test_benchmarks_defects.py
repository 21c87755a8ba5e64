"""benchmarks/defects.py: one run a switch, each with its own options, and what they report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import defects
import pytest

from p5_t5.protocol import CORRECTED


def test_each_switch_is_tried_alone(
    trained: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def ready_made(command: Sequence[str]) -> None:
        commands.append(list(command))
        (output,) = (w.partition("=")[2] for w in command if w.startswith("--output_dir="))
        shutil.copytree(trained, output)

    monkeypatch.setattr(defects, "call", ready_made)
    switches = ["heldout_item_order", "late_targets"]
    given = [f"--dataset={toy}", "--minutes=3", "--train_args=--seed 7", "--json"]
    defects.main([*given, "--switches", *switches])
    own = [[w for w in c if "protocol" in w or w.endswith("=true")] for c in commands]
    assert own == [[], [], *([f"--{name}=true"] for name in switches), ["--protocol=paper"]]
    assert ["--item_ids=atomic" in c for c in commands] == [True, *[False] * 4]
    assert all("--max_train_minutes=3.0" in c and c[-2:] == ["--seed", "7"] for c in commands)
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])["rows"]
    assert list(rows) == ["atomic codes", "corrected", *switches, "paper"]
    metrics = json.loads((trained / "metrics.json").read_text())
    judged = metrics["test"]["sequential"]["continue-1"]["ndcg@10"]
    assert rows["paper"]["sequential"]["continue-1"]["ndcg@10"] == judged
    assert sum(line.startswith("| late_targets | continue-1 |") for line in lines) == 1
    assert any(line.startswith("corrected: rating rmse 1-6 ") for line in lines)


def test_every_switch_is_a_row_by_default() -> None:
    assert defects.read_options([]).switches == tuple(asdict(CORRECTED))


def test_a_failed_run_is_said(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Sequence[str]) -> None:
        raise ValueError("train.py failed, see above")

    monkeypatch.setattr(defects, "call", fail)
    with pytest.raises(SystemExit, match="error: train.py failed"):
        defects.main([f"--dataset={toy}"])
    with pytest.raises(SystemExit):
        defects.read_options(["--train_args=--protocol paper"])
