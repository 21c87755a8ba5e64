"""The tables of P5's paper for one data set: every family that it supports, beside baselines.

python benchmarks/p5_table.py --dataset movielens-100k --max_train_minutes 10 --json
python benchmarks/p5_table.py --reuse outputs/movielens-100k
python benchmarks/p5_table.py --dataset data/toy --train_args "--item_ids collaborative"

A seen and a held-out prompt of each of P5's pairs are judged on the test split. Means, popularity,
majorities and frequent texts come from the run's own report; EASE and biased matrix factorisation
are fitted here on the same training interactions, with settings chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from factorisation import Stars, choose_factorisation
from peers import Histories, choose, ease, rank
from quality import HOME, call, machine

from p5_t5.artifact import Knowledge
from p5_t5.data.sources import find_dataset
from p5_t5.data.splits import Part, Split
from p5_t5.data.tables import read_tables
from p5_t5.evaluation.evaluator import CANDIDATES, among_candidates
from p5_t5.evaluation.metrics import ranking_metrics, rating_metrics
from p5_t5.model_card import metrics_tables
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.tasks import TASKS
from p5_t5.prompting.templates import AnswerKind, PromptTemplate

# README's presets, by the columns that a data set must have, of several the first.
PRESETS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (
        frozenset({"review", "rating"}),
        (
            *("--tasks", "sequential=3", "rating=7", "explanation=1", "review=2", "direct=2"),
            *("zero-shot", "--vocab_size=6000", "--learning_rate=5e-4"),
            *("--early_stopping_patience=0", "--eval_examples=1000"),
            *("--metric_for_best_model", "rating/rmse", "review/rmse"),
        ),
    ),
    (
        frozenset({"rating"}),
        (
            *("--tasks", "sequential=4", "rating=5", "explanation=1", "direct=3"),
            "--eval_examples=200",  # validating all families on more would take much of the time
        ),
    ),
    (
        frozenset(),
        ("--tasks", "sequential=5", "direct=3", "--eval_examples=200"),
    ),
)
RANKING = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
SHOWN = (
    *RANKING,
    *(f"{name}{CANDIDATES}" for name in RANKING),
    *("rmse", "mae", "rmse/decoded", "mae/decoded"),
    *("accuracy", "precision", "recall", "f1", "auc"),
    *("bleu-2", "bleu-4", "rouge-1", "rouge-2", "rouge-l", "feature_match"),
    *("distinct", "distinct_per_item", "own_quotes", "n", f"n{CANDIDATES}"),
)
# EASE holds a dense matrix of items by items.
MOST_ITEMS = 15_000
FIXED = ("dataset", "output_dir", "max_train_minutes")

Row = dict[str, float]
Report = dict[str, Any]


def train(
    options: argparse.Namespace, minutes: float, output: Path, extra: Sequence[str] = ()
) -> None:
    """Trains all families by the command line; ``output`` becomes the model's folder.

    Raises:
        ValueError: the data set is not there, or training failed.
    """
    dataset = find_dataset(options.dataset, HOME / "data").resolve()
    known = set(read_tables(dataset).interactions.columns)
    preset = next(options for needs, options in PRESETS if needs <= known)
    command = [sys.executable, "-m", "accelerate.commands.launch", "train.py"]
    command += [f"--dataset={dataset}", f"--output_dir={output}"]
    command += [f"--max_train_minutes={minutes}", *preset, *shlex.split(options.train_args)]
    if "paper" in extra:
        # Its epochs say how often a family is drawn.
        command = [word.split("=")[0] if word.split("=")[0] in TASKS else word for word in command]
    call([*command, *extra])


class Peers:
    """EASE and biased matrix factorisation on the interactions that a model was trained with."""

    def __init__(self, known: Knowledge, minutes: float) -> None:
        """Keeps what they are fitted on.

        Args:
            known: the trained model's data.
            minutes: for choosing the setting of each.
        """
        self.known, self.minutes = known, minutes
        histories = known.histories
        self.split = Split(histories, texts={}, tied_users=0, tied_targets=0)
        items = histories.items.astype(np.int64)
        everything = Histories(histories.offsets, items, len(known.catalogue))
        self.target, self.before_test = everything.newest, everything.without_newest()

    def ease(self) -> tuple[Row, Row]:
        """Metrics over the whole catalogue and among the candidates."""
        before = self.before_test
        train = before.without_newest()
        best = choose(ease(train), train, before.newest, keep_seen=False, minutes=self.minutes)
        print(f"ease: {best.setting}", file=sys.stderr)
        whole = ranking_metrics(rank(best.scorer, before, keep_seen=False), self.target)
        drawn = Candidates(
            self.split, len(self.known.catalogue), self.known.ratings, self.known.settings
        )
        ranked = []
        for user, item in enumerate(self.target.tolist()):
            row = drawn.among(user, item)
            scores = np.asarray(best.scorer(before.of(np.array([user])))).ravel()[row]
            ranked.append(row[np.argsort(-scores, kind="stable")])
        return whole, among_candidates(ranked, self.target.astype(np.int32))

    def stars(self, part: Part) -> Stars:
        """The known ratings of one part."""
        users, _ = self.split.positions(part)
        rows = self.split.rows(part)
        rows, users = (array[self.split.known("rating")[rows]] for array in (rows, users))
        histories = self.split.histories
        values = histories.ratings[rows].astype(np.float64)
        return Stars((users, histories.items[rows].astype(np.int64)), values)

    def factorisation(self) -> Row:
        """Metrics of biased matrix factorisation on the ratings of the test split."""
        sizes = self.known.histories.num_users, len(self.known.catalogue)
        best = choose_factorisation(
            self.stars("train"), self.stars("validation"), *sizes, seed=0, minutes=self.minutes
        )
        print(f"biased_mf: {best.setting}", file=sys.stderr)
        test = self.stars("test")
        return rating_metrics(best.predict(test.pairs), test.values)


def add_peers(metrics: Report, known: Knowledge, minutes: float) -> None:
    """Puts the peers' metrics beside the other baselines of metrics.json."""
    peers = Peers(known, minutes)
    judged = list(_judged(metrics))
    ranking = [(task, kind) for task, kind, answer in judged if _ranks(answer)]
    if ranking and len(known.catalogue) > MOST_ITEMS:
        print(f"ease is left out: more than {MOST_ITEMS:,} items", file=sys.stderr)
    elif ranking:
        whole, among = peers.ease()
        for task, kind in ranking:
            items = TASKS[task].family.answers[kind].form == "item"
            _baselines(metrics, task, kind)["ease"] = whole if items else among
    rating = [
        (task, kind)
        for task, kind, answer in judged
        if answer.form == "stars" and _needs(known, task, kind) == {"rating"}
    ]
    if rating:
        found = peers.factorisation()
        for task, kind in rating:
            _baselines(metrics, task, kind)["biased_mf"] = found


