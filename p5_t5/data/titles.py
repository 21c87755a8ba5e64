"""Titles as catalogues list them, turned into titles as people say them."""

from __future__ import annotations

import re

_ARTICLES = "The|A|An|Les|La|Le|L'|Das|Der|Die|Det|Il|El|O"


def tidy_title(title: str) -> tuple[str, int | None]:
    """Splits a listed title into a plain one and its year.

    "Blue Angel, The (Blaue Engel, Der) (1930)" becomes "The Blue Angel (Der Blaue Engel)", 1930.
    """
    title = " ".join(title.split())
    year = re.search(r" ?\((\d{4})\)(?: ?\([IV]+\))?$", title)
    if year:
        title = title[: year.start()]
    moved = re.sub(rf"(^|\()([^()]*), ({_ARTICLES})(?= ?\(|\)|$)", r"\1\3 \2", title)
    return moved.replace("L' ", "L'").strip(), int(year.group(1)) if year else None
