"""What is measured on validation and kept: the choice of weights, and calibrated stars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p5_t5.artifact import load_artifact
from p5_t5.decoding.calibration import fit_calibration
from p5_t5.evaluation.evaluator import Evaluator, questions
from p5_t5.evaluation.validation import Validation
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import TASKS
from p5_t5.protocol import CORRECTED


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    tasks = read_tasks(["sequential", "rating", "explanation", "direct", "review", "zero-shot"])
    return read_corpus(toy, tasks, PromptSettings(), seed=42)


@pytest.fixture
def validation(trained: Path, corpus: Corpus) -> Validation:
    model, tokenizer, knowledge = load_artifact(trained)
    knowledge = replace(knowledge, calibrations={}, repeats=0.0)  # as while it is trained
    evaluator = Evaluator(knowledge.predictor(model, tokenizer), corpus.prompter, corpus.split)
    return Validation(evaluator, corpus, at_most=64, keep_seen=True)


def test_it_picks_by_the_mean_over_the_seen_templates(validation: Validation) -> None:
    validation = replace(validation, metrics=["rating/rmse"])
    found = validation.run()
    assert set(found) == {"sequential", "rating", "review", "direct"}
    lists = {"rated-1", "compared-1", "compared-4", "habit-1", "habit-4"}
    assert set(found["rating"]) == {"1-4", "1-6"} | lists  # reported, and not held out
    assert set(found["direct"]) == {"5-1", "5-4", "5-5", "pick-1", "pick-2"}
    rows = [row["rmse"] for row in found["rating"].values() if "rmse" in row]
    assert validation.value(found) == pytest.approx(-np.log(np.mean(rows)))
    assert f"{min(rows):.4f} to {max(rows):.4f}" in validation.line(found)
    first = replace(validation, metrics=["sequential/ndcg@10"])
    own = [row["ndcg@10"] for row in found["sequential"].values()]
    assert len(own) == 4
    assert first.value(found) == pytest.approx(np.log(np.mean(own)))
    nothing = {
        "sequential": {id_: row | {"ndcg@10": 0.0} for id_, row in found["sequential"].items()}
    }
    assert -np.inf < first.value(nothing) < first.value(found)
    both = replace(validation, metrics=["rating/rmse", "sequential/ndcg@10"])
    assert both.value(found) == pytest.approx(np.log(np.mean(own) / np.mean(rows)) / 2)
    means = validation.means(found)
    kinds = {"direct/ndcg@10/candidates", "direct/yes_no/accuracy", "review/rmse"}
    assert kinds <= set(means)
    every = {
        *("sequential/ndcg@10", "rating/rmse", "rating/like/auc", "review/rmse"),
        *("direct/ndcg@10/candidates", "direct/yes_no/auc", "direct/pick/ndcg@10/candidates"),
    }
    logs = [(-1 if "rmse" in name else 1) * np.log(means[name]) for name in every]
    assert replace(validation, metrics=()).value(found) == pytest.approx(np.mean(logs))
    wrong = replace(validation, metrics=["rating/ndcg@10"])
    with pytest.raises(ValueError, match="rating/rmse"):
        wrong.value(found)


def test_a_seen_template_is_calibrated_alone_and_others_by_their_family(
    validation: Validation,
) -> None:
    corpus, evaluator, task = validation.corpus, validation.evaluator, TASKS["rating"]
    found = validation.calibrate()
    stars = [t for t in corpus.of(task) if t.answer == "stars"]
    names = {f"rating/{t.id}" for t in stars if not t.heldout}
    assert {name for name in found if name.startswith("rating")} == {"rating", *names}
    assert "review" in found and not any(name.startswith("zero-shot") for name in found)
    both = []
    for template in stars:
        asked = questions(corpus.split, task, "validation", needs=template.needs)
        probabilities, actual = evaluator.star_probabilities(task, template, asked)
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(asked)), abs=1e-4)
        calibration = found.get(f"rating/{template.id}", found["rating"])
        expected = calibration.apply(probabilities) @ np.arange(1.0, 6.0)
        metrics = evaluator.judge(task, template, asked)
        assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((expected - actual) ** 2)))
        if not template.heldout:
            both.append((probabilities, actual.astype(int) - 1))
            assert calibration == fit_calibration(*both[-1])
    assert fit_calibration(*map(np.concatenate, zip(*both, strict=True))) == found["rating"]


def test_decoded_stars_are_not_calibrated(validation: Validation) -> None:
    corpus, evaluator, task = validation.corpus, validation.evaluator, TASKS["rating"]
    template = next(t for t in corpus.templates if t.id == "compared-1")
    asked = questions(corpus.split, task, "validation", needs=template.needs)
    raw = evaluator.judge(task, template, asked)
    validation.calibrate()
    calibrated = evaluator.judge(task, template, asked)
    assert raw["rmse/decoded"] == calibrated["rmse/decoded"]
    assert raw["rmse"] != calibrated["rmse"]


def test_as_in_the_paper_stars_are_not_calibrated(validation: Validation) -> None:
    protocol = replace(CORRECTED, uncalibrated_stars=True)
    corpus = replace(validation.corpus, protocol=protocol)
    assert replace(validation, corpus=corpus).calibrate() == {}
    assert validation.evaluator.predictor.calibrations == {}


def test_items_come_again_as_often_as_on_validation(validation: Validation) -> None:
    corpus, evaluator, task = validation.corpus, validation.evaluator, TASKS["sequential"]
    templates = [t for t in corpus.reported() if t.answer == "next_item" and not t.heldout]
    own = [t for t in templates if t.family == "sequential"]

    def said() -> tuple[float, float]:
        """How often what a user has is the next item, as the model says and in truth."""
        told, true = [], []
        for template in own:
            asked = questions(corpus.split, task, "validation", needs=template.needs)
            prompts = evaluator._prompts(template, asked, evaluator._facts(task, template, asked))
            seen, count = evaluator.seen(asked), len(corpus.catalogue)
            items, scores = evaluator.predictor.rank(prompts, count, had=seen)
            again = [np.isin(row, had) for row, had in zip(items, seen, strict=True)]
            told.append((np.exp(scores) * again).sum(axis=1).mean())
            target = corpus.split.histories.items[asked.rows]
            true.append(np.mean([t in had for t, had in zip(target, seen, strict=True)]))
        return float(np.mean(told)), float(np.mean(true))

    before, true = said()
    shift = validation.calibrate_repeats()
    assert evaluator.predictor.repeats == shift != 0
    after, _ = said()
    assert abs(after - true) < abs(before - true)
    assert after == pytest.approx(true, abs=0.02)


def test_as_in_the_paper_what_comes_again_is_not_calibrated(validation: Validation) -> None:
    protocol = replace(CORRECTED, uncalibrated_repeats=True)
    corpus = replace(validation.corpus, protocol=protocol)
    assert replace(validation, corpus=corpus).calibrate_repeats() == 0