def _judged(metrics: Report) -> Iterator[tuple[str, str, AnswerKind]]:
    for task, kinds in metrics["kinds"].items():
        for kind, ids in kinds.items():
            if ids:
                yield task, kind, TASKS[task].family.answers[kind]


def _ranks(answer: AnswerKind) -> bool:
    return answer.form in ("item", "choice") or answer.proposes == "item"


def _needs(known: Knowledge, task: str, kind: str) -> frozenset[str]:
    """The columns that all templates of a kind must know of an interaction."""
    own = [t.needs for t in known.templates if (t.family, t.answer) == (task, kind)]
    return frozenset.intersection(*own)


def _baselines(metrics: Report, task: str, kind: str) -> dict[str, Row]:
    rows: dict[str, Row] = metrics["baselines"].setdefault(task, {}).setdefault(kind, {})
    return rows


def summary(metrics: Report, known: Knowledge) -> Report:
    """What the tables come to.

    Returns:
        ``heldout_loss_percent`` (family → held-out template → its seen twin, the metric and how
        much worse it is), ``distinct_per_item`` (of explanations, by template), ``rating_rmse`` (by
        template, expected and decoded stars) and ``review_rmse_below_mean_percent`` (by template,
        against the mean star of training).
    """
    test = metrics["test"]
    found: Report = {"heldout_loss_percent": heldout_losses(metrics, known.templates)}
    found["distinct_per_item"] = {
        id_: row["distinct_per_item"]
        for id_, row in test.get("explanation", {}).items()
        if "distinct_per_item" in row
    }
    found["rating_rmse"] = {
        id_: {"expected": row["rmse"], "decoded": row["rmse/decoded"]}
        for id_, row in test.get("rating", {}).items()
        if "rmse" in row
    }
    means = metrics["baselines"].get("review", {}).get("stars", {})
    found["review_rmse_below_mean_percent"] = {
        id_: 100 * (1 - row["rmse"] / means["global_mean"]["rmse"])
        for id_, row in test.get("review", {}).items()
        if "rmse" in row
    }
    return found


def heldout_losses(metrics: Report, templates: Sequence[PromptTemplate]) -> Report:
    """How much worse, in percent, each held-out template does than the seen one most like it.

    Alike are templates of one family, kind of answer and target; of several, the one whose slots
    differ least. A family without such a pair has no entry; a loss below 0 is a gain.
    """
    losses: Report = {}
    for task, kind, answer in _judged(metrics):
        rows = metrics["test"][task]
        own = [t for t in templates if t.family == task and t.id in metrics["kinds"][task][kind]]
        name, higher = answer.metric
        for template in own:
            twins = [t for t in own if not t.heldout and t.target == template.target]
            if not template.heldout or not twins:
                continue
            twin = min(twins, key=lambda t: len(t.slots ^ template.slots))
            seen, heldout = rows[twin.id].get(name), rows[template.id].get(name)
            if seen and heldout is not None:
                loss = 100 * (heldout / seen - 1) * (-1 if higher else 1)
                losses.setdefault(task, {})[template.id] = {
                    "seen": twin.id,
                    "metric": name,
                    "loss": loss,
                }
    return losses


