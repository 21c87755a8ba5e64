"""Probabilities of stars that are true on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats = npt.NDArray[np.float64]

# A model may be as sure as can be said.
_LEAST = 1e-9
# What moves the probabilities must be worth it: so many examples' worth of doubt stands for each
# star's shift, so that a star that hardly anybody gave stays possible.
_PRIOR = 1.0


@dataclass(frozen=True)
class StarCalibration:
    """How a model's probabilities of stars are turned into those that came true.

    Dropout makes a model surer than it learnt to be, which draws expected stars to the commonest
    answer. This is vector scaling (Guo et al., ICML 2017) with one factor for all stars.

    Attributes:
        slope: what log-probabilities are multiplied with; the inverse of a temperature.
        shifts: what is added to each star's afterwards, shape (stars,).
    """

    slope: float
    shifts: tuple[float, ...]

    def apply(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities, shape (examples, stars) like what is given."""
        logs = np.log(np.maximum(probabilities, _LEAST))
        found: Floats = np.exp(log_softmax(self.slope * logs + np.array(self.shifts), axis=1))
        return found


def calibration_of(
    calibrations: Mapping[str, StarCalibration], wording: str
) -> StarCalibration | None:
    """That of a template, FAMILY/ID; where it has none that of its family for other wordings."""
    return calibrations.get(wording, calibrations.get(wording.partition("/")[0]))


def fit_calibration(probabilities: Floats, given: npt.NDArray[np.int64]) -> StarCalibration:
    """Finds the calibration with which the given stars are the most probable.

    Args:
        probabilities: of a model that has not learnt these examples, shape (examples, stars).
        given: which star each example has, shape (examples,).
    """
    logs = np.log(np.maximum(probabilities, _LEAST))
    count, stars = logs.shape
    truth = np.zeros((count, stars))
    truth[np.arange(count), given] = 1.0

    def loss(parameters: Floats) -> tuple[float, Floats]:
        slope, shifts = parameters[0], parameters[1:]
        scores = log_softmax(slope * logs + shifts, axis=1)
        off = np.exp(scores) - truth
        doubt = _PRIOR * ((slope - 1) ** 2 + np.square(shifts).sum()) / 2
        gradient = np.concatenate([[(off * logs).sum()], off.sum(axis=0)])
        gradient += _PRIOR * np.concatenate([[slope - 1], shifts])
        return float(doubt - (scores * truth).sum()), gradient

    start = np.concatenate([[1.0], np.zeros(stars)])
    # A slope below nought would turn the model's order round.
    bounds = [(0.0, None), *[(None, None)] * stars]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
    return StarCalibration(found[0], tuple(found[1:]))
