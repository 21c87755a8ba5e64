"""Training, ours against a plain Hugging Face loop, in one run.

python benchmarks/training.py           the table
python benchmarks/training.py --json    and, as the last line, one JSON object

The same model, data and shares: P5's five families as its paper mixes them, over the Musical
Instruments reviews of Amazon 2014 (``--reviews``, looked for beside the repository). Ours is the
loop of train.py. The plain loop is Seq2SeqTrainer over the same examples, shuffled, each rendered
and cut by the tokenizer in the collator and padded to the longest, at the best of some batch sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import SHARED, matmul_speed
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

import train
from p5_t5.arguments import (
    Arguments,
    DataArguments,
    ModelArguments,
    PredictArguments,
    TrainArguments,
)
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.weight_mean import WeightMean
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.mixture import Mixture
from p5_t5.protocol import Protocol

HOME = Path(__file__).resolve().parents[1]
REVIEWS = SHARED / "amazon_musical_instruments" / "reviews_Musical_Instruments_5.json.gz"
# Examples of each family for one review, as P5 draws them.
TASKS = ["sequential=20", "rating=1", "explanation=1", "review=1", "direct=15"]
BATCH_SIZES = (16, 32, 64)
WARM = 3  # steps before the clock starts
Measured = dict[str, float]


def main() -> None:
    """Measures both sides in turn and prints what they reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=Path, default=REVIEWS)
    parser.add_argument("--steps", type=int, default=80, help="of ours, each time")
    parser.add_argument("--examples", type=int, default=1024, help="of the plain loop, each time")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    if options.plain:
        print(json.dumps(plain_loop(options)))
        return
    if not options.reviews.is_file():
        sys.exit(f"{options.reviews}: not here; give the file of the reviews with --reviews")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare_reviews(options)
        results = compare(options)
    if options.json:
        facts = {"torch": torch.__version__, "transformers": transformers.__version__}
        print(json.dumps(results | facts | {"threads": options.threads}))


def prepare_reviews(options: argparse.Namespace) -> None:
    """Writes the data set's tables with its own preparer."""
    preparer = [sys.executable, str(HOME / "data" / "amazon_2014.py")]
    where = ["--reviews", str(options.reviews), "--output", str(options.folder / "reviews")]
    subprocess.run(preparer + where, check=True, capture_output=True)


def arguments_of(options: argparse.Namespace) -> Arguments:
    """What train.py would be started with: its defaults and the shares of P5."""
    return Arguments(
        DataArguments(dataset=str(options.folder / "reviews"), tasks=TASKS),
        ModelArguments(),
        TrainArguments(
            output_dir=str(options.folder / "trained"),
            max_train_steps=10**6,
            num_threads=options.threads,
            report_to="none",
            overwrite=True,
            # The plain loop reads every word.
            word_noise=0.0,
        ),
        PredictArguments(),
        # P5's own templates, without those that ask for lists.
        Protocol(single_target_prompts=True),
    )


