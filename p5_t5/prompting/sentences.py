"""Reviews as sentences, and sentences as the codes of their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

# Reviewers often leave out the blank before a new sentence ("It works.Great sound").
_BREAKS = ((r"([.!?][\"')]*)\s+", "$1\n"), (r"([\p{Ll}\p{N})][.!?]+)([\"'(]?\p{Lu})", "$1\n$2"))
_TOKEN = r"[\p{L}\p{N}]+(?:'\p{L}+)?|[.!?;:,()]|--"
END = "."  # stands after the last word of every sentence


@dataclass(frozen=True)
class Sentences:
    """The sentences of all reviews in reading order.

    Attributes:
        texts: shape (sentences,).
        reviews: the review that each stands in, shape (sentences,).
        vocabulary: all words (lower case) and marks, sorted, shape (vocabulary,).
        tokens: words and marks in reading order as codes into the vocabulary, shape (tokens,).
        sentences: the sentence that each token stands in, shape (tokens,).
    """

    texts: pl.Series
    reviews: npt.NDArray[np.int64]
    vocabulary: pl.Series
    tokens: npt.NDArray[np.int64]
    sentences: npt.NDArray[np.int64]


def split_sentences(reviews: Sequence[str | None]) -> Sentences:
    """Splits reviews at full stops, question and exclamation marks, and ends of lines."""
    text = pl.col("text")
    for pattern, replacement in _BREAKS:
        text = text.str.replace_all(pattern, replacement)
    frame = (
        pl.DataFrame({"text": pl.Series(reviews, dtype=pl.String)})
        .with_row_index("review")
        .with_columns(text.str.split("\n"))
        .explode("text")
        .with_columns(pl.col("text").str.strip_chars())
        .filter(pl.col("text") != "")
    )
    ended = frame["text"].str.to_lowercase().str.replace_all("’", "'") + f" {END}"
    tokens = ended.str.extract_all(_TOKEN)
    flat = tokens.explode().drop_nulls()
    vocabulary = flat.unique().sort()
    return Sentences(
        texts=frame["text"],
        reviews=frame["review"].to_numpy().astype(np.int64),
        vocabulary=vocabulary,
        tokens=flat.cast(pl.Enum(vocabulary)).to_physical().to_numpy().astype(np.int64),
        sentences=np.repeat(np.arange(len(tokens)), tokens.list.len().to_numpy()),
    )
