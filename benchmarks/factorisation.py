"""Biased matrix factorisation of stars: mean, biases of user and item, and a product of factors.

Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems" (2009), fitted
by full-batch Adam with early stopping. How strongly biases and factors are held back, and how many
factors there are, is chosen on validation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BIAS_L2 = (1.0, 3.0, 10.0, 30.0)
FACTOR_L2 = (3.0, 10.0, 30.0, 100.0)
RANKS = (4, 16)
RATE, STEPS, EVERY, PATIENCE = 0.03, 400, 10, 5

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Stars:
    """Known ratings.

    Attributes:
        pairs: users and items, both of shape (ratings,).
        values: stars, shape (ratings,).
    """

    pairs: Pairs
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factorisation:
    """A fitted model.

    Attributes:
        mean: of all training stars.
        biases: of users and of items.
        factors: of users and of items, shapes (users, rank) and (items, rank).
        limits: the lowest and the highest star.
        setting: rank and penalties.
        validation: its RMSE there.
    """

    mean: float
    biases: tuple[torch.Tensor, torch.Tensor]
    factors: tuple[torch.Tensor, torch.Tensor]
    limits: tuple[float, float]
    setting: dict[str, Any]
    validation: float

    def predict(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """Stars of users and items, within the limits, shape (pairs,)."""
        users, items = map(torch.from_numpy, pairs)
        return _predict(self, users, items).clamp(*self.limits).numpy().astype(np.float64)


def choose_factorisation(
    train: Stars, validation: Stars, num_users: int, num_items: int, *, seed: int, minutes: float
) -> Factorisation:
    """The setting of least RMSE on validation: first of the biases alone, then with factors.

    Args:
        train: what is fitted.
        validation: what decides the setting and when to stop.
        num_users: all of them, rated or not.
        num_items: the same of items.
        seed: of the factors' first values.
        minutes: no new setting is tried after so long.
    """
    began = time.monotonic()
    best: Factorisation | None = None
    for setting in _settings():
        if best is not None and time.monotonic() - began > 60 * minutes:
            break
        if setting["rank"]:
            assert best is not None
            setting["bias_l2"] = best.setting["bias_l2"]
        found = fit(train, validation, num_users, num_items, seed=seed, **setting)
        if best is None or found.validation < best.validation:
            best = found
    assert best is not None
    return best


def _settings() -> Iterator[dict[str, Any]]:
    for l2 in BIAS_L2:
        yield {"rank": 0, "bias_l2": l2, "factor_l2": 0.0}
    for rank, l2 in product(RANKS, FACTOR_L2):
        yield {"rank": rank, "factor_l2": l2}


def fit(
    train: Stars,
    validation: Stars,
    num_users: int,
    num_items: int,
    *,
    rank: int,
    bias_l2: float,
    factor_l2: float,
    seed: int = 0,
) -> Factorisation:
    """Fits one setting: squared errors plus the penalties times the squared parameters."""
    generator = torch.Generator().manual_seed(seed)
    users, items = map(torch.from_numpy, train.pairs)
    stars = torch.from_numpy(train.values).float()
    limits = float(stars.min()), float(stars.max())
    biases = torch.zeros(num_users), torch.zeros(num_items)
    p, q = (0.1 * torch.randn(n, rank, generator=generator) for n in (num_users, num_items))
    setting = {"rank": rank, "bias_l2": bias_l2, "factor_l2": factor_l2}
    model = Factorisation(float(stars.mean()), biases, (p, q), limits, setting, np.inf)
    parameters = [tensor.requires_grad_() for tensor in (*biases, p, q)]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    best, waited = model, 0
    for step in range(STEPS):
        if step % EVERY == 0:
            with torch.no_grad():
                error = model.predict(validation.pairs) - validation.values
            value = float(np.sqrt(np.mean(error**2)))
            waited += 1
            if value < best.validation:
                best, waited = _copy(model, value), 0
            if waited == PATIENCE:
                break
        loss = (stars - _predict(model, users, items)).square().sum()
        loss = loss + bias_l2 * sum(b.square().sum() for b in biases)
        loss = loss + factor_l2 * sum(f.square().sum() for f in (p, q))
        optimizer.zero_grad()
        (loss / len(stars)).backward()
        optimizer.step()
    return best


def _predict(model: Factorisation, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    of_users, of_items = model.biases
    p, q = model.factors
    return model.mean + of_users[users] + of_items[items] + (p[users] * q[items]).sum(dim=1)


def _copy(model: Factorisation, validation: float) -> Factorisation:
    (first, second), (p, q) = (
        [tensor.detach().clone() for tensor in pair] for pair in (model.biases, model.factors)
    )
    return replace(model, biases=(first, second), factors=(p, q), validation=validation)
