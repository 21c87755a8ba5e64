"""SASRec by RecTools, trained for the given minutes; runs in the environment of the peers.

Reads histories from an .npz file and writes ranked lists into another one, so that this script
and the benchmark that calls it share no library but numpy and scipy. It is never shown the test
items: the newest item of each history is the validation item, training sees what is before.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peers import Floats, Histories, Integers, ndcg, rank
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from torch.nn import functional

VALIDATIONS = 100
PATIENCE = 10


@dataclass(frozen=True)
class Setting:
    """How SASRec is built and trained, in RecTools' words.

    Attributes:
        session_max_len: items that the model reads. Longer training histories are cut into
            windows of that length, so that none of their items is lost as a target.
        n_negatives: for the sampled losses only.
    """

    session_max_len: int = 50
    n_factors: int = 128
    n_blocks: int = 2
    n_heads: int = 2
    dropout_rate: float = 0.4
    lr: float = 0.002
    batch_size: int = 64
    loss: str = "softmax"
    n_negatives: int = 128
    gbce_t: float = 0.75


# The best first; the next one is tried when validation has stopped improving and time is left.
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "movielens-100k": (
        Setting(session_max_len=25, batch_size=128),
        Setting(session_max_len=25, batch_size=128, dropout_rate=0.5),
        Setting(dropout_rate=0.5),
    ),
    "beauty": (
        Setting(session_max_len=20, n_factors=64, batch_size=128, dropout_rate=0.5),
        Setting(session_max_len=20, batch_size=128, dropout_rate=0.5),
    ),
    "lastfm": (Setting(n_factors=64, dropout_rate=0.5), Setting(dropout_rate=0.5)),
}
# With more items than these, a sampled loss.
SMALL_CATALOGUE = 20_000


def settings_for(dataset: str, train: Histories) -> tuple[Setting, ...]:
    """The settings found for a data set, or a guess by its size."""
    if dataset in SETTINGS:
        return SETTINGS[dataset]
    longest = int(np.quantile(np.diff(train.offsets), 0.95))
    loss = "softmax" if train.num_items <= SMALL_CATALOGUE else "gBCE"
    length = min(max(longest, 10), 50)
    return tuple(
        Setting(session_max_len=length, n_factors=width, dropout_rate=0.5, loss=loss)
        for width in (64, 128)
    )


def windows(train: Histories, length: int) -> Dataset:
    """The training histories in windows of ``length`` targets, cut from the newest end.

    The oldest item of a window is read only; it is the newest target of the window before it.
    """
    ages = train.ages
    shared = np.flatnonzero((ages > 0) & (ages % length == 0))
    rows = np.concatenate([np.arange(len(ages)), shared])
    window = np.concatenate([ages // length, ages[shared] // length - 1])
    frame = pd.DataFrame(
        {
            Columns.User: train.users[rows] * (int(window.max()) + 1) + window,
            Columns.Item: train.items[rows],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(rows, unit="s"),
        }
    )
    return Dataset.construct(frame)


class TargetsOnly(TransformerLightningModule):
    """RecTools' softmax loss without its work at padded places: the same value in less time."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy over the places that have a target."""
        if self.loss != "softmax":
            return super().training_step(batch, batch_idx)
        items = self.torch_model.item_model.get_all_embeddings()
        sessions = self.torch_model.encode_sessions(batch, items)
        places = batch["y"] > 0
        return functional.cross_entropy(sessions[places] @ items.T, batch["y"][places])


def make_model(setting: Setting) -> SASRecModel:
    """An untrained SASRec whose trainer says nothing and writes nothing."""
    model = SASRecModel(**asdict(setting), lightning_module_type=TargetsOnly)
    model._trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=1,
    )
    return model


class Scores:
    """A SASRec's scores of the whole catalogue; -inf for items that training has not shown."""

    def __init__(self, model: SASRecModel, num_items: int) -> None:
        """Takes the model's item numbers and item embeddings."""
        self.network, self.length = model.torch_model.eval(), model.session_max_len
        self.rows = np.array(model.data_preparator.get_known_item_ids(), dtype=np.int64)
        self.numbers = model.data_preparator.get_known_items_sorted_internal_ids()
        self.number_of = np.zeros(num_items, dtype=np.int64)
        self.number_of[self.rows] = self.numbers
        with torch.no_grad():
            self.embeddings = self.network.item_model.get_all_embeddings()

    @torch.no_grad()
    def __call__(self, histories: Histories) -> Floats:
        """Scores of the newest items that the model reads, shape (users, items)."""
        users, items, ages = histories.users, self.number_of[histories.items], histories.ages
        read = np.zeros((len(histories), self.length), dtype=np.int64)
        near = ages < self.length
        read[users[near], self.length - 1 - ages[near]] = items[near]
        sessions = self.network.encode_sessions({"x": torch.from_numpy(read)}, self.embeddings)
        scores = np.full((len(histories), len(self.number_of)), -np.inf, dtype=np.float32)
        scores[:, self.rows] = (sessions[:, -1] @ self.embeddings[self.numbers].T).numpy()
        return scores


