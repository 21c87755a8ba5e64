"""Which way words lean: towards the stars of the texts that have them."""

from __future__ import annotations

import numpy as np
import pytest

from p5_t5.data.leanings import word_leanings

GOOD, BAD, PLAIN, RARE, UNSEEN = range(5)


def stars(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def test_words_lean_to_the_stars_of_their_texts() -> None:
    texts = [[PLAIN, GOOD], [PLAIN, BAD], [PLAIN, GOOD, BAD], [PLAIN]] * 10 + [[PLAIN, RARE]]
    found = word_leanings(texts, stars(*[5, 1, 3, 3] * 10, 5), 5)
    assert found[GOOD] > 0.5 and found[BAD] < -0.5
    assert abs(found[PLAIN]) < 0.2
    # Two texts with a word, or one, say only which they are.
    assert found[[RARE, UNSEEN]].tolist() == [0, 0]


def test_a_usual_word_leans_by_one() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 50, 10).tolist() for _ in range(300)]
    for scale in (1, 20):
        found = word_leanings(texts, stars(*(scale * rng.integers(1, 6, 300))), 50)
        uses = np.bincount([word for text in texts for word in set(text)], minlength=50)
        assert np.average(found**2, weights=uses) == pytest.approx(1)


@pytest.mark.parametrize(
    ("texts", "given"),
    [
        ([[0, 1]] * 5, [4, 4, 4, 4, 4]),
        ([[0], [1]], [1, 5]),
        ([[]] * 4, [1, 2, 3, 4]),
        ([[0, 1]] * 4, [1, 2, 3, 4]),
    ],
    ids=["one number of stars", "few texts", "empty texts", "the same text"],
)
def test_where_nothing_is_said_nothing_leans(texts: list[list[int]], given: list[int]) -> None:
    assert word_leanings(texts, stars(*given), 3).tolist() == [0, 0, 0]
