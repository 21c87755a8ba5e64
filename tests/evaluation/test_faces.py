"""The faces give the numbers of the pure functions, alone and combined, without a network."""

import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import scipy.sparse as sp

from p5_t5.evaluation import metrics
from p5_t5.evaluation.faces import (
    DiversityMetric,
    FeatureMatch,
    RankingMetric,
    RatingMetric,
    TextMetric,
)

RANKED = np.array([[7, 3, 5], [3, 7, 5], [1, 2, -1], [4, 7, 9]])
TARGET = np.array([7, 7, 7, 9])
TEXTS = ["a clear sound", "fits well in the bag", "the sound is thin"]
REFERENCES = ["the sound is clear", "it fits well in its bag", "thin sound"]
FEATURES = [None, "bag", "price"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    """Keep the files in which evaluate collects rows out of the user's cache."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    monkeypatch.setattr("evaluate.module.config.HF_METRICS_CACHE", tmp_path)


def test_ranking_in_batches_of_arrays_and_lists() -> None:
    face = RankingMetric(cutoffs=(1, 3))
    face.add_batch(predictions=RANKED[:2], references=TARGET[:2])
    face.add(prediction=[1, 2], reference=7)
    face.add_batch(predictions=[[4, 7, 9]], references=[9])
    assert face.compute() == metrics.ranking_metrics(RANKED, TARGET, (1, 3))


def test_diversity_alone_and_beside_ranking() -> None:
    categories = sp.csr_array(np.eye(12)[:, :6])
    face = DiversityMetric(12, categories, cutoff=3)
    face.add_batch(predictions=RANKED[:2])
    face.add(prediction=[1, 2])
    face.add(prediction=[4, 7, 9])
    expected = metrics.diversity_metrics(RANKED, 12, categories, 3)
    assert face.compute() == expected
    both = evaluate.combine([RankingMetric((1, 3)), DiversityMetric(12, categories, cutoff=3)])
    result = both.compute(predictions=RANKED, references=TARGET)
    assert result["gini@3"] == expected["gini@3"]
    assert result["mrr"] == metrics.ranking_metrics(RANKED, TARGET, (1, 3))["mrr"]


def test_a_face_starts_anew_after_compute() -> None:
    face = RankingMetric(cutoffs=(1,), keep_in_memory=True)
    for rows in (slice(0, 2), slice(2, 4)):
        result = face.compute(predictions=RANKED[rows], references=TARGET[rows])
        assert result == metrics.ranking_metrics(RANKED[rows], TARGET[rows], (1,))


def test_two_faces_of_one_kind_do_not_mix() -> None:
    one, other = RatingMetric(), RatingMetric()
    one.add(prediction=1, reference=2)
    other.add(prediction=1, reference=4)
    assert one.compute()["mae"] == 1
    assert other.compute()["mae"] == 3


def test_rating() -> None:
    face = RatingMetric()
    face.add_batch(predictions=np.array([3.5, 4.0], dtype=np.float32), references=[3, 5])
    face.add(prediction=2.0, reference=2)
    assert face.compute() == metrics.rating_metrics([3.5, 4, 2], [3, 5, 2])


def test_texts() -> None:
    expected = metrics.text_metrics(TEXTS, REFERENCES)
    assert TextMetric().compute(predictions=TEXTS, references=REFERENCES) == expected


def test_feature_match_takes_none_in_any_row() -> None:
    face = FeatureMatch()
    face.add(prediction=TEXTS[0], feature_words=FEATURES[0])
    face.add_batch(predictions=TEXTS[1:], feature_words=FEATURES[1:])
    assert face.compute() == {"feature_match": 1 / 2, "n": 2}


@pytest.mark.parametrize("at_once", [True, False])
def test_texts_and_features_combine(at_once: bool) -> None:
    both = evaluate.combine([TextMetric(), FeatureMatch()])
    columns = {"predictions": TEXTS, "references": REFERENCES, "feature_words": FEATURES}
    if at_once:
        result = both.compute(**columns)
    else:
        both.add_batch(**columns)
        result = both.compute()
    text = metrics.text_metrics(TEXTS, REFERENCES)
    feature = metrics.feature_match(TEXTS, FEATURES)
    text["text_metric_n"], feature["feature_match_n"] = text.pop("n"), feature.pop("n")
    assert result == {**text, **feature}


def test_two_cutoffs_combine_under_own_names() -> None:
    both = evaluate.combine({"top": RankingMetric((1,)), "page": RankingMetric((3,))})
    result = both.compute(predictions=RANKED, references=TARGET)
    assert result["hr@1"] == 1 / 4
    assert result["hr@3"] == 3 / 4
    assert result["top_mrr"] == result["page_mrr"]


def test_errors_of_the_metrics_pass_through() -> None:
    with pytest.raises(ValueError, match="cutoff 20 is larger than the 3 items"):
        RankingMetric().compute(predictions=RANKED, references=TARGET)
    with pytest.raises(ValueError, match="row 0 holds an item twice"):
        RankingMetric((1,)).compute(predictions=[[1, 1]], references=[1])
    with pytest.raises(ValueError, match="row 1 holds a value that is not a finite number"):
        RatingMetric().compute(predictions=[1, float("nan")], references=[1, 2])
    with pytest.raises(ValueError, match="Mismatch in the number"):
        TextMetric().compute(predictions=TEXTS, references=REFERENCES[:2])


def test_faces_need_no_network(tmp_path) -> None:
    """Importing, making and using the faces opens no connection."""
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a face opened a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
from p5_t5.evaluation.faces import FeatureMatch, RankingMetric, RatingMetric, TextMetric
assert RankingMetric((1,)).compute(predictions=[[3, 4]], references=[3])["hr@1"] == 1
assert RatingMetric().compute(predictions=[3], references=[4])["mae"] == 1
both = evaluate.combine([TextMetric(), FeatureMatch()])
both.add_batch(predictions=["a b"], references=["a b"], feature_words=["b"])
assert both.compute()["feature_match"] == 1
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr
