"""Recommendations for every user of a trained model, as parquet.

accelerate launch -m p5_t5.predict --model outputs/movielens-100k --output recommendations
accelerate launch -m p5_t5.predict --help

Several processes on CPUs: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2
-m p5_t5.predict ... (without the variable each process does the whole job).

Users are cut into files once and for all; process ``i`` of ``n`` writes every ``n``-th of them. A
file appears when it is whole, so a job that was stopped goes on where it stood, with any number of
processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from p5_t5.arguments import BatchArguments
from p5_t5.artifact import Knowledge, find_artifact, load_artifact
from p5_t5.decoding.predictor import Predictor
from p5_t5.modeling.training import keep_freed_memory
from p5_t5.prompting.prompter import Asked
from p5_t5.prompting.templates import PromptTemplate

_JOB = "job.json"
# What the authors of P5 report for one user: beam 20, base model, one A5000.
_PAPER_MS = 53.96


@dataclass(frozen=True)
class Job:
    """One batch job.

    Attributes:
        knowledge: what the model was trained with.
        predictor: answers its prompts.
        template: asks for the next item.
        users: numbers of the users, in the order of the files.
        output: the folder of the files.
        top_k: items a user.
        keep_seen: also recommend what a user already has.
        users_per_file: how many users a file holds.
    """

    knowledge: Knowledge
    predictor: Predictor
    template: PromptTemplate
    users: Sequence[int]
    output: Path
    top_k: int
    keep_seen: bool
    users_per_file: int

    @property
    def files(self) -> list[Path]:
        """All files of the job."""
        count = -(-len(self.users) // self.users_per_file)
        return [self.output / f"part-{number:05d}.parquet" for number in range(count)]

    def write(self, number: int) -> int:
        """Answers the users of one file and writes it; returns how many there are."""
        begin = number * self.users_per_file
        users = self.users[begin : begin + self.users_per_file]
        states = [self.knowledge.histories.state(user) for user in users]
        render = self.knowledge.prompter.render
        prompts = [render(self.template, state, Asked()) for state in states]
        seen = [state.items for state in states]
        excluded = None if self.keep_seen else seen
        items, scores = self.predictor.rank_where_possible(prompts, self.top_k, excluded, seen)
        ids = self.knowledge.catalogue.item_ids
        legal = [[i for i in row if i >= 0] for row in items.tolist()]
        table = pl.DataFrame(
            {
                "user_id": [self.knowledge.histories.user_ids[user] for user in users],
                "item_ids": [[ids[i] for i in row] for row in legal],
                "scores": [s[: len(r)] for s, r in zip(scores.tolist(), legal, strict=True)],
            },
            schema_overrides={"scores": pl.List(pl.Float32)},
        )
        file = self.files[number]
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        table.write_parquet(temporary)
        os.replace(temporary, file)
        return len(users)


def main() -> None:
    """Runs the job of the command line."""
    parser = HfArgumentParser(BatchArguments, description="Recommend to every user of a model.")
    (options,) = parser.parse_args_into_dataclasses()
    # Unlike accelerate's bare state this one sees the processes of a CPU too.
    state = Accelerator()
    transformers.utils.logging.disable_progress_bar()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(options.num_threads or max((cores or 1) // state.num_processes, 1))
    keep_freed_memory()
    try:
        job, identity = read_job(options, state.device)
        if state.is_main_process:
            open_output(job.output, identity)
    except ValueError as error:
        sys.exit(f"error: {error}")
    state.wait_for_everyone()
    own = range(state.process_index, len(job.files), state.num_processes)
    todo = [number for number in own if not job.files[number].exists()]
    skipped = len(own) - len(todo)
    began = time.monotonic()
    done = sum(
        job.write(number)
        for number in tqdm(todo, unit="file", disable=not state.is_main_process, file=sys.stderr)
    )
    state.wait_for_everyone()
    seconds = time.monotonic() - began
    counts = gather_object([(done, skipped)])
    if state.is_main_process:
        users, files = sum(c[0] for c in counts), sum(c[1] for c in counts)
        if files:
            print(f"{files} of {len(job.files)} files were there already")
        if users:
            print(
                f"{users:,} users in {seconds:.1f} s: {users / seconds:,.0f} users a second, "
                f"{seconds / users * 1e3:.2f} ms a user on {state.num_processes} "
                f"{'process' if state.num_processes == 1 else 'processes'} "
                f"(the P5 paper: {_PAPER_MS} ms a user on one A5000)"
            )
        print(f"{len(job.users):,} users: {job.output}/part-*.parquet")
    state.end_training()


def read_job(options: BatchArguments, device: torch.device) -> tuple[Job, dict[str, object]]:
    """Loads the model and checks the options.

    Returns:
        The job, and all that its answers depend on, for ``open_output``.

    Raises:
        ValueError: the folder is no trained model, or an option can't be used.
    """
    for name in ("top_k", "batch_size", "users_per_file", "memory_mb"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(options, name)}")
    folder = find_artifact(options.model)
    model, tokenizer, knowledge = load_artifact(folder, device)
    if options.beams is not None:
        if options.beams < 1:
            raise ValueError(f"--beams must be at least 1, not {options.beams}")
        knowledge = replace(knowledge, beams=options.beams)
    asking = [t for t in knowledge.templates if t.family == "sequential"]
    known = [t.id for t in asking if t.answer == "next_item"]
    best = [i for i in knowledge.best_templates.get("sequential", []) if i in known]
    if options.template is None and not best:
        raise ValueError(f"{options.model}: was not trained for the sequential task")
    chosen = options.template or best[0]
    if chosen not in known:
        raise ValueError(f"--template {chosen}: unknown; known are {', '.join(known)}")
    users = list(range(knowledge.histories.num_users))
    if options.users is not None:
        users = _listed_users(Path(options.users), knowledge)
    predictor = knowledge.predictor(model, tokenizer)
    predictor.batch_size = options.batch_size
    predictor.memory_budget = options.memory_mb * 2**20
    job = Job(
        knowledge=knowledge,
        predictor=predictor,
        template=knowledge.template("sequential", chosen),
        users=users,
        output=Path(options.output),
        top_k=options.top_k,
        keep_seen=options.keep_seen,
        users_per_file=options.users_per_file,
    )
    names = ("model.safetensors", "p5.json", "trie.safetensors", "users.parquet")
    identity = {
        "model": {name: _digest(folder / name) for name in names if (folder / name).exists()},
        "users": hashlib.sha256(repr(users).encode()).hexdigest(),
        "template": chosen,
        "top_k": job.top_k,
        "beams": knowledge.beams,
        "keep_seen": job.keep_seen,
        "users_per_file": job.users_per_file,
    }
    return job, identity


def open_output(folder: Path, identity: dict[str, object]) -> None:
    """Makes the folder, or checks that it holds files of the same job.

    Raises:
        ValueError: it holds something else.
    """
    job = folder / _JOB
    if job.exists():
        earlier = json.loads(job.read_text(encoding="utf-8"))
        different = [name for name, value in identity.items() if earlier.get(name) != value]
        if different:
            raise ValueError(
                f"--output {folder}: holds a job with another {', '.join(different)}; "
                "give a new folder, or remove this one"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--output {folder}: is not empty and holds no job of this program")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = job.with_suffix(".tmp")
    temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, job)


def _listed_users(file: Path, knowledge: Knowledge) -> list[int]:
    if not file.is_file():
        raise ValueError(f"--users {file}: no such file")
    users = []
    for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if user_id := text.strip():
            if user_id not in knowledge.histories.number:
                raise ValueError(f"{file}, line {line}: unknown user {user_id!r}")
            users.append(knowledge.histories.number[user_id])
    if not users:
        raise ValueError(f"{file}: holds no user; expected one user id a line")
    return users


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