def compare(options: argparse.Namespace) -> dict[str, float]:
    """Each side in turn, so that neither has all of the quieter minutes."""
    ours = OurLoop(options)
    speed = matmul_speed()
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, float32\n"
        f"Matrix products of 2048 x 2048: {speed / 1e9:.0f} GFLOP/s\n\n"
        "| loop | examples a step | examples/s | tokens/s | waits | of the matrix speed |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    mine, theirs = [], []
    for size in BATCH_SIZES:
        command = [sys.executable, __file__, f"--plain={size}", f"--folder={options.folder}"]
        command += [f"--examples={options.examples}", f"--threads={options.threads}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        theirs.append(json.loads(done.stdout.splitlines()[-1]))
        show("Seq2SeqTrainer", theirs[-1], speed)
        mine.append(ours.run(options.steps))
        show("ours", mine[-1], speed)
    best, other = (max(side, key=lambda m: m["examples"] / m["seconds"]) for side in (mine, theirs))
    times = {
        f"speedup_{name}": best[name] / best["seconds"] / other[name] * other["seconds"]
        for name in ("examples", "tokens")
    }
    share = best["operations"] / best["seconds"] / speed
    waits = best["waited"] / best["seconds"]
    print(
        f"\nAt the best of each: {times['speedup_examples']:.1f} times the examples and "
        f"{times['speedup_tokens']:.1f} times the tokens a second"
    )
    return times | {"data_wait_share": waits, "matmul_share": share}


def show(name: str, measured: Measured, speed: float) -> None:
    """Prints one line of the table."""
    seconds = measured["seconds"]
    waited = f"{measured['waited'] / seconds:.1%}" if "waited" in measured else ""
    print(
        f"| {name} | {measured['examples'] / measured['steps']:.0f} | "
        f"{measured['examples'] / seconds:.0f} | {measured['tokens'] / seconds:,.0f} | {waited} | "
        f"{measured['operations'] / seconds / speed:.0%} |",
        flush=True,
    )


class OurLoop:
    """The loop of train.py, step by step."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Makes everything that train.py makes before its first step."""
        arguments = arguments_of(options)
        accelerator = train.start(arguments)
        corpus = train.prepare(arguments, Path(arguments.data.dataset))
        model, words, mixture = train.build(arguments, corpus, corpus, accelerator.num_processes)
        mean, collate = WeightMean(model), Collator(words)
        validation = train.judge(arguments, corpus, mean.module, words)
        self.loop = train.Loop(arguments, accelerator, model, mean, collate, mixture, validation)
        self.loop.begin()
        self.steps = self.loop.loader.steps()
        self.config = model.config
        for batches in islice(self.steps, WARM):
            self.loop.step(batches)

    def run(self, count: int) -> Measured:
        """Does so many steps."""
        done, waited = [], 0.0
        began = time.perf_counter()
        for _ in range(count):
            asked = time.perf_counter()
            batches = next(self.steps)
            waited += time.perf_counter() - asked
            self.loop.step(batches)
            done += batches
        seconds = time.perf_counter() - began
        lengths = [
            pair
            for batch in done
            for pair in zip(
                batch["attention_mask"].sum(1).tolist(),
                (batch["labels"] >= 0).sum(1).tolist(),
                strict=True,
            )
        ]
        return summary(self.config, lengths, count, seconds) | {"waited": waited}


def summary(
    config: T5Config, lengths: Sequence[tuple[int, int]], steps: int, seconds: float
) -> Measured:
    """What was done in a time: steps, examples, tokens without padding, necessary operations."""
    return {
        "steps": steps,
        "examples": len(lengths),
        "tokens": sum(source + target for source, target in lengths),
        "operations": sum(necessary_operations(config, *pair) for pair in lengths),
        "seconds": seconds,
    }


def necessary_operations(config: T5Config, source: int, target: int) -> float:
    """Multiplications and additions of one example's matrix products, forward and backward."""
    width, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    encoder = source * (4 * width * inner + 2 * width * ff) + 2 * inner * source**2
    decoder = target * (6 * width * inner + 2 * width * ff) + source * 2 * width * inner
    decoder += inner * target * (target + 1) + 2 * inner * source * target
    output = target * width * config.vocab_size
    forward = config.num_layers * encoder + config.num_decoder_layers * decoder + output
    return 3 * 2 * float(forward)


class Planned(Dataset[list[int]]):
    """The examples of an epoch of the mixture, as rows of its plan."""

    def __init__(self, mixture: Mixture) -> None:
        """Reads the plan."""
        plan = mixture.epoch(0).examples.with_format(None)
        columns = ("task", "template", "user", "position", "draw")
        self.rows = [list(row) for row in zip(*(plan[name] for name in columns), strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[int]:
        return self.rows[index]


class PlainCollator:
    """Renders, cuts and pads a batch, as the tokenizer's own documentation does."""

    def __init__(self, mixture: Mixture, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing is counted yet."""
        self.mixture, self.tokenizer = mixture, tokenizer
        self.lengths: list[list[tuple[int, int]]] = []

    def __call__(self, rows: Sequence[list[int]]) -> dict[str, Any]:
        """A padded batch."""
        prompts = [self.mixture.prompt(*row) for row in rows]
        batch = self.tokenizer(
            [prompt.source for prompt in prompts], padding=True, return_tensors="pt"
        )
        labels = self.tokenizer(
            text_target=[prompt.target for prompt in prompts], padding=True, return_tensors="pt"
        )
        sources, targets = (side["attention_mask"].sum(1).tolist() for side in (batch, labels))
        self.lengths.append(list(zip(sources, targets, strict=True)))
        ids = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        return {**batch, "labels": ids}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Takes the time from the end of the warm-up to the last step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the clock."""
        if state.global_step == WARM:
            self.began = time.perf_counter()
        self.ended = time.perf_counter()


def plain_loop(options: argparse.Namespace) -> Measured:
    """Seq2SeqTrainer at one batch size; in a process of its own, untouched by our settings."""
    torch.set_num_threads(options.threads)
    arguments = arguments_of(options)
    corpus: Corpus = train.prepare(arguments, Path(arguments.data.dataset))
    ours, words, mixture = train.build(arguments, corpus, corpus, 1)
    shape = ["vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"]
    shape += ["num_decoder_layers", "dropout_rate", "decoder_start_token_id"]
    model = T5ForConditionalGeneration(
        T5Config(**{name: getattr(ours.config, name) for name in shape})
    )
    collate, clock = PlainCollator(mixture, words.tokenizer), Clock()
    steps = max(options.examples // options.plain, 8)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(options.folder / "plain"),
            per_device_train_batch_size=options.plain,
            max_steps=WARM + steps,
            learning_rate=1e-3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=Planned(mixture),
        data_collator=collate,
        callbacks=[clock],
    )
    trainer.train()
    # The loader of Trainer is one batch ahead.
    lengths = [pair for batch in collate.lengths[WARM : WARM + steps] for pair in batch]
    return summary(model.config, lengths, steps, clock.ended - clock.began)


if __name__ == "__main__":
    main()
