"""Train a P5: arguments, data, prompts, model, loop, evaluation, save.

    accelerate launch train.py                       MovieLens-100K, fetched on first use
    accelerate launch train.py --dataset data/toy    the small made world, under a minute
    accelerate launch train.py --help                everything that can be set
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

import p5_t5  # noqa: F401 - registers the pipeline
from p5_t5.arguments import DataArguments, ModelArguments, PredictArguments, TrainArguments
from p5_t5.artifact import Knowledge, replace_folder, save_artifact
from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import assign_item_ids
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import read_tables
from p5_t5.evaluation.audit import audit, baselines
from p5_t5.evaluation.evaluator import Evaluator, best_templates
from p5_t5.model_card import metrics_tables, model_card, protocol_lines
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration, build_model
from p5_t5.modeling.tokenizer import (
    WordTokenizer,
    add_item_tokens,
    load_tokenizer,
    train_tokenizer,
    word_starts,
)
from p5_t5.prompting.explanations import derive_explanations
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.prompter import Prompter, PromptSettings
from p5_t5.prompting.tasks import TASKS, Task, read_prompts, usable
from p5_t5.prompting.templates import PromptTemplate

DEFAULT_MINUTES = 10.0
# The tokenizer learns from so many rendered examples.
TOKENIZER_EXAMPLES = 20_000


@dataclass
class Arguments:
    """The four groups of the command line."""

    data: DataArguments
    model: ModelArguments
    train: TrainArguments
    predict: PredictArguments


@dataclass
class World:
    """Everything that is known before the first step."""

    name: str
    split: Split
    catalogue: Catalogue
    prompter: Prompter
    templates: list[PromptTemplate]
    tasks: list[tuple[Task, float]]
    ratings: list[float]


@dataclass
class Progress:
    """How far a run is; saved in every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    best: float = math.nan
    best_step: int = 0
    waited: int = 0
    done: bool = False

    def state_dict(self) -> dict[str, Any]:
        """For ``Accelerator.register_for_checkpointing``."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For ``Accelerator.register_for_checkpointing``."""
        for name, value in state.items():
            setattr(self, name, value)


def main() -> None:
    """Runs the whole story."""
    arguments = read_arguments()
    accelerator = start(arguments)
    say = accelerator.print
    with accelerator.main_process_first():
        folder = find_dataset(arguments.data.dataset)
    world = prepare(arguments, folder, say)
    output = Path(arguments.train.output_dir or Path("outputs") / world.name)
    model, words, mixture = build(arguments, world)
    say(
        f"model: {model.num_parameters():,} parameters, {len(words.tokenizer):,} tokens, "
        f"{len(world.catalogue):,} items as {arguments.data.item_ids} codes"
    )
    knowledge = Knowledge(
        name=world.name,
        catalogue=world.catalogue,
        histories=world.split.histories,
        templates=world.templates,
        settings=world.prompter.settings,
        ratings=world.ratings,
        best_templates={},
        beams=arguments.predict.beams,
    )
    predictor = knowledge.predictor(model, words.tokenizer)
    predictor.batch_size = arguments.predict.eval_batch_size
    evaluator = Evaluator(predictor, world.prompter, world.split)
    loop = Loop(arguments, accelerator, model, words, mixture, evaluator, world, output)
    progress = loop.run()
    if accelerator.is_main_process:
        knowledge = replace(knowledge, best_templates=loop.order_templates())
        metrics = report(arguments, world, evaluator, progress, accelerator.num_processes)
        heldout = heldout_templates(world)
        card = model_card(world.name, metrics, heldout, rendered_examples(world))
        save_artifact(output, model, words.tokenizer, knowledge, metrics, card)
        loop.clear()
        print(f"\nTest\n\n{metrics_tables(metrics, heldout)}\n")
        print(f"Protocol\n\n{protocol_lines(metrics['protocol'])}\n")
        show_recommendations(output, world.split, arguments)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def read_arguments() -> Arguments:
    """Reads and checks the command line."""
    parser = HfArgumentParser(
        (DataArguments, ModelArguments, TrainArguments, PredictArguments),  # type: ignore[arg-type]
        description="Train a P5 and report its test metrics.",
    )
    data, model, train, predict = parser.parse_args_into_dataclasses()
    limits = (train.num_train_epochs, train.max_train_steps, train.max_train_minutes)
    if all(limit is None for limit in limits):
        train.max_train_minutes = DEFAULT_MINUTES
    for name in ("num_train_epochs", "max_train_steps", "max_train_minutes"):
        limit = getattr(train, name)
        if limit is not None and not limit > 0:
            raise ValueError(f"--{name} must be above 0, not {limit}")
    if train.report_to not in ("tensorboard", "none"):
        raise ValueError(f"--report_to must be tensorboard or none, not {train.report_to!r}")
    return Arguments(data, model, train, predict)


