from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.decoding.calibration import StarCalibration, calibration_of, fit_calibration

STARS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


def world(seed: int, count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True probabilities, those of a model that is surer by a factor, and the stars given."""
    generator = np.random.default_rng(seed)
    true = generator.dirichlet([0.4, 0.4, 0.8, 1.5, 3.0], count)
    sharp = true**sharpness
    sharp /= sharp.sum(axis=1, keepdims=True)
    stars = (generator.random((count, 1)) > true.cumsum(axis=1)).sum(axis=1)
    return true, sharp, np.minimum(stars, 4)


def surprise(probabilities: np.ndarray, stars: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(stars)), stars]).mean())


def test_without_slope_and_shifts_nothing_changes() -> None:
    _, sharp, _ = world(0, 50, 2.0)
    same = StarCalibration(1.0, (0.0,) * 5).apply(sharp)
    assert same == pytest.approx(sharp, abs=1e-8)


def test_a_model_that_is_too_sure_is_told_so() -> None:
    true, sharp, stars = world(1, 20_000, 1.6)
    found = fit_calibration(sharp, stars)
    assert found.slope == pytest.approx(1 / 1.6, rel=0.03)
    calibrated = found.apply(sharp)
    assert np.abs(calibrated - true).mean() < 0.01 < 0.04 < np.abs(sharp - true).mean()
    bias = (sharp @ STARS).mean() - STARS[stars].mean()
    assert bias > 0.1 and abs((calibrated @ STARS).mean() - STARS[stars].mean()) < 1e-3


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 60), st.floats(0.2, 4.0), st.integers(0, 4))
def test_what_came_true_is_never_less_probable_afterwards(
    seed: int, count: int, sharpness: float, most: int
) -> None:
    _, sharp, stars = world(seed, count, sharpness)
    stars = np.minimum(stars, most)  # some stars may never be given
    calibrated = fit_calibration(sharp, stars).apply(sharp)
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(count))
    assert (calibrated > 0).all()
    assert surprise(calibrated, stars) <= surprise(np.maximum(sharp, 1e-9), stars) + 1e-6


def test_a_model_that_is_certain_can_be_wrong() -> None:
    certain = np.eye(5)[[4, 4, 4, 4]]
    calibrated = fit_calibration(certain, np.array([4, 4, 4, 0])).apply(certain)
    assert np.isfinite(calibrated).all() and 3 < (calibrated @ STARS)[0] < 5


def test_a_wording_without_its_own_has_that_of_its_family() -> None:
    own, others = StarCalibration(1.0, (0.0, 1.0)), StarCalibration(2.0, (0.0, 0.0))
    known = {"rating/1-6": own, "rating": others}
    assert calibration_of(known, "rating/1-6") is own
    assert calibration_of(known, "rating/mine") is others
    assert calibration_of(known, "zero-shot/Z-2") is None
    assert calibration_of({}, "rating/1-6") is None
