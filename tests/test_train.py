"""train.py from end to end, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import train
from p5_t5.arguments import read_arguments
from p5_t5.data.tables import read_tables, write_tables
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.weight_mean import WeightMean
from tests.conftest import REPOSITORY, last_words, run_train

SMALL = (
    "--vocab_size=400", "--d_model=32", "--d_ff=64", "--d_kv=8", "--tokens_per_batch=2000",
    "--eval_examples=20", "--evaluations=2",
)  # fmt: skip
RESUMABLE = (
    *SMALL, "--max_train_steps=12", "--max_train_minutes=2", "--save_steps=3",
    "--held_back_users=50", "--tasks", "sequential", "rating",
)  # fmt: skip


def test_the_run_says_what_it_does(toy: Path, tmp_path: Path) -> None:
    own = REPOSITORY / "examples" / "own_prompt.json"
    output = tmp_path / "model"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={output}", f"--prompts={own}", "--max_train_steps=6",
        "--item_ids=collaborative", *SMALL, launcher=True,
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
    assert sum(map(len, metrics["test"].values())) == 99
    first = {
        "sequential": {"next_item": "hr@10", "choice": "hr@10/candidates", "yes_no": "auc"},
        "rating": {"stars": "rmse", "yes_no": "f1", "like": "recall"},
        "explanation": {"sentence": "bleu-4"},
        "review": {"stars": "mae", "headline": "bleu-2"},
        "direct": {
            "choice": "ndcg@5/candidates",
            "yes_no": "ndcg@10/candidates",
            "pick": "hr@10/candidates",
        },
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
    assert "review_words" in metrics["baselines"]["review"]["stars"]
    assert "review_words" not in metrics["baselines"]["rating"]["stars"]


WRONG = [
    (("--dataset=nothing/here",), "neither a folder nor one of the preparers"),
    (("--tasks=sequentail",), "unknown task 'sequentail'"),
    (("--item_ids=semantik",), "semantik"),
    (("--max_train_steps=0",), "--max_train_steps must be above 0"),
    (("--stage=some",), "--stage must be tasks or pretrain, not 'some'"),
    (("--stage=pretrain", "--max_history=1"), "max_history must be at least 2"),
    (("--model_name_or_path=no/such/model",), "no/such/model: no model can be read there"),
    (("--report=some",), "--report must be pairs or all, not 'some'"),
    (("--candidates=1",), "--candidates must be at least 2"),
    (("--least_recent=1.5",), "--least_recent must be from 0 to 1, not 1.5"),
    (("--word_noise=0.6",), "--word_noise must be from 0 to 0.5, not 0.6"),
    (("--rating_dropout=0.5",), "--rating_dropout must be from 0 to below 0.5, not 0.5"),
    (("--token_embeddings=svd",), "must be cooccurrence or random, not 'svd'"),
    (("--held_back_users=-1",), "--held_back_users must be at least 0, not -1"),
    (("--held_back_users=201",), "toy: --held_back_users 201: only 200 users have the 4"),
    (("--early_stopping_patience=-1",), "--early_stopping_patience must be at least 0, not -1"),
    (("--max_grad_norm=-1",), "--max_grad_norm must be at least 0, not -1"),
    (("--eval_examples=0",), "--eval_examples must be above 0, not 0"),
    (("--output_dir=tests",), "tests: expected a trained model to replace, or a free name"),
    (("--output_dir=.",), "expected a trained model to replace, or a free name"),
    (("--max_recent=-1",), "--max_recent must be at least 0, not -1"),
    (("--tasks=zero-shot",), "none of the tasks zero-shot can be learnt"),
    (("--resume",), "has no checkpoint to go on from"),
    (("--prompts=no/such.json",), "no/such.json: no such file"),
]


def test_wrong_arguments_get_one_line(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "m"
    given = [f"--dataset={toy}", f"--output_dir={output}", "--vocab_size=400", "--report_to=none"]
    ends = last_words([[*given, *options] for options, _ in WRONG])
    for (options, message), end in zip(WRONG, ends, strict=True):
        assert end is not None and end.startswith("error: "), options
        assert message in end and "\n" not in end
    assert not output.exists()


def test_an_error_is_no_traceback(toy: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", f"--dataset={toy}", "--tasks=sequentail"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "unknown task 'sequentail'" in done.stderr and done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", [7, 8, 9])
def test_a_run_by_the_clock_ends_with_a_validation(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    given = [f"--dataset={toy}", f"--output_dir={tmp_path / 'model'}", *SMALL, "--evaluations=1"]
    given += [f"--max_train_minutes={seconds / 60}", "--report_to=none", "--tasks", "sequential"]
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    arguments = read_arguments()
    accelerator, corpus = train.start(arguments), train.prepare(arguments, toy)
    model, words, mixture = train.build(arguments, corpus, corpus, 1)
    mean = WeightMean(model)
    validation = train.judge(arguments, corpus, mean.module, words)
    collate = Collator(words, arguments.protocol.longest_source)
    loop = train.Loop(arguments, accelerator, model, mean, collate, mixture, validation)
    # A second goes by whenever somebody looks.
    clock = count()
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    loop.run()
    assert loop.progress.evaluations == 1
    assert loop.progress.best_step == loop.progress.step > 1


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed, process = (
        subprocess.Popen(
            [sys.executable, "train.py", f"--dataset={toy}", f"--output_dir={folder}", *RESUMABLE],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for folder in (whole, killed)
    )  # fmt: skip
    checkpoints = tmp_path / "killed.run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*[0-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("step-*[0-9]")) and not killed.exists()

    again = [f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE]
    refused, changed = last_words([again, [*again, "--resume", "--seed=1"]])
    assert refused is not None and "--resume" in refused
    assert changed is not None and "seed was 42 when the run began" in changed

    resumed = run_train(f"--dataset={toy}", f"--output_dir={killed}", *RESUMABLE, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    assert undisturbed.wait(timeout=240) == 0
    weights = "model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (killed, whole))
    assert ours["test"] == theirs["test"]
    assert ours["protocol"]["held_back_users"] == 50


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Path:
    """A model that has restored masked items of the made world for a few steps."""
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={folder}", *SMALL, "--stage=pretrain",
        "--max_train_steps=8", "--tasks", "sequential=2", "rating", "denoising=7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "validation denoising ndcg@10" in done.stderr + done.stdout
    assert f"train.py --model_name_or_path {folder}" in done.stdout
    return folder


def test_pretraining_restores_items_and_learns_no_labelled_task(pretrained: Path) -> None:
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert {task: set(rows) for task, rows in metrics["test"].items()} == {
        "denoising": {"mend-1", "mend-5"}
    }
    assert metrics["test"]["denoising"]["mend-1"]["n"] == 200
    assert "popularity" in metrics["baselines"]["denoising"]["masked_items"]
    known = json.loads((pretrained / "p5.json").read_text())
    assert list(known["best_templates"]) == ["denoising"]
    # The words of the tasks to come are whole all the same.
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    assert {"▁Go", "▁stars"} <= set(tokenizer.get_vocab())


def test_a_run_goes_on_from_a_pretrained_folder(
    pretrained: Path, toy: Path, tmp_path: Path
) -> None:
    """At a rate of almost nothing the weights are still those of the folder, item by item."""
    output = tmp_path / "model"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={output}", *SMALL, "--max_train_steps=2", "--seed=7",
        f"--model_name_or_path={pretrained}", "--learning_rate=1e-9", "--tasks", "sequential",
        "rating", "denoising",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads((output / "metrics.json").read_text())["test"]) == {
        "sequential", "rating", "denoising",
    }  # fmt: skip
    for name in ("tokenizer.json", "item_codes.json"):
        assert (output / name).read_bytes() == (pretrained / name).read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained, output))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-6)


def test_a_folder_with_other_items_or_codes_is_refused(
    pretrained: Path, toy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    rows = "".join(f"u{u},i{(u + p) % 9}\n" for u in range(9) for p in range(5))
    (other / "interactions.csv").write_text(f"user_id,item_id\n{rows}")
    started = f"--model_name_or_path={pretrained}"
    items, codes = last_words(
        [[f"--dataset={other}", started], [f"--dataset={toy}", "--item_ids=random", started]]
    )
    assert items is not None and "has 120 items, not the 9 of the data set" in items
    assert codes is not None and "go on with --item_ids atomic" in codes


def test_other_users_than_a_folder_knows_are_told_of(
    trained: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = read_tables(toy)
    fewer = tables.interactions.filter(pl.col("user_id") != tables.users["user_id"][0])
    write_tables(tmp_path / "toy", fewer, items=tables.items, users=tables.users)
    for folder, told in ((tmp_path / "toy", True), (toy, False)):
        given = [f"--dataset={folder}", f"--model_name_or_path={trained}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *given])
        notes = train.prepare(read_arguments(), folder).notes
        assert any("other users than here" in note for note in notes) is told


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
