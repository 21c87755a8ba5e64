"""benchmarks/explanations.py: the same rows for every rule, right sums, and a reason to skip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import explanations
import pytest

WORDS = ("great", "good", "nice", "poor", "fine")
KEYS = {"words", "precision", "recall", "f1", "coverage", "in_list", "in_user"}


def benchmark(folder: Path, output: pytest.CaptureFixture[str]) -> dict[str, object]:
    explanations.main(["--dataset", str(folder), "--json"])
    found: dict[str, object] = json.loads(output.readouterr().out.splitlines()[-1])
    return found


def test_without_its_files_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = str(benchmark(tmp_path, capsys)["skipped"])
    assert "has no reviews_Musical_Instruments_5.json.gz and no sentires_features.json" in reason


def test_rules_on_made_reviews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "reviewerID": f"u{user}",
            "asin": f"i{at}",
            "overall": 5,
            "unixReviewTime": at,
            "reviewText": f"I bought it. It has a {WORDS[(user + at) % 5]} tone. The end.",
        }
        for user in range(10)
        for at in range(5)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "reviews_Musical_Instruments_5.json.gz").write_bytes(gzip.compress(text))
    (tmp_path / "sentires_features.json").write_text('["tone", "price"]')
    users = {f"u{user}": {"tone": 1.0} if user else {"price": 1.0} for user in range(8)}
    (tmp_path / "sentires_user_feature_sentiment.json").write_text(json.dumps(users))
    found = benchmark(tmp_path, capsys)
    results = found["results"]
    assert isinstance(results, dict)
    assert len(results) == 4
    assert all(values.keys() >= KEYS for values in results.values())
    ours = results["learnt from judgements"]
    assert (ours["words"], ours["precision"], ours["recall"]) == (1, 1.0, 0.5)
    assert ours["f1"] == pytest.approx(2 / 3)
    assert (ours["coverage"], ours["in_list"]) == (1.0, 1.0)
    # seven of the eight known users judge the tone, and each is one pair
    assert ours["in_user"] == ours["pair_precision"] == ours["pair_recall"] == 7 / 8
