"""The command lines of train.py and the batch job, as dataclasses that check themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from p5_t5.protocol import Protocol
from p5_t5.protocol import defaults as protocol_defaults

# Without a limit a run ends at the first of these two.
DEFAULT_MINUTES, DEFAULT_EPOCHS = 10.0, 5.0
DEFAULT_TASKS, DEFAULT_HISTORY = ("sequential=4", "rating=5", "explanation=1"), 50
# P5's program trains all of its families, as often as its sampling counts say.
COUNTED_TASKS = ("sequential", "rating", "explanation", "review", "direct")


@dataclass
class DataArguments:
    """What is learnt from."""

    dataset: str = field(
        default="movielens-100k",
        metadata={"help": "a folder with tables, or the name of a preparer under data/"},
    )
    protocol: str = field(
        default="corrected",
        metadata={"help": "corrected, or paper: train and judge as P5's program does, which sets "
                  "the defaults of the switches at the end and of --item_ids"},
    )  # fmt: skip
    prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "files or folders of templates to add to, or put in the place of, ours"},
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={"help": "tasks with their shares of the training examples, as NAME=SHARE; "
                  "sequential=4 rating=5 explanation=1 if unset. With --sampling_counts names "
                  "alone; all but zero-shot if unset"},
    )  # fmt: skip
    item_ids: str = field(
        default="atomic",
        metadata={"help": "how items are written: sequential, random, collaborative or atomic; "
                  "sequential with --protocol paper"},
    )  # fmt: skip
    branching: int | None = field(
        default=None,
        metadata={"help": "clusters a level of collaborative codes; automatic if unset"},
    )
    min_interactions: int = field(
        default=3, metadata={"help": "users with fewer interactions are left out"}
    )
    k_core: int = field(
        default=0, metadata={"help": "keep only users and items with so many interactions"}
    )
    max_history: int | None = field(
        default=None,
        metadata={"help": "newest items that a prompt may list; 50 if unset, and with "
                  "--right_truncation all"},
    )  # fmt: skip
    recent: int = field(
        default=20,
        metadata={"help": "newest items given to the decoder by templates with {recent}, "
                  "{rated} or {compared}"},
    )  # fmt: skip
    least_recent: float = field(
        default=0.5,
        metadata={"help": "while training, smallest share of the listed items after the cut before "
                  "{recent} or {rated}"},
    )  # fmt: skip
    max_recent: int = field(default=50, metadata={"help": "and most items after it"})
    like_threshold: float = field(
        default=4.0, metadata={"help": "from so many stars on an item counts as liked"}
    )
    candidates: int = field(
        default=100,
        metadata={"help": "items that a choice is among: the right one and drawn ones"},
    )
    review_words: int = field(
        default=100, metadata={"help": "words of a review that a prompt may hold"}
    )

    held_back_users: int = field(
        default=0,
        metadata={"help": "hold the last training interaction of so many users back and validate "
                  "on these users alone, one interaction after the last that training shows, as "
                  "far from it as the test; 0: all are learnt, and validation is about all users"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.held_back_users < 0:
            raise ValueError(f"--held_back_users must be at least 0, not {self.held_back_users}")
        if not 0 <= self.least_recent <= 1:
            raise ValueError(f"--least_recent must be from 0 to 1, not {self.least_recent}")
        if self.max_recent < 0:
            raise ValueError(f"--max_recent must be at least 0, not {self.max_recent}")
        if self.candidates < 2 or self.review_words < 1:
            raise ValueError(
                "--candidates must be at least 2 and --review_words at least 1, not "
                f"{self.candidates} and {self.review_words}"
            )


@dataclass
class ModelArguments:
    """The model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "a T5 or P5 checkpoint, a folder or a name on the Hub; a compact T5 is "
                  "built from scratch if unset. A P5 keeps its item codes: the data must have the "
                  "same items"},
    )  # fmt: skip
    vocab_size: int = field(
        default=2000, metadata={"help": "pieces of the tokenizer that is learnt from the prompts"}
    )
    d_model: int = field(default=128, metadata={"help": "width"})
    d_ff: int = field(default=512, metadata={"help": "width of the feed-forward layers"})
    d_kv: int = field(default=32, metadata={"help": "width of an attention head"})
    num_heads: int = field(default=4, metadata={"help": "attention heads"})
    num_layers: int = field(default=2, metadata={"help": "encoder layers"})
    num_decoder_layers: int = field(default=2, metadata={"help": "decoder layers"})
    dropout_rate: float = field(default=0.15, metadata={"help": "dropout, also of a checkpoint"})
    whole_word_embeddings: bool = field(
        default=True,
        metadata={"help": "mark the pieces of one word with one embedding, as P5 does"},
    )
    token_embeddings: str = field(
        default="cooccurrence",
        metadata={"help": "where the embeddings of new tokens start: cooccurrence (near what "
                  "stands beside them, items in histories and words in prompts; numbers of stars "
                  "near each other; words of reviews towards their stars) or random"},
    )  # fmt: skip
    tie_lm_head: bool = field(
        default=True,
        metadata={"help": "use the input embeddings as output layer; a checkpoint keeps its own"},
    )

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.token_embeddings not in ("cooccurrence", "random"):
            raise ValueError(
                f"--token_embeddings must be cooccurrence or random, not {self.token_embeddings!r}"
            )


