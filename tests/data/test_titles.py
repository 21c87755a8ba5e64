from __future__ import annotations

import pytest

from p5_t5.data.titles import tidy_title


@pytest.mark.parametrize(
    ("listed", "title", "year"),
    [
        ("Truman Show, The (1998)", "The Truman Show", 1998),
        ("Fish Called Wanda, A (1988)", "A Fish Called Wanda", 1988),
        (
            "Land Before Time III: The Time of the Great Giving (1995) (V)",
            "Land Before Time III: The Time of the Great Giving",
            1995,
        ),
        (
            "Star Maker, The (Uomo delle stelle, L') (1995)",
            "The Star Maker (L'Uomo delle stelle)",
            1995,
        ),
        ("Paris, Texas (1984)", "Paris, Texas", 1984),
        ("Bye Bye, Love (1995)", "Bye Bye, Love", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("unknown", "unknown", None),
    ],
)
def test_titles_are_tidied(listed: str, title: str, year: int | None) -> None:
    assert tidy_title(listed) == (title, year)
