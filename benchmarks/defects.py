"""What each defect of P5's program is worth alone: the corrected protocol with one switch on.

python benchmarks/defects.py --dataset LASTFM --minutes 4 --json
python benchmarks/defects.py --dataset LASTFM --minutes 4 --switches heldout_item_order

Items are written as P5 writes them, by sequential numbers, since one of the defects is in these.
Every row is trained and judged by train.py with its own switches: what a row reports is what a
user of that program would have reported, leaks included.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quality import HOME, call, machine

from p5_t5.data.sources import find_dataset
from p5_t5.protocol import CORRECTED

SWITCHES = tuple(asdict(CORRECTED))
SHOWN = ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "hr@10/keep_seen", "ndcg@10/keep_seen")
# Of each task the metric that it is first judged by.
FIRST = {"rating": "rmse", "explanation": "bleu-4", "review": "rmse", "direct": "hr@10/candidates"}
FIXED = ("dataset", "output_dir", "max_train_minutes", "protocol")

Row = dict[str, Any]


def options_of(name: str) -> list[str]:
    """The options of train.py that make one row."""
    if name == "atomic codes":
        return ["--item_ids=atomic"]
    own = ["--item_ids=sequential"]
    if name == "paper":
        return [*own, "--protocol=paper"]
    return own if name == "corrected" else [*own, f"--{name}=true"]


def train(options: argparse.Namespace, name: str, folder: Path) -> Row:
    """Trains one row and reads its report.

    Returns:
        ``sequential`` (template → metric), ``first`` (further task → template → its first metric),
        ``audit`` and ``minutes``.
    """
    output = folder / name.replace(" ", "-")
    command = [sys.executable, "-m", "accelerate.commands.launch", "train.py"]
    command += [f"--dataset={find_dataset(options.dataset, HOME / 'data').resolve()}"]
    command += [f"--output_dir={output}", f"--max_train_minutes={options.minutes}"]
    call([*command, *options_of(name), *shlex.split(options.train_args)])
    metrics = json.loads((output / "metrics.json").read_text("utf-8"))
    test = metrics["test"]
    return {
        "sequential": {
            id_: {key: row[key] for key in SHOWN}
            for id_, row in test.get("sequential", {}).items()
            if SHOWN[0] in row
        },
        "first": {
            task: {id_: row[key] for id_, row in test[task].items() if key in row}
            for task, key in FIRST.items()
            if task in test
        },
        "audit": metrics["protocol"]["audit"],
        "minutes": metrics["protocol"]["minutes"],
    }


def table(results: dict[str, Row]) -> str:
    """The templates of the sequential task that every row has, one line a row and template."""
    lines = [
        f"| switched on | template | {' | '.join(SHOWN)} |",
        f"|---|---|{'---:|' * len(SHOWN)}",
    ]
    shared = set.intersection(*(set(row["sequential"]) for row in results.values()))
    for name, row in results.items():
        for id_, values in row["sequential"].items():
            if id_ in shared:
                cells = " | ".join(f"{values[key]:.4f}" for key in SHOWN)
                lines.append(f"| {name} | {id_} | {cells} |")
    for name, row in results.items():
        for task, values in row["first"].items():
            told = ", ".join(f"{id_} {value:.4f}" for id_, value in values.items())
            lines.append(f"{name}: {task} {FIRST[task]} {told}")
    return "\n".join(lines)


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser: Any = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="movielens-100k", help="as for train.py")
    add("--minutes", type=float, default=4.0, help="of training for each row")
    add("--switches", nargs="*", default=SWITCHES, choices=SWITCHES, help="rows of their own")
    add("--train_args", default="", help='more options of train.py, in one text: "--seed 1"')
    add("--json", action="store_true", help="end with one JSON object in one line")
    options = parser.parse_args(argv)
    for name in FIXED:
        if any(word.split("=")[0] == f"--{name}" for word in shlex.split(options.train_args)):
            parser.error(f"--{name} in --train_args: give it to this program itself")
    return options  # type: ignore[no-any-return]


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, trains every row and prints them."""
    options = read_options(argv)
    results: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in ("atomic codes", "corrected", *options.switches, "paper"):
                print(f"{name} ...", file=sys.stderr, flush=True)
                results[name] = train(options, name, Path(folder))
        except ValueError as error:
            sys.exit(f"error: {error}")
    print(table(results))
    if options.json:
        print(json.dumps({"dataset": options.dataset, "rows": results} | machine()))


if __name__ == "__main__":
    main()
