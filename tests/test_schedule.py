from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5_t5.schedule import Progress, Schedule, most_steps


def test_the_limit_that_is_reached_first_counts() -> None:
    schedule = Schedule(steps=100, minutes=2, rate=1.0, warmup=0.1)
    assert schedule.share(Progress(step=50, seconds=6)) == 0.5
    assert schedule.share(Progress(step=5, seconds=90)) == 0.75
    assert schedule.share(Progress(step=500, seconds=90)) == 1.0
    assert Schedule(math.inf, 1, 1.0, 0.1).share(Progress(step=10**6, seconds=30)) == 0.5


@given(st.integers(0, 40), st.floats(0, 120))
def test_the_clock_counts_only_where_it_is_ahead_by_a_step(step: int, seconds: float) -> None:
    share = Schedule(steps=40, minutes=1, rate=1.0, warmup=0.1).share(Progress(step, seconds))
    ahead = seconds / 60 > (step + 1) / 40
    assert share == (min(seconds / 60, 1.0) if ahead else step / 40)


def test_the_rate_rises_to_its_top_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=100, minutes=None, rate=0.5, warmup=0.2)
    rates = [schedule.learning_rate(share / 10) for share in range(11)]
    assert rates[2] == 0.5 == max(rates)
    assert rates[1] == pytest.approx(0.25) and rates[6] == pytest.approx(0.25)
    assert 0 < rates[0] < 0.001 and 0 < rates[10] < 0.001


@given(st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.5]))
def test_the_rate_is_never_zero_nor_above_its_top(share: float, warmup: float) -> None:
    rate = Schedule(100, None, 2.0, warmup).learning_rate(share)
    assert 0 < rate <= 2.0


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [(None, None, math.inf), (30, None, 30), (None, 2.5, 50), (30, 2.5, 30), (None, 0.001, 1)],
)
def test_limits_in_steps_and_epochs(
    steps: int | None, epochs: float | None, expected: float
) -> None:
    assert most_steps(steps, epochs, 20) == expected


def test_progress_remembers_its_best_and_how_long_ago_it_was() -> None:
    progress = Progress()
    assert [progress.judge(v) for v in (0.1, 0.1, 0.05)] == [True, False, False]
    assert (progress.best, progress.waited) == (0.1, 2)
    progress.step = 7
    assert progress.judge(0.2)
    assert (progress.best_step, progress.waited) == (7, 0)
    again = Progress()
    again.load_state_dict(progress.state_dict())
    assert again == progress
