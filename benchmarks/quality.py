"""The ranking of this project beside named peers: same data, split, catalogue, cores and minutes.

python benchmarks/quality.py --dataset movielens-100k --minutes 10 --seeds 42 43 44 --json
python benchmarks/quality.py --dataset beauty --minutes 120 -- --item_ids collaborative

The last item of each user is the test, the one before it the validation. Every model is fitted on
what is before both, its setting is chosen on validation, and at test it reads the validation item
as a part of the history. Everything after ``--`` goes to train.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import (
    Candidates,
    Histories,
    Integers,
    choose,
    ease,
    item_neighbours,
    popularity,
    rank,
)

from p5_t5.data.sources import find_dataset
from p5_t5.data.splits import leave_one_out
from p5_t5.data.tables import read_tables
from p5_t5.evaluation.evaluator import KEEP_SEEN
from p5_t5.evaluation.metrics import ranking_metrics

HOME = Path(__file__).resolve().parents[1]
SHOWN = ("hr@10", "ndcg@10", "hr@10/keep_seen", "ndcg@10/keep_seen")
PEERS: dict[str, Callable[[Histories], Candidates]] = {
    "popularity": popularity,
    "ease": ease,
    "itemknn": item_neighbours,
}
MODELS = ("ours", *PEERS, "sasrec")
# What this benchmark decides itself; also what would change the split.
FIXED = ("dataset", "max_train_minutes", "seed", "output_dir", "min_interactions", "k_core")
Row = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What all models are given.

    Attributes:
        folder: the data set.
        histories: all interactions of each user.
        minutes: for training, or for choosing a setting.
        keep_seen: choose on validation with the items that a user already has.
        validation_users: judge on so many users of validation.
    """

    folder: Path
    histories: Histories
    minutes: float
    keep_seen: bool
    validation_users: int

    @property
    def before_test(self) -> Histories:
        """What is read at test: all before the last item."""
        return self.histories.without_newest()

    def judged(self) -> Integers:
        """The users of validation, the same ones for all peers, shape (users,)."""
        users = np.random.default_rng(0).permutation(len(self.histories))
        return np.sort(users[: self.validation_users])

    def metrics(self, lists: Integers, lists_keep_seen: Integers) -> Row:
        """The numbers of two sets of ranked lists, seen items excluded and kept."""
        target = self.histories.newest
        kept = ranking_metrics(lists_keep_seen, target)
        found = ranking_metrics(lists, target) | {f"{k}{KEEP_SEEN}": v for k, v in kept.items()}
        return {name: found[name] for name in SHOWN}


def read_contest(options: argparse.Namespace) -> Contest:
    """Reads the data set as train.py does."""
    folder = find_dataset(options.dataset, HOME / "data")
    tables = read_tables(folder)
    histories = leave_one_out(tables).histories
    everything = Histories(histories.offsets, histories.items.astype(np.int64), len(tables.items))
    return Contest(folder, everything, options.minutes, options.keep_seen, options.validation_users)


def run_peer(contest: Contest, candidates: Callable[[Histories], Candidates]) -> Row:
    """Chooses a peer's setting on validation and judges it on test; nothing in it is random."""
    before_test, users = contest.before_test, contest.judged()
    train = before_test.without_newest()
    best = choose(
        candidates(train),
        train.of(users),
        before_test.newest[users],
        keep_seen=contest.keep_seen,
        minutes=contest.minutes,
    )
    lists = [rank(best.scorer, before_test, keep_seen=keep) for keep in (False, True)]
    return contest.metrics(*lists) | {
        "minutes": best.minutes,
        "validation": best.validation,
        "setting": best.setting,
        "tried": best.tried,
    }


def run_ours(contest: Contest, seed: int, options: Sequence[str], output: Path) -> Row:
    """Trains by the command line and reads the metrics of the template best on validation."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "train.py"]
    command += [f"--dataset={contest.folder.resolve()}", f"--output_dir={output}"]
    command += [f"--max_train_minutes={contest.minutes}", f"--seed={seed}"]
    command += ["--keep_seen=true"] if contest.keep_seen else []
    subprocess.run([*command, *options], cwd=HOME, stdout=sys.stderr, check=True)
    metrics = json.loads((output / "metrics.json").read_text("utf-8"))
    template = json.loads((output / "p5.json").read_text("utf-8"))["best_templates"]["sequential"][
        0
    ]
    found = metrics["test"]["sequential"][template]
    assert found["n"] == len(contest.histories)
    return {name: found[name] for name in SHOWN} | {
        "minutes": metrics["protocol"]["minutes"],
        "setting": {"template": template, "options": list(options)},
    }


def run_sasrec(contest: Contest, seed: int, python: str, folder: Path) -> Row:
    """Trains RecTools' SASRec in its own environment; the test items are not handed to it."""
    given, answer = folder / "histories.npz", folder / "lists.npz"
    before_test = contest.before_test
    np.savez(
        given,
        offsets=before_test.offsets,
        items=before_test.items,
        num_items=before_test.num_items,
        judged=contest.judged(),
    )
    command = [python, str(HOME / "benchmarks" / "sasrec.py"), str(given), str(answer)]
    command += [f"--dataset={contest.folder.resolve().name}", f"--minutes={contest.minutes}"]
    command += [f"--seed={seed}", *(["--keep_seen"] if contest.keep_seen else [])]
    call(command)
    with np.load(answer) as found:
        return contest.metrics(found["lists"], found["lists_keep_seen"]) | json.loads(
            str(found["facts"])
        )