def start(arguments: Arguments) -> Accelerator:
    """Starts accelerate, with all cores and one seed."""
    train = arguments.train
    precision = train.mixed_precision
    if precision == "auto":
        gpu = torch.cuda.is_available()
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    output = train.output_dir or str(Path("outputs") / Path(arguments.data.dataset).name)
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        log_with=None if train.report_to == "none" else train.report_to,
        project_config=ProjectConfiguration(project_dir=f"{output}.run", logging_dir=f"{output}.run"),
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and accelerator.num_processes == 1:
        raise RuntimeError(
            f"{world_size} processes were started but accelerate sees one, so they would overwrite "
            "each other; on CPUs start them with ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes N train.py"
        )
    # accelerate launch leaves one thread to each process.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max((cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(train.num_threads or share)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    set_seed(train.seed)
    return accelerator


def find_dataset(dataset: str) -> Path:
    """The folder of a data set; one with a preparer here is prepared on first use."""
    folder = Path(dataset)
    if folder.is_dir():
        return folder
    home = Path(__file__).resolve().parent / "data"
    prepared = home / dataset
    if prepared.is_dir():
        return prepared
    script = home / f"{dataset.replace('-', '_')}.py"
    if script.is_file():
        print(f"{dataset} is not here yet: running data/{script.name}", flush=True)
        subprocess.run([sys.executable, str(script)], check=True)
        return prepared
    names = sorted(path.stem.replace("_", "-") for path in home.glob("*.py"))
    raise ValueError(
        f"--dataset {dataset}: neither a folder nor a preparer under data/ (there are "
        f"{', '.join(names)})"
    )


def prepare(arguments: Arguments, folder: Path, say: Any) -> World:
    """Reads, checks and splits the data; numbers the items; loads the prompts."""
    options = arguments.data
    tables = read_tables(
        folder, min_interactions=options.min_interactions, k_core=options.k_core
    )
    for note in tables.notes:
        say(f"{tables.name}: {note}")
    split = leave_one_out(tables)
    offsets, items = split.train_histories()
    codes = assign_item_ids(
        options.item_ids,
        offsets,
        items,
        len(tables.items),
        seed=arguments.train.seed,
        branching=options.branching,
    )
    catalogue = Catalogue(tables.items, codes)
    say(
        f"{tables.name}: {split.histories.num_users:,} users, {len(catalogue):,} items, "
        f"{len(split.histories.items):,} interactions; equal timestamps touch "
        f"{split.tied_users / split.histories.num_users:.1%} of users, and decide the held-out "
        f"items of {split.tied_targets / split.histories.num_users:.1%} (file order is kept)"
    )
    settings = PromptSettings(
        options.max_history, options.recent, options.max_recent, options.like_threshold
    )
    prompter = Prompter(catalogue, settings)
    tasks = read_tasks(options.tasks)
    if not any(split.texts.get("explanation", [])) and any(t.form == "text" for t, _ in tasks):
        split = derive_explanations(split, catalogue, options.like_threshold)
        if split.derived_explanations:
            say(f"{tables.name}: no written explanations; they are derived from facts")
    templates, notes = usable(
        read_prompts(options.prompts), prompter.available(split.histories, split.texts)
    )
    for note in notes:
        say(note)
    tasks = [task for task in tasks if possible(task[0], split, templates.values(), say)]
    if not tasks:
        raise ValueError(f"{folder}: no task of {', '.join(options.tasks)} can be learnt from it")
    train_ratings = split.histories.ratings[split.rows("train")]
    ratings = np.unique(train_ratings[~np.isnan(train_ratings)]).tolist()
    return World(
        tables.name, split, catalogue, prompter, list(templates.values()), tasks, ratings
    )


