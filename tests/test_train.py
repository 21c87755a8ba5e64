"""train.py from end to end, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, run_train

SMALL = (
    "--vocab_size=400", "--d_model=32", "--d_ff=64", "--d_kv=8", "--tokens_per_batch=2000",
    "--eval_examples=20", "--evaluations=2",
)  # fmt: skip
RESUMABLE = (*SMALL, "--max_train_steps=40", "--save_steps=4", "--tasks", "sequential", "rating")


def test_the_run_says_what_it_does(toy: Path, tmp_path: Path) -> None:
    own = REPOSITORY / "examples" / "own_prompt.json"
    output = tmp_path / "model"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={output}", f"--prompts={own}", "--max_train_steps=6",
        "--item_ids=collaborative", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "200 users, 120 items, 3,763 interactions" in done.stdout
    assert "### sequential: next_item" in done.stdout
    assert "| popularity" in done.stdout and "| global_mean" in done.stdout
    assert done.stdout.count("%  ") == 25  # five users with five titles each
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["test"]["sequential"]["postcard"]["n"] == 200
    assert metrics["protocol"]["item_ids"] == "collaborative"
    saved = json.loads((output / "prompts" / "sequential.json").read_text())
    assert "postcard" in {t["id"] for t in saved["templates"]}
    assert any(tmp_path.glob("model.run/**/events.out.tfevents*"))
    assert not list(tmp_path.glob("model.run/checkpoints/*"))


def test_every_family_trains_and_is_judged(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    families = ("sequential", "rating", "explanation", "review", "direct", "zero-shot")
    done = run_train(
        f"--dataset={toy}", f"--output_dir={output}", "--max_train_steps=6", *SMALL,
        "--report=all", "--candidate_users=4", "--candidates=20", "--tasks", *families,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((output / "metrics.json").read_text())
    assert tuple(metrics["test"]) == families
    assert sum(map(len, metrics["test"].values())) == 58
    first = {
        "sequential": {"next_item": "hr@10", "choice": "hr@10/candidates", "yes_no": "auc"},
        "rating": {"stars": "rmse", "yes_no": "f1", "like": "recall"},
        "explanation": {"sentence": "bleu-4"},
        "review": {"stars": "mae", "headline": "bleu-2"},
        "direct": {"choice": "ndcg@5/candidates", "yes_no": "ndcg@10/candidates"},
        "zero-shot": {"like": "precision", "stars": "rmse", "sentence": "rouge-l"},
    }
    assert {task: set(kinds) for task, kinds in metrics["kinds"].items()} == {
        task: set(kinds) for task, kinds in first.items()
    }
    for task, kinds in first.items():
        for kind, metric in kinds.items():
            assert f"### {task}: {kind}" in done.stdout
            assert {metric} <= set(metrics["sensitivity"][task][kind])
            for id_ in metrics["kinds"][task][kind]:
                assert metric in metrics["test"][task][id_]
    assert metrics["test"]["direct"]["5-1"]["n/candidates"] == 4
    assert "popularity" in metrics["baselines"]["direct"]["choice"]
    assert "majority" in metrics["baselines"]["rating"]["like"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset=nothing/here",), "neither a folder nor one of the preparers"),
        (("--tasks=sequentail",), "unknown task 'sequentail'"),
        (("--item_ids=semantik",), "semantik"),
        (("--max_train_steps=0",), "--max_train_steps must be above 0"),
        (("--report=some",), "--report must be pairs or all, not 'some'"),
        (("--candidates=1",), "--candidates must be at least 2"),
        (("--tasks=zero-shot",), "none of the tasks zero-shot can be learnt"),
        (("--resume",), "has no checkpoint to go on from"),
        (("--prompts=no/such.json",), "no/such.json: no such file"),
    ],
)
def test_wrong_arguments_get_one_line(
    toy: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    given = (f"--dataset={toy}", f"--output_dir={tmp_path / 'm'}", "--vocab_size=400", *options)
    done = subprocess.run(
        [sys.executable, "train.py", *given],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m").exists()


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_train(f"--dataset={toy}", f"--output_dir={whole}", *RESUMABLE)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "train.py", f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed.run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*[0-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("step-*[0-9]")) and not killed.exists()

    refused = run_train(f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    changed = run_train(
        f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE, "--resume", "--seed=1"
    )
    assert changed.returncode == 1 and "seed was 42 when the run began" in changed.stderr

    resumed = run_train(f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    weights = "model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (killed, whole))
    assert ours["test"] == theirs["test"]


def test_two_cpu_processes_train_one_model(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
        "--main_process_port=29511", "train.py", f"--dataset={toy}", f"--output_dir={output}",
        *SMALL, "--max_train_steps=4", "--tasks", "sequential",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("judging the templates") == 1
    assert json.loads((output / "metrics.json").read_text())["protocol"]["processes"] == 2
