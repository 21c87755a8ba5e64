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
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from listed_words import choose_features, shared_words
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.feature_words import learn_feature_words
from p5_t5.prompting.review_explanations import choose_sentences

REVIEWS = "reviews_Musical_Instruments_5.json.gz"
WORDS, USERS = "sentires_features.json", "sentires_user_feature_sentiment.json"
PREPARER = Path(__file__).resolve().parents[1] / "data" / "amazon_2014.py"
COUNTS = ("words", "best_words")
COLUMNS = (
    *("words", "precision", "recall", "f1", "best_words", "best_f1", "coverage"),
    *("in_list", "in_user", "pair_precision", "pair_recall", "seconds"),
)

Reviews = Sequence[str | None]


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


@dataclass(frozen=True)
class Answer:
    """What a rule finds: feature words, and the feature of each interaction's explanation.

    ``ranked`` holds all the words that the rule could have listed, the surest first.
    """

    words: Sequence[str]
    features: Sequence[str | None]
    ranked: Sequence[str] = ()


def learnt(training: Reviews, reviews: Reviews) -> Answer:
    """The rule of this project."""
    words = learn_feature_words(training)
    return Answer(list(words.weights), choose_sentences(reviews, words)[1])


def listed(training: Reviews, reviews: Reviews) -> Answer:
    """The rule before it."""
    counts = shared_words(training)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return Answer(ranked, choose_features(reviews, counts), ranked)


def terms(kind: type[CountVectorizer], size: int, training: Reviews, reviews: Reviews) -> Answer:
    """The terms of the greatest mean value; of a review, the one that is greatest in it."""
    vectorizer = kind(stop_words="english", token_pattern=r"(?i)\b[a-z]{3,}\b", min_df=2)
    values = vectorizer.fit_transform([text or "" for text in training]).mean(axis=0)
    order = np.argsort(-np.asarray(values).ravel(), kind="stable")
    ranked = vectorizer.get_feature_names_out()[order].tolist()
    own = vectorizer.transform([text or "" for text in reviews])[:, order[:size]].toarray()
    best, found = own.argmax(axis=1).tolist(), own.any(axis=1).tolist()
    features = [ranked[at] if known else None for at, known in zip(best, found, strict=True)]
    return Answer(ranked[:size], features, ranked)


def judge(answer: Answer, user_ids: Sequence[str], reference: Reference) -> dict[str, float]:
    """How an answer agrees with the reference."""
    listed, wanted = len(answer.words), len(reference.words)
    right = len(reference.words & set(answer.words))
    rows = [(user, word) for user, word in zip(user_ids, answer.features, strict=True) if word]
    known = [(user, word) for user, word in rows if user in reference.users]
    pairs = set(known)
    hits = sum(word in reference.users[user] for user, word in pairs)
    result = {
        "words": listed,
        "precision": right / listed,
        "recall": right / wanted,
        "f1": 2 * right / (listed + wanted),
        "coverage": len(rows) / len(answer.features),
        "in_list": sum(word in reference.words for _, word in rows) / len(rows),
        "in_user": sum(word in reference.users[user] for user, word in known) / len(known),
        "pair_precision": hits / len(pairs),
        "pair_recall": hits / sum(map(len, reference.users.values())),
    }
    if answer.ranked:
        found = np.cumsum([word in reference.words for word in answer.ranked])
        scores = 2 * found / (np.arange(1, len(found) + 1) + wanted)
        # Chosen by the reference itself, so an upper bound for rules that leave their size open.
        result |= {"best_f1": float(scores.max()), "best_words": int(scores.argmax()) + 1}
    return result


def compare(split: Split, reference: Reference) -> dict[str, dict[str, float]]:
    """All rules on one split."""
    reviews = split.texts["review"]
    training = [reviews[row] for row in split.rows("train").tolist()]
    lengths = np.diff(split.histories.offsets)
    user_ids = np.repeat(np.array(split.histories.user_ids), lengths).tolist()
    size = len(learn_feature_words(training).weights)
    rules: dict[str, Callable[[Reviews, Reviews], Answer]] = {
        "learnt from judgements": learnt,
        "shared words, hand-written list": listed,
        "most frequent terms": partial(terms, CountVectorizer, size),
        "TF-IDF terms": partial(terms, TfidfVectorizer, size),
    }
    results = {}
    for name, rule in rules.items():
        start = time.perf_counter()
        answer = rule(training, reviews)
        seconds = time.perf_counter() - start
        results[name] = judge(answer, user_ids, reference) | {"seconds": seconds}
    return results


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as a markdown table."""
    lines = ["| rule | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, values in results.items():
        cells = [
            f"{values[column]:{'d' if column in COUNTS else '.3f'}}" if column in values else ""
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
