"""The batch job, run as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from p5_t5 import predict
from p5_t5.arguments import BatchArguments
from p5_t5.artifact import Knowledge
from tests.conftest import REPOSITORY

CPU = predict.torch.device("cpu")


def run_job(*options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    environment = dict(os.environ)
    if processes > 1:
        command += ["--multi_gpu", f"--num_processes={processes}"]
        environment["ACCELERATE_USE_CPU"] = "true"
    command += ["-m", "p5_t5.predict"]
    return subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env=environment, check=False,
    )  # fmt: skip


def answers(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("part-*.parquet"))])


def test_every_user_gets_unseen_items_and_a_stopped_job_goes_on(
    trained: Path, tmp_path: Path
) -> None:
    options = [f"--model={trained}", f"--output={tmp_path / 'out'}", "--top_k=7"]
    options.append("--users_per_file=64")
    done = run_job(*options)
    assert done.returncode == 0, done.stderr
    assert "users a second" in done.stdout and "53.96" in done.stdout
    table = answers(tmp_path / "out")
    histories = Knowledge.load(trained).histories
    ids = Knowledge.load(trained).catalogue.item_ids
    assert table["user_id"].to_list() == list(histories.user_ids)
    for number, (items, scores) in enumerate(table.select("item_ids", "scores").rows()):
        seen = {ids[row] for row in histories.state(number).items.tolist()}
        assert len(items) == len(set(items)) == 7 and not seen & set(items)
        assert sorted(scores, reverse=True) == scores

    lost = tmp_path / "out" / "part-00001.parquet"
    kept = tmp_path / "out" / "part-00000.parquet"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    again = run_job(*options)
    assert again.returncode == 0, again.stderr
    assert "files were there already" in again.stdout
    assert kept.stat().st_mtime_ns == written
    assert answers(tmp_path / "out").equals(table)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_processes_share_the_files_out(trained: Path, tmp_path: Path) -> None:
    options = [f"--model={trained}", f"--output={tmp_path / 'out'}", "--top_k=3"]
    done = run_job(*options, "--users_per_file=50", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 2 processes") == 1
    histories = Knowledge.load(trained).histories
    assert f"{histories.num_users} users in" in done.stdout
    assert answers(tmp_path / "out")["user_id"].to_list() == list(histories.user_ids)


def test_users_can_be_listed(trained: Path, tmp_path: Path) -> None:
    known = Knowledge.load(trained).histories.user_ids
    file = tmp_path / "users.txt"
    file.write_text(f"{known[5]}\n\n{known[2]}\n")
    options = BatchArguments(model=str(trained), output=str(tmp_path / "out"), users=str(file))
    job, identity = predict.read_job(options, CPU)
    predict.open_output(job.output, identity)
    assert job.write(0) == 2
    assert answers(tmp_path / "out")["user_id"].to_list() == [known[5], known[2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "--top_k must be at least 1, not 0"),
        ({"beams": 0}, "--beams must be at least 1"),
        ({"template": "2-99"}, "--template 2-99: unknown; known are"),
        ({"users": "nobody.txt"}, "--users nobody.txt: no such file"),
        ({"model": "data/toy"}, "not a folder that train.py wrote"),
    ],
)
def test_what_cannot_be_done_is_said(
    trained: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    given = {"model": str(trained), "output": str(tmp_path)} | options
    with pytest.raises(ValueError, match=message):
        predict.read_job(BatchArguments(**given), CPU)  # type: ignore[arg-type]


def test_jobs_are_never_mixed(trained: Path, tmp_path: Path) -> None:
    given = {"model": str(trained), "output": str(tmp_path / "out")}
    job, identity = predict.read_job(BatchArguments(**given), CPU)
    predict.open_output(job.output, identity)
    predict.open_output(job.output, identity)
    _, other = predict.read_job(BatchArguments(**given, top_k=5), CPU)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another top_k"):
        predict.open_output(job.output, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not a job")
    with pytest.raises(ValueError, match="is not empty and holds no job"):
        predict.open_output(tmp_path / "mine", identity)
