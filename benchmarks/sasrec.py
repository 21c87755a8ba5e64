"""SASRec by RecTools, trained for the given minutes; runs in the environment of the peers.

Reads histories from an .npz file and writes ranked lists into another one, so that this script
and the benchmark that calls it share no library but numpy and scipy. It is never shown the test
items: the newest item of each history is the validation item, training sees what is before.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

VALIDATIONS = 60


@dataclass(frozen=True)
class Setting:
    """How SASRec is built and trained, mostly in RecTools' words.

    Attributes:
        session_max_len: items that the model reads. Longer training histories are cut into
            windows of that length, so that none of their items is lost as a target.
        patience: stop after so many validations without a better one.
    """

    session_max_len: int = 50
    loss: str = "softmax"
    n_negatives: int = 1
    gbce_t: float = 0.75
    n_factors: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout_rate: float = 0.3
    lr: float = 1e-3
    batch_size: int = 128
    use_key_padding_mask: bool = False
    patience: int = 10
    decay: bool = False


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


class PlacesOnly(TransformerLightningModule):
    """RecTools' softmax loss without its work at padded places: the same value, twice as fast."""

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
    options = asdict(setting)
    for own in ("patience", "decay"):
        options.pop(own)
    model = SASRecModel(**options, lightning_module_type=PlacesOnly)
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
    """A SASRec's scores of the whole catalogue; -inf for items that training has not seen."""

    def __init__(self, model: SASRecModel, num_items: int) -> None:
        """Takes the item numbers of the model and its item embeddings."""
        self.network, self.length = model.torch_model.eval(), model.session_max_len
        known = model.data_preparator.item_id_map
        self.number = known.convert_to_internal(np.arange(num_items), strict=False, return_missing=False)
        self.rows = known.convert_to_external(self.number).astype(np.int64)
        self.number_of = np.zeros(num_items, dtype=np.int64)
        self.number_of[self.rows] = self.number
        with torch.no_grad():
            self.embeddings = self.network.item_model.get_all_embeddings()

    @torch.no_grad()
    def __call__(self, histories: Histories) -> Floats:
        """Scores, shape (users, items)."""
        users, items, ages = histories.users, self.number_of[histories.items], histories.ages
        read = np.zeros((len(histories), self.length), dtype=np.int64)
        near = ages < self.length
        read[users[near], self.length - 1 - ages[near]] = items[near]
        sessions = self.network.encode_sessions({"x": torch.from_numpy(read)}, self.embeddings)
        found = (sessions[:, -1] @ self.embeddings[self.number].T).numpy()
        scores = np.full((len(histories), len(self.number_of)), -np.inf, dtype=np.float32)
        scores[:, self.rows] = found
        return scores


@dataclass
class Run:
    """One training of one setting.

    Attributes:
        value: its best NDCG@10 on validation.
        epochs: how many were trained until then.
    """

    setting: Setting
    model: SASRecModel
    value: float = -1.0
    epochs: int = 0
    trained: int = 0


def train_model(
    setting: Setting,
    train: Histories,
    judged: Histories,
    targets: Integers,
    *,
    keep_seen: bool,
    seconds: float,
    seed: int,
) -> Run:
    """Trains until the time is over or validation stops improving; leaves the best weights."""
    began = time.monotonic()
    seed_everything(seed)
    model, data = make_model(setting), windows(train, setting.session_max_len)
    run = Run(setting, model)
    best: dict[str, torch.Tensor] = {}
    waited, epochs, took = 0, 1, 0.0
    while (spent := time.monotonic() - began) + took < seconds and waited < setting.patience:
        if setting.decay and run.trained:
            for group in model.lightning_model.optimizer.param_groups:
                group["lr"] = setting.lr * max(1 - spent / seconds, 0.02)
        model.fit_partial(data, min_epochs=epochs, max_epochs=epochs)
        run.trained += epochs
        lists = rank(Scores(model, train.num_items), judged, keep_seen=keep_seen, length=10)
        value, waited = ndcg(lists, targets), waited + 1
        if value > run.value:
            run.value, run.epochs, waited = value, run.trained, 0
            best = copy.deepcopy(model.torch_model.state_dict())
        took = time.monotonic() - began - spent
        if True: print(f"  {time.monotonic()-began:.0f}s epoch {run.trained} ndcg {value:.4f}", flush=True)
        epochs = max(1, round(epochs * seconds / VALIDATIONS / took))
    model.torch_model.load_state_dict(best)
    return run