def read_tasks(texts: Sequence[str]) -> list[tuple[Task, float]]:
    """Reads NAME=SHARE pairs."""
    tasks = []
    for text in texts:
        name, _, share = text.partition("=")
        if name not in TASKS:
            raise ValueError(f"--tasks: unknown task {name!r}; there are {', '.join(TASKS)}")
        try:
            tasks.append((TASKS[name], float(share or 1)))
        except ValueError as error:
            raise ValueError(f"--tasks {text}: the share must be a number") from error
    return [(task, share) for task, share in tasks if share > 0]


def possible(task: Task, split: Split, templates: Any, say: Any) -> bool:
    """Whether a data set can teach a task; says why where it can't."""
    seen = any(t.family == task.name and not t.heldout for t in templates)
    rows = len(task.examples(split, "train")[0])
    if seen and rows:
        return True
    reason = f"no training row has a {task.needs}" if not rows else "no template can be filled"
    say(f"task {task.name} left out: {reason}")
    return False


def build(arguments: Arguments, world: World) -> tuple[P5ForConditionalGeneration, WordTokenizer, Mixture]:
    """Makes tokenizer, model and mixture."""
    options = arguments.model
    codes = world.catalogue.codes

    def mix(encode: Any) -> Mixture:
        return Mixture(
            world.split,
            world.prompter,
            encode,
            world.tasks,
            world.templates,
            tokens_per_batch=arguments.train.tokens_per_batch,
            seed=arguments.train.seed,
        )

    if options.model_name_or_path is None:
        # Words that become item tokens would only fill the vocabulary.
        added = set(world.catalogue.code_texts) if codes.new_tokens else set()
        prompts = mix(str.split).sample(TOKENIZER_EXAMPLES)
        texts = (text for prompt in prompts for text in (prompt.source, prompt.target))
        plain = (" ".join(w for w in text.split() if w not in added) for text in texts)
        tokenizer = train_tokenizer(plain, options.vocab_size)
    else:
        tokenizer = load_tokenizer(options.model_name_or_path)
    add_item_tokens(tokenizer, codes)
    config = P5Config(
        vocab_size=len(tokenizer),
        d_model=options.d_model,
        d_ff=options.d_ff,
        d_kv=options.d_kv,
        num_heads=options.num_heads,
        num_layers=options.num_layers,
        num_decoder_layers=options.num_decoder_layers,
        dropout_rate=options.dropout_rate,
        decoder_start_token_id=tokenizer.pad_token_id,
        whole_word_embeddings=options.whole_word_embeddings,
        tie_lm_head=options.tie_lm_head,
    )
    model = build_model(config, options.model_name_or_path)
    model.resize_vocabulary(len(tokenizer))
    model.set_word_starts(word_starts(tokenizer, codes))
    words = WordTokenizer(tokenizer)
    return model, words, mix(words.encode)