@dataclass
class Run:
    """One training of one setting.

    Attributes:
        model: with its best weights.
        validation: the best NDCG@10 there, for ``epoch``.
        epochs: how many were trained in all.
    """

    setting: Setting
    model: SASRecModel
    validation: float = -1.0
    epoch: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Judge:
    """Validation: the newest items of some users, asked from all before them."""

    histories: Histories
    targets: Integers
    keep_seen: bool

    def __call__(self, model: SASRecModel) -> float:
        """NDCG@10 over the whole catalogue."""
        scores = Scores(model, self.histories.num_items)
        lists = rank(scores, self.histories, keep_seen=self.keep_seen, length=10)
        return ndcg(lists, self.targets)


def train_model(
    setting: Setting, train: Histories, judge: Judge, *, seconds: float, leg: float, seed: int
) -> Run:
    """Trains until the time is over or validation stops improving; leaves the best weights.

    Args:
        setting: how.
        train: the training histories.
        judge: called about every ``leg`` seconds, after whole epochs.
        seconds: the time.
        leg: as said.
        seed: of initialisation, order, dropout and negatives.
    """
    began = time.monotonic()
    seed_everything(seed, verbose=False)
    run = Run(setting, make_model(setting))
    data, best = windows(train, setting.session_max_len), {}
    waited, epochs, spent, took = 0, 1, 0.0, 0.0
    while not best or (spent + took < seconds and waited < PATIENCE):
        run.model.fit_partial(data, min_epochs=epochs, max_epochs=epochs)
        run.epochs += epochs
        value, waited = judge(run.model), waited + 1
        if value > run.validation:
            run.validation, run.epoch, waited = value, run.epochs, 0
            best = copy.deepcopy(run.model.torch_model.state_dict())
        took, spent = time.monotonic() - began - spent, time.monotonic() - began
        print(f"sasrec {spent:.0f} s, epoch {run.epochs}: ndcg@10 {value:.4f}", flush=True)
        epochs = max(1, round(epochs * leg / took))
    run.model.torch_model.load_state_dict(best)
    return run


def train_best(
    settings: Sequence[Setting], train: Histories, judge: Judge, *, minutes: float, seed: int
) -> list[Run]:
    """Trains one setting after the other while the time lasts.

    Returns:
        The runs, the best on validation first.
    """
    end, runs = time.monotonic() + 60 * minutes, []
    leg = 60 * minutes / VALIDATIONS
    for setting in settings:
        left = end - time.monotonic()
        # What is left must be enough to learn something.
        if runs and left < PATIENCE * leg:
            break
        print(f"sasrec {setting}", flush=True)
        runs.append(train_model(setting, train, judge, seconds=left, leg=leg, seed=seed))
    return sorted(runs, key=lambda run: -run.validation)


def main() -> None:
    """Reads histories, trains, and writes the lists."""
    parser = argparse.ArgumentParser(description="Train RecTools' SASRec on given histories.")
    parser.add_argument("given", type=Path, help="offsets, items, num_items and judged, as .npz")
    parser.add_argument("answer", type=Path, help="lists, lists_keep_seen and facts, as .npz")
    parser.add_argument("--dataset", default="", help="name, for the settings found for it")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--keep_seen", action="store_true", help="so on validation")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    began = time.monotonic()
    with np.load(options.given) as given:
        known = Histories(given["offsets"], given["items"], int(given["num_items"]))
        users = given["judged"]
    train = known.without_newest()
    judge = Judge(train.of(users), known.newest[users], options.keep_seen)
    settings = settings_for(options.dataset, train)
    runs = train_best(settings, train, judge, minutes=options.minutes, seed=options.seed)
    best = runs[0]
    facts = {
        "minutes": (time.monotonic() - began) / 60,
        "validation": best.validation,
        "setting": asdict(best.setting) | {"epoch": best.epoch},
        "tried": len(runs),
        "versions": {n: importlib.metadata.version(n) for n in ("rectools", "torch")},
    }
    scores = Scores(best.model, known.num_items)
    np.savez(
        options.answer,
        lists=rank(scores, known, keep_seen=False),
        lists_keep_seen=rank(scores, known, keep_seen=True),
        facts=json.dumps(facts),
    )


if __name__ == "__main__":
    main()
