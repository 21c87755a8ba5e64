"""Feature words learnt from reviews, held against those of another tool and two simpler rules.

    python benchmarks/explanations.py --dataset FOLDER [--json]

The folder holds the reviews of Musical Instruments (Amazon 2014, 5-core) and the two files that
Sentires wrote for them: its feature words, and for each user the features that the user's reviews
judge. Sentires reads all reviews; everything here learns from those of training interactions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from listed_words import choose_features, shared_words
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.feature_words import FeatureWords, learn_feature_words
from p5_t5.prompting.review_explanations import choose_sentences

REVIEWS = "reviews_Musical_Instruments_5.json.gz"
WORDS, USERS = "sentires_features.json", "sentires_user_feature_sentiment.json"
PREPARER = Path(__file__).resolve().parents[1] / "data" / "amazon_2014.py"
TERM = {"stop_words": "english", "token_pattern": r"(?i)\b[a-z]{3,}\b", "min_df": 2}
COLUMNS = (
    *("words", "precision", "recall", "f1", "best_f1", "coverage", "in_list", "in_user"),
    *("pair_precision", "pair_recall", "seconds"),
)

Features = list[str | None]


@dataclass(frozen=True)
class Reference:
    """What Sentires found: feature words, and for each user those that the user judged."""

    words: frozenset[str]
    users: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """Reads the two files of a folder."""
        users = json.loads((folder / USERS).read_text("utf-8"))
        words = json.loads((folder / WORDS).read_text("utf-8"))
        return cls(frozenset(words), {user: frozenset(own) for user, own in users.items()})


def read_split(path: Path) -> Split:
    """Reads a file of reviews and leaves the last two of each user out."""
    reviews, users = runpy.run_path(str(PREPARER))["read_reviews"](path)
    return leave_one_out(check_tables("reviews", reviews, users=users))


def ranked_terms(vectorizer: CountVectorizer, reviews: Sequence[str]) -> dict[str, float]:
    """All terms with their mean value, greatest first; equal ones in alphabetical order."""
    values = np.asarray(vectorizer.fit_transform(reviews).mean(axis=0)).ravel()
    names = vectorizer.get_feature_names_out()
    return {str(names[at]): float(values[at]) for at in np.argsort(-values, kind="stable")}


def f1(found: int, listed: int, wanted: int) -> float:
    """The harmonic mean of precision and recall of ``listed`` words, ``found`` of them right."""
    return 2 * found / (listed + wanted)


def judge(
    words: Sequence[str], features: Features, user_ids: Sequence[str], reference: Reference
) -> dict[str, float]:
    """How a list of words and the features of all interactions agree with the reference."""
    right = len(reference.words & set(words))
    rows = [(user, word) for user, word in zip(user_ids, features, strict=True) if word]
    known = [(user, word) for user, word in rows if user in reference.users]
    pairs = set(known)
    hits = sum(word in reference.users[user] for user, word in pairs)
    return {
        "words": len(words),
        "precision": right / len(words),
        "recall": right / len(reference.words),
        "f1": f1(right, len(words), len(reference.words)),
        "coverage": len(rows) / len(features),
        "in_list": sum(word in reference.words for _, word in rows) / len(rows),
        "in_user": sum(word in reference.users[user] for user, word in known) / len(known),
        "pair_precision": hits / len(pairs),
        "pair_recall": hits / sum(map(len, reference.users.values())),
    }


def best_size(ranked: Sequence[str], reference: Reference) -> float:
    """The best F1 that any number of the first words has: a choice made on the reference."""
    right = np.cumsum([word in reference.words for word in ranked])
    sizes = np.arange(1, len(ranked) + 1)
    return float(np.max(2 * right / (sizes + len(reference.words))))


def compare(split: Split, reference: Reference) -> dict[str, dict[str, float]]:
    """All rules on one split."""
    reviews = split.texts["review"]
    training = [reviews[row] for row in split.rows("train").tolist()]
    lengths = np.diff(split.histories.offsets)
    user_ids = np.repeat(np.array(split.histories.user_ids), lengths).tolist()
    results: dict[str, dict[str, float]] = {}

    def run(name: str, rule: Callable[[], tuple[Sequence[str], Features]]) -> None:
        start = time.perf_counter()
        words, features = rule()
        seconds = time.perf_counter() - start
        results[name] = judge(words, features, user_ids, reference) | {"seconds": seconds}

    learnt = learn_feature_words(training)

    def ours() -> tuple[Sequence[str], Features]:
        words = learn_feature_words(training)
        return list(words.weights), choose_sentences(reviews, words)[1]

    def listed() -> tuple[Sequence[str], Features]:
        counts = shared_words(training)
        return list(counts), choose_features(reviews, counts)

    run("learnt from judgements", ours)
    run("shared words, hand-written list", listed)
    counts = shared_words(training)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    results["shared words, hand-written list"]["best_f1"] = best_size(ranked, reference)
    for name, kind in (("most frequent terms", CountVectorizer), ("TF-IDF terms", TfidfVectorizer)):
        terms = ranked_terms(kind(**TERM), [text or "" for text in training])

        def first(terms: dict[str, float] = terms) -> tuple[Sequence[str], Features]:
            chosen = dict(list(terms.items())[: len(learnt.weights)])
            words = FeatureWords(chosen, learnt.opinions - chosen.keys())
            return list(chosen), choose_sentences(reviews, words)[1]

        run(name, first)
        results[name]["best_f1"] = best_size(list(terms), reference)
    return results


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as a markdown table."""
    lines = ["| rule | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, values in results.items():
        cells = [
            ""
            if column not in values
            else f"{values[column]:{'d' if column == 'words' else '.3f'}}"
            for column in COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help=f"folder with {REVIEWS} ...")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    missing = [n for n in (REVIEWS, WORDS, USERS) if not (options.dataset / n).is_file()]
    if missing:
        reason = f"{options.dataset} has no {' and no '.join(missing)}"
        print(f"skipped: {reason}")
        if options.json:
            print(json.dumps({"skipped": reason}))
        return
    results = compare(read_split(options.dataset / REVIEWS), Reference.read(options.dataset))
    print(table(results))
    if options.json:
        packages = ("polars", "numpy", "scikit-learn")
        print(
            json.dumps(
                {
                    "dataset": options.dataset.name,
                    "results": results,
                    "versions": {name: version(name) for name in packages},
                    "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
                }
            )
        )


if __name__ == "__main__":
    main()
