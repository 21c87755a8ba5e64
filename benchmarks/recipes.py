"""One recipe for some minutes, judged on validation alone; prints a row for recipes.md.

python benchmarks/recipes.py --minutes 9 --name "dropout .2" -- --dropout_rate .2

Everything after ``--`` goes to train.py. The clock stops while the model is judged, so that recipes
are compared by what they learn; the test split is never read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import train  # noqa: E402
from p5_t5.arguments import read_arguments  # noqa: E402
from p5_t5.data.sources import find_dataset  # noqa: E402
from p5_t5.evaluation.evaluator import KEEP_SEEN  # noqa: E402
from p5_t5.modeling.collator import Collator  # noqa: E402
from p5_t5.modeling.weight_mean import WeightMean  # noqa: E402

# What is shown of each template, if it has it.
SHOWN = ("hr@10", "ndcg@10", "ndcg@10/candidates", "rmse", "auc")
Found = dict[str, dict[str, dict[str, float]]]


def learn(minutes: float, options: Sequence[str]) -> tuple[Found, int]:
    """Trains by train.py's own loop and judges the reported templates on validation.

    Those that training never shows are among them; texts are not judged.

    Returns:
        The metrics by task and template, and how many steps were made.
    """
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"--max_train_minutes={minutes}", "--num_train_epochs=1000000", "--evaluations=1"]
        fixed += ["--early_stopping_patience=0", "--report_to=none", f"--output_dir={folder}/model"]
        # The parser reads the command line of the program.
        sys.argv = ["train.py", "--eval_examples=1000000", *options, *fixed]
        arguments = read_arguments()
        accelerator = train.start(arguments)
        data = find_dataset(arguments.data.dataset, HOME / "data")
        corpus = train.prepare(arguments, data)
        model, words, mixture = train.build(arguments, corpus, corpus, 1)
        mean = WeightMean(model)
        validation = train.judge(arguments, corpus, mean.module, words)
        collate = Collator(words, arguments.protocol.longest_source)
        loop = train.Loop(arguments, accelerator, model, mean, collate, mixture, validation)
        loop.run()
        tasks = [task for task, _ in corpus.tasks]
        forms = {task.name: {k: a.form for k, a in task.family.answers.items()} for task in tasks}
        asked = [t for t in corpus.reported() if forms.get(t.family, {}).get(t.answer) != "text"]
        validation.calibrate()
        validation.calibrate_repeats()
        found = validation.evaluator.evaluate(
            tasks,
            asked,
            "validation",
            at_most=validation.at_most,
            keep_seen=(validation.keep_seen,),
        )
        return found, loop.progress.step


def row(name: str, steps: int, found: Found) -> str:
    """A row of the table: each metric by the templates that have it."""
    cells = [name, f"{steps:,}"]
    for task, templates in found.items():
        for metric in SHOWN:
            names = (metric, metric + KEEP_SEEN)  # one of them was judged
            values = {id_: m[name] for id_, m in templates.items() for name in names if name in m}
            if values:
                shown = " ".join(f"{id_} {value:.4f}" for id_, value in values.items())
                cells.append(f"{task} {metric}: {shown}")
    return f"| {' | '.join(cells)} |"


def read_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: what stands before ``--``, and what goes to train.py."""
    own, rest = list(argv), []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    parser: Any = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of training alone")
    parser.add_argument("--name", default="default", help="of the recipe")
    return parser.parse_args(own), rest


if __name__ == "__main__":
    given, passed = read_options(sys.argv[1:])
    metrics, done = learn(given.minutes, passed)
    print(row(given.name, done, metrics))
