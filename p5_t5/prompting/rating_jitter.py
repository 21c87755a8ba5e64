"""Stars drawn around the true ones, as P5's program teaches them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What the text of a drawn rating may be.
TENTHS = tuple(round(1 + step / 10, 1) for step in range(41))

# Of one to five stars.
_MEANS = (1.2, 1.95, 2.95, 3.95, 4.75)
_DEVIATIONS = (0.1, 0.225, 0.225, 0.225, 0.125)


def check_whole_stars(ratings: Sequence[float]) -> None:
    """Makes sure that there is a distribution for each rating.

    Raises:
        ValueError: a rating is not 1, 2, 3, 4 or 5.
    """
    for rating in ratings:
        if rating not in range(1, 6):
            raise ValueError(
                f"--rating_jitter expects ratings of 1, 2, 3, 4 or 5 stars, but the data has "
                f"{rating:g}; set --rating_jitter false"
            )


def jittered(rating: float, draw: int) -> float:
    """A rating in tenths from 1 to 5, normal around the given stars.

    Args:
        rating: whole stars from 1 to 5.
        draw: the example's random number.
    """
    star = int(rating) - 1
    drawn = np.random.default_rng([2, draw]).normal(_MEANS[star], _DEVIATIONS[star])
    return round(float(np.clip(drawn, 1, 5)), 1)