def paper_report(folder: Path, minutes: float | None) -> tuple[Report, str]:
    """Reads a trained model's metrics.

    Args:
        folder: what train.py wrote.
        minutes: for the peers; without it only the run's own baselines stand beside it.

    Returns:
        Family → template → metric, with ``baselines`` (family → kind of answer → name → metric),
        ``heldout``, ``summary`` and ``protocol``; and the tables to read.

    Raises:
        ValueError: the folder is no trained model, or one of before these metrics.
    """
    known = Knowledge.load(folder)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    missing = [name for name in ("test", "kinds", "baselines") if name not in metrics]
    if missing:
        raise ValueError(f"{folder / 'metrics.json'} has no {missing[0]!r}: train the model anew")
    if minutes is not None:
        add_peers(metrics, known, minutes)
    heldout = {
        task: frozenset(t.id for t in known.templates if t.family == task and t.heldout)
        for task in metrics["test"]
    }
    facts = summary(metrics, known)
    text = f"{metrics_tables(metrics, heldout)}\n\n{summary_lines(facts)}"
    report: Report = {
        task: {id_: _chosen(row) for id_, row in rows.items()}
        for task, rows in metrics["test"].items()
    }
    return report | {
        "baselines": {
            task: {
                kind: {name: _chosen(row) for name, row in rows.items()}
                for kind, rows in kinds.items()
            }
            for task, kinds in metrics["baselines"].items()
        },
        "heldout": {
            task: sorted(ids & metrics["test"][task].keys()) for task, ids in heldout.items()
        },
        "summary": facts,
        "newcomers": metrics.get("newcomers", {}),
        "protocol": metrics["protocol"],
    }, text


def _chosen(row: Mapping[str, float]) -> Row:
    return {name: row[name] for name in SHOWN if name in row}


def summary_lines(facts: Report) -> str:
    """The summary to read."""
    lines = [
        f"{task}: {found['metric']} of held-out {id_} is "
        f"{_percent(found['loss'], 'worse', 'better')} than that of {found['seen']}"
        for task, own in facts["heldout_loss_percent"].items()
        for id_, found in own.items()
    ]
    lines += [
        f"explanation: {id_} writes {value:.3f} different texts per item"
        for id_, value in facts["distinct_per_item"].items()
    ]
    lines += [
        f"rating: RMSE of {id_} {row['expected']:.4f} by expected stars, {row['decoded']:.4f} by "
        "decoded ones"
        for id_, row in facts["rating_rmse"].items()
    ]
    lines += [
        f"review: RMSE of {id_} is {_percent(value, 'below', 'above')} that of the mean star"
        for id_, value in facts["review_rmse_below_mean_percent"].items()
    ]
    return "\n".join(f"- {line}" for line in lines)


def _percent(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f}% {positive if value >= 0 else negative}"


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="movielens-100k", help="as for train.py")
    add("--max_train_minutes", type=float, default=10.0, help="of training")
    add(
        "--paper_minutes",
        type=float,
        default=0.0,
        help="also train so long with --protocol paper; 0: not at all",
    )
    add("--peer_minutes", type=float, default=2.0, help="for choosing the setting of each peer")
    add("--train_args", default="", help='more options of train.py, in one text: "--seed 1"')
    add("--reuse", type=Path, help="a trained model's folder, to be read instead of training one")
    add("--output_dir", type=Path, help="keeps the trained model; with -paper added, the second")
    add("--json", action="store_true", help="end with one JSON object in one line")
    options = parser.parse_args(argv)
    for name in FIXED:
        if any(word.split("=")[0] == f"--{name}" for word in shlex.split(options.train_args)):
            parser.error(f"--{name} in --train_args: give it to this program itself")
    return options


def run(options: argparse.Namespace) -> Report:
    """Trains what is to be trained, prints the tables and returns them."""
    with tempfile.TemporaryDirectory() as temporary:
        output = (options.output_dir or Path(temporary) / "model").resolve()
        if options.reuse is None:
            train(options, options.max_train_minutes, output)
        report, text = paper_report(options.reuse or output, options.peer_minutes)
        print(text)
        if options.paper_minutes > 0:
            paper = output.with_name(f"{output.name}-paper")
            train(options, options.paper_minutes, paper, ["--protocol", "paper"])
            # That protocol has splits of its own, which the peers here don't know.
            report["paper"], text = paper_report(paper, None)
            print(f"\n## The protocol of the paper\n\n{text}")
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, makes the tables and prints them."""
    options = read_options(argv)
    try:
        report = run(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(report | {"dataset": report["protocol"]["dataset"]} | machine()))


if __name__ == "__main__":
    main()
