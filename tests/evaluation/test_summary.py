from __future__ import annotations

from pathlib import Path

import pytest

from p5_t5.evaluation.summary import best_templates, sensitivity
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import TASKS


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    return read_corpus(toy, read_tasks(["sequential", "rating"]), PromptSettings(), seed=42)


def test_templates_are_ordered_within_each_kind_of_answer(corpus: Corpus) -> None:
    report = {
        "sequential": {"2-1": {"ndcg@10": 0.1}, "continue-1": {"ndcg@10": 0.3}},
        "rating": {"1-2": {"rmse": 1.2}, "1-5": {"rmse": 0.9}, "1-9": {"auc": 0.6}},
    }
    tasks = [TASKS["sequential"], TASKS["rating"]]
    order = best_templates(report, tasks, corpus.templates)
    assert order["sequential"][:2] == ["continue-1", "2-1"]
    assert order["rating"][:2] == ["1-5", "1-2"]
    assert order["rating"][-4:] == ["1-4", "rated-5", "compared-4", "habit-4"]
    assert "1-10" not in order["rating"]
    seen = [t.id for t in corpus.of(TASKS["rating"]) if not t.heldout]
    assert sorted(order["rating"]) == sorted(seen)


def test_the_spread_is_over_the_templates_of_one_kind(corpus: Corpus) -> None:
    report = {
        "rating": {
            "1-2": {"rmse": 1.0, "n": 3}, "1-5": {"rmse": 2.0, "n": 3},
            "1-3": {"auc": 0.5, "n": 3}, "1-4": {"auc": 0.7, "n": 3},
        }
    }  # fmt: skip
    assert sensitivity(report, corpus.templates) == {
        "rating": {
            "stars": {"rmse": {"mean": 1.5, "min": 1.0, "max": 2.0, "templates": 2}},
            "yes_no": {"auc": {"mean": 0.5, "min": 0.5, "max": 0.5, "templates": 1}},
            "like": {"auc": {"mean": 0.7, "min": 0.7, "max": 0.7, "templates": 1}},
        }
    }