def call(command: Sequence[str]) -> None:
    """Runs a program; what it says goes past the results.

    Raises:
        ValueError: it failed.
    """
    if subprocess.run(command, cwd=HOME, stdout=sys.stderr, check=False).returncode:
        raise ValueError(f"{' '.join(command)} failed, see above")


def has_rectools(python: str) -> bool:
    """Whether the interpreter can run SASRec; says what to do if not."""
    code = "import rectools.models, pytorch_lightning"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(
            f"sasrec is left out: {python} has no working RecTools ({reason}); install "
            "benchmarks/requirements-peers.txt into an environment and pass --peers_python PATH",
            file=sys.stderr,
        )
    return not done.returncode


def average(rows: Sequence[Row]) -> Row:
    """The mean of the numbers of several seeds, with their deviation in ``std``."""
    if len(rows) == 1:
        return rows[0]
    numbers = [name for name in (*SHOWN, "minutes", "validation") if name in rows[0]]
    values = {name: np.array([row[name] for row in rows]) for name in numbers}
    return {
        **rows[0],
        **{name: float(column.mean()) for name, column in values.items()},
        "std": {name: float(column.std(ddof=1)) for name, column in values.items()},
        **{name: [row[name] for row in rows] for name in ("setting", "tried") if name in rows[0]},
    }


def table(results: dict[str, Row]) -> str:
    """The results for people to read."""
    head = ("model", "HR@10", "NDCG@10", "HR@10/keep_seen", "NDCG@10/keep_seen", "minutes")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * 5}"]
    for name, row in results.items():
        cells = [f"{row[key]:.4f}" for key in SHOWN]
        if "std" in row:
            cells = [
                f"{cell} ± {row['std'][key]:.4f}" for cell, key in zip(cells, SHOWN, strict=True)
            ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['minutes']:.1f} |")
    lines += [""] + [f"{name}: {json.dumps(row['setting'])}" for name, row in results.items()]
    return "\n".join(lines)


def machine() -> Row:
    """What the numbers were measured with."""
    names = ("torch", "transformers", "accelerate", "numpy", "scipy")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": {"cores": cores, "processor": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
    }


def run(options: argparse.Namespace, train_options: Sequence[str]) -> dict[str, Row]:
    """Runs every model with every seed, one after the other, each with all cores to itself."""
    contest = read_contest(options)
    models = list(options.models)
    if "sasrec" in models and not has_rectools(options.peers_python):
        models.remove("sasrec")
    results: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            print(f"{name} ...", file=sys.stderr, flush=True)
            if name in PEERS:
                results[name] = run_peer(contest, PEERS[name])
                continue
            rows = []
            for seed in options.seeds:
                place = Path(folder) / f"{name}-{seed}"
                place.parent.mkdir(exist_ok=True)
                if name == "ours":
                    rows.append(run_ours(contest, seed, train_options, place))
                else:
                    place.mkdir()
                    rows.append(run_sasrec(contest, seed, options.peers_python, place))
                # Hours may follow: what is done is said at once.
                print(f"{name} {seed}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
            results[name] = average(rows)
    return results


def read_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: what stands before ``--``, and what goes to train.py."""
    own, train = list(argv), []
    if "--" in own:
        own, train = own[: own.index("--")], own[own.index("--") + 1 :]
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="movielens-100k", help="as for train.py")
    add("--minutes", type=float, default=10.0, help="for each model and seed")
    add("--seeds", type=int, nargs="+", default=[42], help="of ours and SASRec")
    add("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which rows")
    add("--keep_seen", action="store_true", help="choose on validation with seen items kept")
    add("--validation_users", type=int, default=3000, help="peers are judged on so many")
    add("--peers_python", default=sys.executable, help="interpreter that has RecTools")
    add("--json", action="store_true", help="end with one JSON object in one line")
    options = parser.parse_args(own)
    for name in FIXED:
        if any(option.split("=")[0] == f"--{name}" for option in train):
            parser.error(f"--{name} after --: it is the same for all models, so give it before")
    return options, train


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, runs the contest and prints it."""
    options, train_options = read_options(sys.argv[1:] if argv is None else argv)
    try:
        results = run(options, train_options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(table(results))
    if options.json:
        facts = {"dataset": options.dataset, "budget": options.minutes, "seeds": options.seeds}
        print(json.dumps(facts | machine() | results))


if __name__ == "__main__":
    main()