@dataclass
class TrainArguments:
    """The training loop. Without any limit it ends after ten minutes or five epochs."""

    stage: str = field(
        default="tasks",
        metadata={
            "help": "tasks: train the mixture of --tasks; pretrain: restore masked items of "
            "unlabelled histories alone (a new tokenizer learns the words of --tasks all the same),"
            " then go on with --model_name_or_path OUTPUT"
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "the trained model's folder; outputs/<data set> if unset"}
    )
    num_train_epochs: float | None = field(default=None, metadata={"help": "limit in epochs"})
    max_train_steps: int | None = field(default=None, metadata={"help": "limit in steps"})
    max_train_minutes: float | None = field(
        default=None, metadata={"help": "limit in minutes, validation included"}
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "highest rate"})
    warmup_ratio: float = field(
        default=0.05, metadata={"help": "share of the run with rising rate"}
    )
    weight_decay: float = field(default=0.5, metadata={"help": "AdamW's decay of matrices"})
    word_noise: float = field(
        default=0.2,
        metadata={"help": "share of a prompt's own words left out or changed while training, on "
                  "average, so that other wordings are understood; above 0 a tenth of the prompts "
                  "keeps none"},
    )  # fmt: skip
    rating_dropout: float = field(
        default=0.2,
        metadata={"help": "share of a user's interactions that a list of stars leaves out while "
                  "training, on average, so that it is not learnt by heart"},
    )  # fmt: skip
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "gradients are clipped to this norm; 0: never"}
    )
    tokens_per_batch: int = field(
        default=1024, metadata={"help": "tokens of a batch on one device, padding included"}
    )
    batches_per_step: int = field(
        default=4,
        metadata={"help": "batches a step on one device; each holds examples of one length, "
                  "together they hold all tasks"},
    )  # fmt: skip
    mixed_precision: str = field(
        default="auto",
        metadata={"help": "no, fp16 or bf16; auto is bf16 on a GPU that has it and no elsewhere"},
    )
    num_threads: int = field(
        default=0, metadata={"help": "CPU cores to use, for each process; 0 shares all out"}
    )
    seed: int = field(default=42, metadata={"help": "seed of everything that is random"})
    evaluations: int = field(default=8, metadata={"help": "validations during the run"})
    eval_examples: int = field(default=500, metadata={"help": "validation examples a template"})
    metric_for_best_model: list[str] | None = field(
        default=None,
        metadata={
            "help": "one or more TASK/METRIC on validation, mean over the reported seen templates "
            "(TASK/KIND/METRIC for a task's further kinds of answers), of several the geometric "
            "mean, errors by their inverse; if unset the first metric of every kind of answer but "
            "texts"
        },
    )
    early_stopping_patience: int = field(
        default=5,
        metadata={"help": "stop after so many validations without a better one; 0: never"},
    )
    save_steps: int = field(
        default=0, metadata={"help": "checkpoint every so many steps, besides each validation"}
    )
    save_total_limit: int = field(default=2, metadata={"help": "checkpoints that are kept"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest checkpoint"})
    overwrite: bool = field(
        default=False, metadata={"help": "start anew although an unfinished run is there"}
    )
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard or none"})

    def __post_init__(self) -> None:
        """Checks the values; without any limit the default ones hold."""
        limits = ("num_train_epochs", "max_train_steps", "max_train_minutes")
        if all(getattr(self, name) is None for name in limits):
            self.num_train_epochs, self.max_train_minutes = DEFAULT_EPOCHS, DEFAULT_MINUTES
        for name in ("early_stopping_patience", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be at least 0, not {getattr(self, name)}")
        positive = ("learning_rate", "tokens_per_batch", "evaluations", "eval_examples")
        for name in (*limits, *positive, "save_total_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be above 0, not {value}")
        if not 0 <= self.word_noise <= 0.5:
            raise ValueError(f"--word_noise must be from 0 to 0.5, not {self.word_noise}")
        if not 0 <= self.rating_dropout < 0.5:
            raise ValueError(
                f"--rating_dropout must be from 0 to below 0.5, not {self.rating_dropout}"
            )
        if self.stage not in ("tasks", "pretrain"):
            raise ValueError(f"--stage must be tasks or pretrain, not {self.stage!r}")
        if self.report_to not in ("tensorboard", "none"):
            raise ValueError(f"--report_to must be tensorboard or none, not {self.report_to!r}")


@dataclass
class PredictArguments:
    """Decoding and the final report."""

    beams: int = field(default=20, metadata={"help": "beginnings of codes kept at each level"})
    eval_batch_size: int = field(default=64, metadata={"help": "prompts a forward pass"})
    keep_seen: bool = field(
        default=False,
        metadata={"help": "validate and recommend with items that the user already has"},
    )
    report: str = field(
        default="pairs",
        metadata={"help": "which templates the final report is about: pairs (those marked as "
                  "reported, P5's own pairs of a seen and a held-out one among them) or all"},
    )  # fmt: skip
    candidate_users: int = field(
        default=200,
        metadata={"help": "users whose candidates the final report ranks by the probability of "
                  "yes, a prompt for each candidate"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.report not in ("pairs", "all"):
            raise ValueError(f"--report must be pairs or all, not {self.report!r}")
        if self.candidate_users < 0:
            raise ValueError(f"--candidate_users must be at least 0, not {self.candidate_users}")


@dataclass
class BatchArguments:
    """A whole-catalogue batch job, ``accelerate launch -m p5_t5.predict``."""

    model: str = field(metadata={"help": "a folder that train.py wrote, or its name on the Hub"})
    output: str = field(metadata={"help": "the folder of the parquet files"})
    top_k: int = field(default=20, metadata={"help": "items a user"})
    users: str | None = field(
        default=None, metadata={"help": "a text file with one user id a line; all users if unset"}
    )
    template: str | None = field(
        default=None,
        metadata={"help": "id of the sequential template; the best on validation if unset"},
    )
    keep_seen: bool = field(
        default=False, metadata={"help": "also recommend what a user already has"}
    )
    beams: int | None = field(
        default=None, metadata={"help": "beginnings of codes kept at each level; the model's own"}
    )
    batch_size: int = field(default=64, metadata={"help": "users a forward pass at most"})
    memory_mb: int = field(default=1024, metadata={"help": "memory of a forward pass, about"})
    users_per_file: int = field(
        default=2048, metadata={"help": "users a file: what a restart does again at most"}
    )
    num_threads: int = field(
        default=0, metadata={"help": "CPU cores to use, for each process; 0 shares all out"}
    )


@dataclass
class TransferArguments:
    """Zero-shot prompts about items of another data set, ``python -m p5_t5.transfer``."""

    model: str = field(metadata={"help": "a folder that train.py wrote, or its name on the Hub"})
    dataset: str = field(
        metadata={"help": "the other data: a folder with tables, or the name of a preparer"}
    )
    prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "files or folders of templates to add to, or put in the place of, ours"},
    )
    shared_users: bool = field(
        default=False,
        metadata={"help": "the same user id means the same person in both data sets"},
    )
    examples: int | None = field(
        default=None, metadata={"help": "test examples a template; all if unset"}
    )
    json: bool = field(default=False, metadata={"help": "end with one JSON object in one line"})


@dataclass
class Arguments:
    """The groups of the command line."""

    data: DataArguments
    model: ModelArguments
    train: TrainArguments
    predict: PredictArguments
    protocol: Protocol

    @property
    def output(self) -> Path:
        """The trained model's folder."""
        name = Path(self.data.dataset).resolve().name
        path = Path(self.train.output_dir or Path("outputs") / name)
        return path if path.name not in ("", "..") else path.resolve()

    @property
    def tasks(self) -> Sequence[str]:
        """What is taught, as ``read_tasks`` reads it."""
        counted = self.protocol.sampling_counts
        return self.data.tasks or (COUNTED_TASKS if counted else DEFAULT_TASKS)

    @property
    def max_history(self) -> int:
        """How many of the newest items a prompt may list."""
        if self.data.max_history is not None:
            return self.data.max_history
        return sys.maxsize if self.protocol.right_truncation else DEFAULT_HISTORY


def read_arguments() -> Arguments:
    """Reads and checks the command line of train.py.

    Raises:
        ValueError: a value is out of range, or a switch could not do anything.
    """
    groups: Any = (DataArguments, ModelArguments, TrainArguments, PredictArguments, Protocol)
    parser = HfArgumentParser(groups, description="Train a P5 and report its test metrics.")
    # What is said on the command line wins over what a protocol says, and that over the defaults.
    parser.set_defaults(**protocol_defaults(parser.parse_known_args()[0].protocol))
    data, model, train, predict, protocol = parser.parse_args_into_dataclasses()
    _check_switches(data, model, protocol)
    return Arguments(data, model, train, predict, protocol)


def _check_switches(data: DataArguments, model: ModelArguments, protocol: Protocol) -> None:
    """An error where a switch could not do anything."""
    if protocol.heldout_item_order and data.item_ids not in ("sequential", "collaborative"):
        raise ValueError(
            f"--heldout_item_order: --item_ids {data.item_ids} don't follow the histories; choose "
            "sequential or collaborative, or set --heldout_item_order false"
        )
    if protocol.whole_words_in_training_only and not model.whole_word_embeddings:
        raise ValueError("--whole_words_in_training_only needs --whole_word_embeddings")
    shares = [task for task in data.tasks or () if "=" in task]
    if protocol.sampling_counts and shares:
        raise ValueError(
            f"--tasks {shares[0]}: with --sampling_counts tasks have no shares; give names alone, "
            "or set --sampling_counts false"
        )
