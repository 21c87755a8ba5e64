"""Train a P5: arguments, data, prompts, model, loop, evaluation, save.

accelerate launch train.py                       MovieLens-100K, fetched on first use
accelerate launch train.py --dataset data/toy    the small made world, under a minute
accelerate launch train.py --help                everything that can be set
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from tqdm.auto import tqdm
from transformers import pipeline

import p5_t5  # noqa: F401 - registers the pipeline
from p5_t5.arguments import Arguments, read_arguments
from p5_t5.artifact import (
    Knowledge,
    check_replaceable,
    checkpoint_knowledge,
    save_artifact,
)
from p5_t5.checkpoints import RunFolder
from p5_t5.data.sources import find_dataset
from p5_t5.evaluation.evaluator import Evaluator
from p5_t5.evaluation.report import final_report
from p5_t5.evaluation.validation import Validation
from p5_t5.model_card import metrics_tables, model_card, protocol_lines
from p5_t5.modeling.assembly import make_model, make_tokenizer
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.loader import Loader
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.parameter_groups import parameter_groups
from p5_t5.modeling.side_by_side import Batch, SideBySide
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.modeling.training import keep_freed_memory
from p5_t5.modeling.weight_mean import WeightMean
from p5_t5.modeling.weights import token_weights
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import DENOISING, SEQUENTIAL
from p5_t5.schedule import Progress, Schedule, most_steps

HOME = Path(__file__).resolve().parent


def main() -> None:
    """Runs the whole story."""
    try:
        arguments = read_arguments()
        accelerator = start(arguments)
        with accelerator.main_process_first():
            folder = find_dataset(arguments.data.dataset, HOME / "data")
        spoken = prepare(arguments, folder)
        corpus = spoken.only(DENOISING) if arguments.train.stage == "pretrain" else spoken
        model, words, mixture = build(arguments, spoken, corpus, accelerator.num_processes)
        model.to(accelerator.device)
        describe(accelerator, arguments, corpus, model)
        # What is judged and kept.
        mean = WeightMean(model)
        validation = judge(arguments, corpus, mean.module, words)
        collate = Collator(words, arguments.protocol.longest_source)
        loop = Loop(arguments, accelerator, model, mean, collate, mixture, validation)
    except ValueError as error:
        # What a user can put right is said in one line. From here on nothing is the user's.
        sys.exit(f"error: {error}")
    loop.run()
    if accelerator.is_main_process:
        print("judging the templates on the test split ...", flush=True)
        calibrations, repeats = validation.calibrate(), validation.calibrate_repeats()
        best = validation.order_templates()
        knowledge = replace(
            what_is_known(arguments, corpus),
            best_templates=best,
            calibrations=calibrations,
            repeats=repeats,
        )
        metrics = final_report(
            corpus,
            validation.evaluator,
            loop.facts(),
            everything=arguments.predict.report == "all",
            candidate_users=arguments.predict.candidate_users,
        )
        card = model_card(corpus.name, metrics, corpus.heldout(), corpus.examples())
        save_artifact(arguments.output, mean.module, words.tokenizer, knowledge, metrics, card)
        loop.folder.finish()
        print(f"\nTest\n\n{metrics_tables(metrics, corpus.heldout())}\n")
        print(f"Protocol\n\n{protocol_lines(metrics['protocol'])}\n")
        if SEQUENTIAL in corpus.judged:
            show_recommendations(arguments)
        else:
            print(f"saved to {arguments.output}: train.py --model_name_or_path {arguments.output}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def start(arguments: Arguments) -> Accelerator:
    """Starts accelerate, with all cores and one seed."""
    train = arguments.train
    precision = train.mixed_precision
    if precision == "auto":
        gpu = torch.cuda.is_available()
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    log = f"{arguments.output}.run"
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=None if train.report_to == "none" else train.report_to,
        project_config=ProjectConfiguration(project_dir=log, logging_dir=log),
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and accelerator.num_processes == 1:
        raise ValueError(
            f"{world_size} processes were started but accelerate sees one, so they would overwrite "
            "each other; on CPUs start them with ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes N train.py"
        )
    # accelerate launch leaves one thread to each process.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max((cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(train.num_threads or share)
    keep_freed_memory()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Each checkpoint would say that tied tensors are stored once.
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    set_seed(train.seed)
    return accelerator


def prepare(arguments: Arguments, folder: Path) -> Corpus:
    """Reads the data and the prompts; items keep the codes of the P5 that training goes on from."""
    data, checkpoint = arguments.data, arguments.model.model_name_or_path
    tasks = read_tasks(arguments.tasks)
    if arguments.train.stage == "pretrain":
        # Restoring items is all that is taught, but a tokenizer learns the words of all tasks.
        tasks = [*((task, share) for task, share in tasks if task != DENOISING), (DENOISING, 1.0)]
    seed, known = arguments.train.seed, None
    if checkpoint:
        known = checkpoint_knowledge(checkpoint, arguments.protocol, data.held_back_users, seed)
    corpus = read_corpus(
        folder,
        tasks,
        PromptSettings(
            max_history=arguments.max_history,
            recent=data.recent,
            least_recent=data.least_recent,
            max_recent=data.max_recent,
            like_threshold=data.like_threshold,
            candidates=data.candidates,
            review_words=data.review_words,
        ),
        prompts=data.prompts,
        item_ids=data.item_ids,
        branching=data.branching,
        min_interactions=data.min_interactions,
        k_core=data.k_core,
        seed=seed,
        known=known.catalogue if known else None,
        protocol=arguments.protocol,
        held_back_users=data.held_back_users,
    )
    if known and known.histories.user_ids != corpus.split.histories.user_ids:
        note = f"{checkpoint}: other users than here; what it learnt of their numbers is of others"
        corpus = replace(corpus, notes=[*corpus.notes, note])
    return corpus


def build(
    arguments: Arguments, spoken: Corpus, corpus: Corpus, processes: int
) -> tuple[P5ForConditionalGeneration, WordTokenizer, Mixture]:
    """Makes tokenizer, model and mixture: of what must be sayable, and of what is taught."""
    options, train = arguments.model, arguments.train
    checkpoint = options.model_name_or_path
    tokenizer = make_tokenizer(spoken, checkpoint, options.vocab_size, train.seed)
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
        whole_words_in_training_only=arguments.protocol.whole_words_in_training_only,
        tie_lm_head=options.tie_lm_head,
        # T5's factor below a tied layer makes the first thousand steps slow.
        scale_decoder_outputs=False,
    )
    told = spoken if options.token_embeddings == "cooccurrence" else None
    codes = corpus.catalogue.codes
    model = make_model(config, tokenizer, codes, checkpoint, told, train.seed)
    words = WordTokenizer(tokenizer)
    mixture = Mixture(
        corpus,
        words.cut,
        words.eos,
        tokens_per_batch=train.tokens_per_batch,
        batches_per_step=train.batches_per_step * processes,
        seed=train.seed,
        word_noise=train.word_noise,
        rating_dropout=train.rating_dropout,
    )
    return model, words, mixture


def describe(
    accelerator: Accelerator,
    arguments: Arguments,
    corpus: Corpus,
    model: P5ForConditionalGeneration,
) -> None:
    """Says what is about to be learnt, with one prompt of each task."""
    for note in corpus.notes:
        accelerator.print(note)
    accelerator.print(
        f"model: {model.num_parameters():,} parameters, {model.config.vocab_size:,} tokens, "
        f"{arguments.data.item_ids} item codes"
    )
    for task, prompt in corpus.examples().items():
        accelerator.print(f"{task}: {prompt.source}\n    -> {prompt.target}")


def what_is_known(arguments: Arguments, corpus: Corpus) -> Knowledge:
    """What is saved with the weights."""
    return Knowledge(
        name=corpus.name,
        catalogue=corpus.catalogue,
        histories=corpus.split.histories,
        templates=corpus.templates,
        settings=corpus.prompter.settings,
        held_back_users=arguments.data.held_back_users,
        seed=arguments.train.seed,
        ratings=corpus.answers,
        best_templates={},
        beams=arguments.predict.beams,
        protocol=corpus.protocol,
        reasons=corpus.reasons,
    )


def judge(
    arguments: Arguments, corpus: Corpus, model: P5ForConditionalGeneration, words: WordTokenizer
) -> Validation:
    """Makes what judges the model while it is trained."""
    predictor = what_is_known(arguments, corpus).predictor(model, words.tokenizer)
    predictor.batch_size = arguments.predict.eval_batch_size
    validation = Validation(
        evaluator=Evaluator(predictor, corpus.prompter, corpus.split, reasons=corpus.reasons),
        corpus=corpus,
        at_most=arguments.train.eval_examples,
        keep_seen=arguments.predict.keep_seen,
        metrics=arguments.train.metric_for_best_model or (),
    )
    # A metric that isn't there is better found now than after the first minutes.
    try:
        validation.value(replace(validation, at_most=min(32, validation.at_most)).run())
    except ValueError:
        # Of a few examples all may have the same answer, which some metrics are not defined for.
        validation.value(validation.run())
    return validation


class Loop:
    """The training loop: steps, validation, checkpoints."""

    def __init__(
        self,
        arguments: Arguments,
        accelerator: Accelerator,
        model: P5ForConditionalGeneration,
        mean: WeightMean,
        collate: Collator,
        mixture: Mixture,
        validation: Validation,
    ) -> None:
        """Prepares model and optimiser, and looks for an earlier run."""
        self.options, self.accelerator = arguments.train, accelerator
        self.plain_model, self.mean = model, mean
        self.mixture, self.validation = mixture, validation
        self.loader = Loader(
            mixture,
            collate,
            index=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.progress = Progress()
        train = self.options
        epoch = len(mixture.epoch(0).steps)
        self.schedule = Schedule(
            steps=most_steps(train.max_train_steps, train.num_train_epochs, epoch),
            minutes=train.max_train_minutes,
            rate=train.learning_rate,
            warmup=train.warmup_ratio,
        )
        # The large gradients of the first steps must be forgotten within a run of 2,000 steps.
        optimizer = torch.optim.AdamW(
            parameter_groups(model, train.weight_decay), betas=(0.9, 0.98), fused=True
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        alone = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        plain = alone and accelerator.mixed_precision == "no"
        self.side_by_side = SideBySide(model, train.seed, train.batches_per_step) if plain else None
        self.sums = torch.zeros(len(mixture.tasks), 2, device=accelerator.device)
        self.shares = torch.tensor(mixture.shares, dtype=torch.float32, device=accelerator.device)
        # How often it is saved, and where, doesn't change a run.
        free = ("output_dir", "save_steps", "save_total_limit", "resume", "overwrite", "report_to")
        fixed = {k: v for k, v in asdict(arguments.train).items() if k not in free}
        settings = fixed | asdict(arguments.data) | asdict(arguments.model)
        settings |= asdict(arguments.protocol)
        settings |= {"keep_seen": validation.keep_seen, "processes": accelerator.num_processes}
        path = arguments.output.with_name(f"{arguments.output.name}.run")
        self.folder = RunFolder(path, settings, self.options.save_total_limit)
        check_replaceable(arguments.output)
        self.folder.check(self.options.resume, self.options.overwrite)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and not self.options.resume:
            self.folder.open()
        accelerator.wait_for_everyone()
        if self.options.report_to != "none":
            accelerator.init_trackers("tensorboard")

    def run(self) -> None:
        """Trains to the limit, or until validation stops improving; leaves the best weights."""
        if self.options.resume:
            newest = self.folder.checkpoints()[-1]
            self.accelerator.load_state(str(newest))
            self.folder.read_state(newest, self.progress, self.mean)
            self.accelerator.print(f"going on from {newest}, step {self.progress.step:,}")
        self.begin()
        for batches in self.loader.steps(self.progress.step):
            if self._finished():
                break
            self.step(batches)
        self.bar.close()
        self.accelerator.wait_for_everyone()
        self.folder.load_best(self.mean.module)

    def _share(self) -> float:
        """How much of the run is over, 0 to 1; the same in all processes."""
        self.progress.seconds = time.monotonic() - self.began
        share = self.schedule.share(self.progress)
        if self.schedule.minutes is not None and self.accelerator.num_processes > 1:
            share = broadcast_object_list([share])[0]
        return share

    def begin(self) -> None:
        """Starts the clock and the bar."""
        self.began = time.monotonic() - self.progress.seconds
        self.share = self._share()
        self.bar = self._bar()

    def step(self, batches: Sequence[Batch]) -> None:
        """One optimiser step over this process's batches, and what is due after it."""
        self.model.train()
        rate = self.schedule.learning_rate(self.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        moved = [{n: t.to(self.accelerator.device) for n, t in b.items()} for b in batches]
        tasks = [batch.pop("task") for batch in moved]
        tokens = [(batch["labels"] >= 0).sum(dim=1) for batch in moved]
        given = [batch.pop("weights") for batch in moved]
        found = self._backward(moved, token_weights(tasks, given, self.shares))
        for task, own, sums in zip(tasks, tokens, found, strict=True):
            self.sums.index_add_(0, task, torch.stack([sums, own], dim=1))
        if self.options.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.mean.update_parameters(self.plain_model)
        self.progress.step += 1
        # Read once a step: a run that ends by the clock must not end before its last validation.
        self.share = self._share()
        self._show(rate)
        due = int(self.share * self.options.evaluations)
        if due > self.progress.evaluations:
            self.progress.evaluations = due
            self._validate()
            self._save()
        elif self.options.save_steps and self.progress.step % self.options.save_steps == 0:
            self._save()

    def _backward(
        self, batches: Sequence[Batch], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Gradients of the cross-entropy, weighted by example; the plain sums of the examples."""
        if self.side_by_side is not None:
            return self.side_by_side.backward(batches, weights, self.progress.step)
        every = []
        for number, (batch, own) in enumerate(zip(batches, weights, strict=True)):
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, sums = self.model(**batch, weights=own)
                self.accelerator.backward(loss)
                every.append(sums)
        return every

    def _bar(self) -> Any:
        """Counts steps, or hundredths of the time where no limit in steps is set."""
        hidden = not self.accelerator.is_main_process
        if self.options.max_train_minutes is not None:
            form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
            return tqdm(total=100, disable=hidden, bar_format=form, desc="training")
        return tqdm(total=self.schedule.steps, disable=hidden, desc="training")

    def _show(self, rate: float) -> None:
        """Every 20 steps moves the bar and shows and logs the losses by task."""
        if self.progress.step % 20:
            return
        timed = self.options.max_train_minutes is not None
        self.bar.n = round(100 * self.share, 1) if timed else self.progress.step
        sums = self.accelerator.reduce(self.sums, "sum").tolist()
        self.sums.zero_()
        losses = {
            task.name: total / count
            for task, (total, count) in zip(self.mixture.tasks, sums, strict=True)
            if count
        }
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        self.bar.set_postfix({"step": self.progress.step} | shown)
        log = {f"loss/{name}": value for name, value in losses.items()} | {"learning_rate": rate}
        self.accelerator.log(log, step=self.progress.step)

    def _validate(self) -> None:
        """Judges the model; keeps its weights if it is the best so far."""
        progress = self.progress
        if self.accelerator.is_main_process:
            found = self.validation.run()
            if progress.judge(self.validation.value(found)):
                self.folder.save_best(self.mean.module)
            minutes = f"{progress.seconds / 60:.1f} min"
            line = self.validation.line(found)
            self.bar.write(f"step {progress.step:,} ({minutes}): validation {line}")
            means = self.validation.means(found)
            log = {f"validation/{name}": value for name, value in means.items()}
            self.accelerator.log(log, step=progress.step)
        if self.accelerator.num_processes > 1:
            progress.load_state_dict(broadcast_object_list([progress.state_dict()])[0])

    def _finished(self) -> bool:
        patience = self.options.early_stopping_patience
        if patience and self.progress.waited >= patience:
            self.bar.write(f"stopped early: {patience} validations without a better one")
            return True
        return self.share >= 1

    def _save(self) -> None:
        """Writes a checkpoint; it gets its name when it is whole."""
        self.progress.seconds = time.monotonic() - self.began
        fresh = self.folder.fresh_checkpoint(self.progress.step)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.write_state(fresh, self.progress, self.mean)
            self.folder.keep_checkpoint(fresh)

    def facts(self) -> dict[str, Any]:
        """What the report says of the run."""
        return {
            "seed": self.options.seed,
            "steps": self.progress.step,
            "best_step": self.progress.best_step,
            "minutes": round(self.progress.seconds / 60, 2),
            "processes": self.accelerator.num_processes,
        }


def show_recommendations(arguments: Arguments) -> None:
    """Loads the written folder as a user would, and recommends for five users."""
    output = str(arguments.output)
    recommend = pipeline("p5-recommend", model=output)
    histories, catalogue = recommend.knowledge.histories, recommend.knowledge.catalogue
    drawn = np.random.default_rng(arguments.train.seed).permutation(histories.num_users).tolist()
    # Who has every item can be recommended none.
    new = (u for u in drawn if len(np.unique(histories.state(u).items)) < len(catalogue))
    users = list(islice(new, 5))
    ids = [histories.user_ids[user] for user in users]
    answers = recommend(
        [{"user": id_} for id_ in ids], top_k=5, keep_seen=arguments.predict.keep_seen
    )
    for user, id_, found in zip(users, ids, answers, strict=True):
        newest = "; ".join(
            catalogue.title(item) for item in histories.state(user).items[-3:].tolist()
        )
        print(f"user {id_}, newest: {newest}")
        for answer in found:
            print(f"  {math.exp(answer['score']):6.2%}  {answer['title']}  ({answer['item_id']})")
    print(f'\nsaved to {output}: pipeline("p5-recommend", model="{output}")')


if __name__ == "__main__":
    main()