class Loop:
    """The training loop: steps, validation, checkpoints."""

    def __init__(
        self,
        arguments: Arguments,
        accelerator: Accelerator,
        model: P5ForConditionalGeneration,
        words: WordTokenizer,
        mixture: Mixture,
        evaluator: Evaluator,
        world: World,
        output: Path,
    ) -> None:
        """Prepares model and optimiser, and looks for an earlier run."""
        self.options, self.keep_seen = arguments.train, arguments.predict.keep_seen
        self.accelerator, self.plain_model = accelerator, model
        self.mixture, self.evaluator, self.world = mixture, evaluator, world
        self.collate = Collator(words)
        self.folder = output.with_name(f"{output.name}.run")
        self.progress = Progress()
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.options.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=self.options.learning_rate,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(self.progress)
        self.settings = json.dumps(
            {**asdict(arguments.data), **asdict(arguments.model), **self._fixed(arguments.train)},
            indent=2,
        )
        self._open_folder()
        self.sums = torch.zeros(len(mixture.tasks), 2, device=accelerator.device)

    @staticmethod
    def _fixed(train: TrainArguments) -> dict[str, Any]:
        """What a resumed run must have in common with its beginning."""
        names = ("num_train_epochs", "max_train_steps", "max_train_minutes", "learning_rate",
                 "warmup_ratio", "weight_decay", "max_grad_norm", "tokens_per_batch",
                 "gradient_accumulation_steps", "seed", "evaluations", "eval_examples",
                 "metric_for_best_model")  # fmt: skip
        return {name: getattr(train, name) for name in names}

    def _open_folder(self) -> None:
        """Refuses to lose or to mix up an unfinished run."""
        checkpoints = self._checkpoints()
        if self.options.resume and not checkpoints:
            raise ValueError(f"--resume: {self.folder} has no checkpoint to go on from")
        if checkpoints and not self.options.resume and not self.options.overwrite:
            raise ValueError(
                f"{self.folder} holds checkpoints of an unfinished run: go on with --resume, or "
                "start anew with --overwrite"
            )
        settings = self.folder / "settings.json"
        if self.options.resume:
            before, now = json.loads(settings.read_text()), json.loads(self.settings)
            for name in before:
                if before[name] != now[name]:
                    raise ValueError(
                        f"--resume: {name} was {before[name]!r} when the run began and is "
                        f"{now[name]!r} now"
                    )
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process and not self.options.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            settings.write_text(self.settings + "\n")
        self.accelerator.wait_for_everyone()
        if self.options.report_to != "none":
            self.accelerator.init_trackers("tensorboard")

    def run(self) -> Progress:
        """Trains to the limit, or until validation stops improving; leaves the best weights."""
        if self.options.resume:
            newest = self._checkpoints()[-1]
            self.accelerator.load_state(str(newest))
            self.accelerator.print(f"going on at step {self.progress.step:,}, from {newest}")
        self.began = time.monotonic() - self.progress.seconds
        if not self.progress.done:
            with self._bar() as bar:
                for batches in self._steps():
                    self._step(batches, bar)
                    if self._finished():
                        break
        best = self.folder / "best.safetensors"
        self.accelerator.wait_for_everyone()
        if best.exists():
            self.plain_model.load_state_dict(load_file(best), strict=False)
        return self.progress

    def _steps(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """The batches of each step of this process, from the step where the run stands."""
        size = self.accelerator.num_processes * self.options.gradient_accumulation_steps
        skip, number = self.progress.step, 0
        while True:
            epoch = self.mixture.epoch(number)
            steps = -(-len(epoch.batches) // size)
            if number == 0:
                self.steps_an_epoch = steps
            number += 1
            if skip >= steps:
                skip -= steps
                continue
            # The last step of an epoch is filled up from its beginning.
            batches = (epoch.batches + epoch.batches[: size - 1])[skip * size : steps * size]
            own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
            skip = 0
            loader = DataLoader(epoch.examples, batch_sampler=own, collate_fn=self.collate)  # type: ignore[arg-type]
            group: list[dict[str, torch.Tensor]] = []
            for batch in loader:
                group.append(batch)
                if len(group) == self.options.gradient_accumulation_steps:
                    yield group
                    group = []

    def _share(self) -> float:
        """How much of the run is over, 0 to 1; the same in all processes."""
        options = self.options
        self.progress.seconds = time.monotonic() - self.began
        shares = [0.0]
        if options.max_train_steps is not None:
            shares.append(self.progress.step / options.max_train_steps)
        if options.num_train_epochs is not None:
            total = max(round(options.num_train_epochs * self.steps_an_epoch), 1)
            shares.append(self.progress.step / total)
        if options.max_train_minutes is not None:
            shares.append(self.progress.seconds / (60 * options.max_train_minutes))
            if self.accelerator.num_processes > 1:
                shares = broadcast_object_list([max(shares)])
        return min(max(shares), 1.0)

    def _rate(self, share: float) -> float:
        """Linear warm-up, then linear decay to zero."""
        warmup = self.options.warmup_ratio
        factor = share / warmup if share < warmup else (1 - share) / (1 - warmup)
        # The first step of a run would otherwise have no rate at all.
        return self.options.learning_rate * max(factor, 1e-3)

    def _step(self, batches: Sequence[Mapping[str, torch.Tensor]], bar: Any) -> None:
        share = self._share()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(share)
        for batch in batches:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(self._loss(batch))
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(
                        self.model.parameters(), self.options.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.progress.step += 1
        share = self._share()
        self._show(bar, share)
        due = int(share * self.options.evaluations)
        if due > self.progress.evaluations or share >= 1:
            self.progress.evaluations = due
            self._validate(bar)
            self._save()
        elif self.options.save_steps and self.progress.step % self.options.save_steps == 0:
            self._save()

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of the target's tokens; sums by task are kept for the log."""
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        labels = batch["labels"]
        logits = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=self.plain_model._shift_right(labels),
        ).logits
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="none"
        ).view_as(labels)
        counts = (labels >= 0).sum(dim=1)
        sums = losses.sum(dim=1)
        self.sums.index_add_(0, batch["task"], torch.stack([sums, counts], dim=1).detach())
        return sums.sum() / counts.sum()

    def _bar(self) -> Any:
        options = self.options
        hidden = not self.accelerator.is_main_process
        if options.max_train_minutes is not None:
            form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
            return tqdm(total=100, disable=hidden, bar_format=form, desc="training")
        total = options.max_train_steps
        if total is None and options.num_train_epochs is not None:
            size = self.accelerator.num_processes * options.gradient_accumulation_steps
            steps = -(-len(self.mixture.epoch(0).batches) // size)
            total = max(round(options.num_train_epochs * steps), 1)
        return tqdm(total=total, disable=hidden, desc="training")

    def _show(self, bar: Any, share: float) -> None:
        """Moves the bar; every 20 steps the losses by task."""
        bar.n = round(100 * share, 1) if self.options.max_train_minutes else self.progress.step
        if self.progress.step % 20:
            bar.refresh() if self.progress.step < 20 else None
            return
        sums = self.accelerator.reduce(self.sums, "sum").tolist()
        self.sums.zero_()
        losses = {
            task.name: total / count
            for task, (total, count) in zip(self.mixture.tasks, sums, strict=True)
            if count
        }
        bar.set_postfix({"step": self.progress.step} | {n: f"{v:.3f}" for n, v in losses.items()})
        self.accelerator.log(
            {f"loss/{name}": value for name, value in losses.items()}
            | {"learning_rate": self._rate(share), "seconds": self.progress.seconds},
            step=self.progress.step,
        )

    def validation(self, at_most: int | None) -> dict[str, dict[str, dict[str, float]]]:
        """Validation metrics of the seen templates; texts are left to the final report."""
        tasks = [task for task in self.mixture.tasks if task.form != "text"]
        seen = [t for t in self.world.templates if not t.heldout]
        return self.evaluator.evaluate(
            tasks, seen, "validation", at_most=at_most, keep_seen=(self.keep_seen,)
        )

    def _validate(self, bar: Any) -> None:
        """Judges the model; keeps its weights if it is the best so far."""
        progress = self.progress
        if self.accelerator.is_main_process:
            found = self.validation(self.options.eval_examples)
            means = {
                f"{task}/{metric.removesuffix('/keep_seen')}": float(
                    np.mean([row[metric] for row in rows.values()])
                )
                for task, rows in found.items()
                for metric in next(iter(rows.values()))
            }
            name = self.options.metric_for_best_model
            if name not in means:
                raise ValueError(
                    f"--metric_for_best_model {name}: validation has {', '.join(sorted(means))}"
                )
            higher = not name.endswith(("rmse", "mae"))
            value = means[name]
            better = math.isnan(progress.best) or (value > progress.best) == higher
            if better and value != progress.best:
                progress.best, progress.best_step, progress.waited = value, progress.step, 0
                self._keep_best()
            else:
                progress.waited += 1
            shown = {name: value} | {
                f"{task.name}/{task.metric[0]}": means[f"{task.name}/{task.metric[0]}"]
                for task in self.mixture.tasks
                if task.form != "text"
            }
            text = ", ".join(f"{n} {v:.4f}" for n, v in shown.items())
            minutes = progress.seconds / 60
            bar.write(f"step {progress.step:,} ({minutes:.1f} min): validation {text}")
            self.accelerator.log(
                {f"validation/{n}": v for n, v in means.items()}, step=progress.step
            )
        if self.accelerator.num_processes > 1:
            state = broadcast_object_list([progress.state_dict()])[0]
            progress.load_state_dict(state)

    def _finished(self) -> bool:
        patience = self.options.early_stopping_patience
        stopped = patience > 0 and self.progress.waited >= patience
        if stopped:
            self.accelerator.print(f"stopped early: {patience} validations without a better one")
        return stopped or self._share() >= 1

    def _keep_best(self) -> None:
        path = self.folder / "best.safetensors"
        tied = set(self.plain_model.all_tied_weights_keys)
        state = self.plain_model.state_dict()
        weights = {n: t.contiguous() for n, t in state.items() if n not in tied}
        save_file(weights, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*[0-9]"))

    def _save(self) -> None:
        """Writes a checkpoint under a temporary name, then renames it, then drops old ones."""
        self.progress.seconds = time.monotonic() - self.began
        target = self.folder / "checkpoints" / f"step-{self.progress.step:08d}"
        fresh = target.with_name(f"{target.name}.tmp")
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            replace_folder(fresh, target)
            for old in self._checkpoints()[: -self.options.save_total_limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def order_templates(self) -> dict[str, list[str]]:
        """For each task its seen templates, best validation metric first."""
        tasks = [task for task in self.mixture.tasks if task.form != "text"]
        report = {
            task: {i: {n.removesuffix("/keep_seen"): v for n, v in row.items()} for i, row in rows.items()}
            for task, rows in self.validation(None).items()
        }
        texts = [task for task in self.mixture.tasks if task.form == "text"]
        judged = self.evaluator.evaluate(
            texts,
            [t for t in self.world.templates if not t.heldout],
            "validation",
            at_most=self.options.eval_examples,
        )
        return best_templates(report | judged, tasks + texts, self.world.templates)

    def clear(self) -> None:
        """Drops the checkpoints of a finished run; its log stays."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        (self.folder / "best.safetensors").unlink(missing_ok=True)


def report(
    arguments: Arguments, world: World, evaluator: Evaluator, progress: Progress, processes: int
) -> dict[str, Any]:
    """The test metrics of all templates, with baselines and protocol: metrics.json."""
    tasks = [task for task, _ in world.tasks]
    print("judging every template on the test split ...", flush=True)
    protocol = {
        "split": "leave one out per user: last item test, second last validation",
        "ties": "equal timestamps keep file order",
        "ranking": "whole catalogue, constrained beam search",
        "seen_items": "excluded; kept where a metric ends with /keep_seen",
        "item_ids": arguments.data.item_ids,
        "beams": arguments.predict.beams,
        "seed": arguments.train.seed,
        "steps": progress.step,
        "best_step": progress.best_step,
        "minutes": round(progress.seconds / 60, 2),
        "processes": processes,
        "audit": audit(world.split),
    }
    return {
        "protocol": protocol,
        "test": evaluator.evaluate(tasks, world.templates, "test"),
        "baselines": baselines(world.split, tasks, len(world.catalogue)),
    }


def heldout_templates(world: World) -> dict[str, frozenset[str]]:
    """For each task the ids of the templates that training never showed."""
    return {
        task.name: frozenset(t.id for t in world.templates if t.family == task.name and t.heldout)
        for task, _ in world.tasks
    }


def rendered_examples(world: World) -> dict[str, tuple[str, str]]:
    """One rendered training prompt of each task, for people to read."""
    examples = {}
    for task, _ in world.tasks:
        template = next(t for t in world.templates if t.family == task.name and not t.heldout)
        users, positions = task.examples(world.split, "train")
        user, position = int(users[0]), int(positions[min(5, len(positions) - 1)])
        user = int(users[min(5, len(users) - 1)])
        prompt = world.prompter.render(
            template,
            world.split.histories.state(user, position),
            task.asked(world.split, user, position),
            draw=0,
        )
        examples[task.name] = (prompt.source, prompt.target)
    return examples


def show_recommendations(output: Path, split: Split, arguments: Arguments) -> None:
    """Loads the written folder as a user would, and recommends for five users."""
    recommend = pipeline("p5-recommend", model=str(output))
    catalogue = recommend.knowledge.catalogue
    chosen = np.random.default_rng(arguments.train.seed).permutation(split.histories.num_users)[:5]
    for user in chosen.tolist():
        state = split.histories.state(user)
        last = "; ".join(catalogue.title(item) for item in state.items[-3:].tolist())
        print(f"user {split.histories.user_ids[user]}, newest: {last}")
        answers = recommend(
            split.histories.user_ids[user], top_k=5, keep_seen=arguments.predict.keep_seen
        )
        for answer in answers:
            print(f"  {math.exp(answer['score']):6.2%}  {answer['title']}  ({answer['item_id']})")
    print(f'\nsaved to {output}: pipeline("p5-recommend", model="{output}")')


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        # What a user can put right is said in one line; everything else keeps its traceback.
        if os.environ.get("P5_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
