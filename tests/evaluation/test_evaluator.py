from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5_t5.artifact import load_artifact
from p5_t5.data.catalogue import Catalogue
from p5_t5.decoding.diversity import Diversity
from p5_t5.evaluation.evaluator import Evaluator, best_templates, questions
from p5_t5.evaluation.metrics import diversity_metrics, ranking_metrics
from p5_t5.evaluation.validation import Validation
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import Prompter, PromptSettings
from p5_t5.prompting.tasks import TASKS


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    tasks = read_tasks(["sequential", "rating", "explanation"])
    return read_corpus(toy, tasks, PromptSettings(), seed=42)


@pytest.fixture(scope="module")
def evaluator(trained: Path, corpus: Corpus) -> Evaluator:
    model, tokenizer, knowledge = load_artifact(trained)
    return Evaluator(knowledge.predictor(model, tokenizer), corpus.prompter, corpus.split)


def test_a_choice_of_questions_is_the_same_each_time(corpus: Corpus) -> None:
    task = TASKS["sequential"]
    first, second = (questions(corpus.split, task, "test", 17) for _ in range(2))
    assert len(first) == 17
    assert np.array_equal(first.users, second.users)
    assert len(questions(corpus.split, task, "test", 10**6)) == 200


def test_metrics_are_those_of_the_lists_that_the_model_gives(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    """The same lists, asked for one user at a time and judged by hand."""
    task = TASKS["sequential"]
    template = next(t for t in corpus.templates if t.id == "continue-2")
    asked = questions(corpus.split, task, "test", 12)
    metrics = evaluator.judge(task, template, asked)
    lists = []
    for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True):
        state = corpus.split.histories.state(user, position)
        prompt = corpus.prompter.render(template, state, task.asked(corpus.split, user, position))
        items, _ = evaluator.predictor.rank([prompt], 20, [state.items])
        assert not set(items[0].tolist()) & set(state.items.tolist())
        lists.append(items[0])
    expected = ranking_metrics(np.stack(lists), corpus.split.histories.items[asked.rows])
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name
    assert "hr@10/keep_seen" in metrics


def test_lists_are_judged_as_diverse_as_they_are_made(corpus: Corpus, evaluator: Evaluator) -> None:
    task, catalogue = TASKS["sequential"], corpus.catalogue
    template = next(t for t in corpus.templates if t.id == "continue-2")
    asked = questions(corpus.split, task, "test", 12)
    plain = evaluator.judge(task, template, asked)
    prompts = [
        corpus.prompter.render(
            template, corpus.split.histories.state(u, p), task.asked(corpus.split, u, p)
        )
        for u, p in zip(asked.users.tolist(), asked.positions.tolist(), strict=True)
    ]
    ranking = evaluator.predictor.rank(prompts, 100, evaluator.seen(asked))
    for diversity, items in (
        (Diversity(), ranking[0][:, :20]),
        (Diversity(0.8), Diversity(0.8).rerank(*ranking, catalogue.category_matrix, 20)[0]),
    ):
        own = Evaluator(evaluator.predictor, corpus.prompter, corpus.split, diversity)
        metrics = own.judge(task, template, asked)
        expected = diversity_metrics(items, len(catalogue), catalogue.category_matrix)
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value), name
    assert metrics["intra_list_distance@10"] > plain["intra_list_distance@10"]
    assert "gini@10/keep_seen" in metrics


def test_without_categories_there_is_no_distance(corpus: Corpus, evaluator: Evaluator) -> None:
    task = TASKS["sequential"]
    template = next(t for t in corpus.templates if t.id == "continue-2")
    bare = Catalogue(corpus.catalogue.table.drop("categories"), corpus.catalogue.codes)
    prompter = Prompter(bare, corpus.prompter.settings)
    asked = questions(corpus.split, task, "test", 3)
    metrics = Evaluator(evaluator.predictor, prompter, corpus.split).judge(task, template, asked)
    assert "coverage@10" in metrics and "intra_list_distance@10" not in metrics


def test_every_template_of_a_task_is_judged_on_the_same_rows(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    found = evaluator.evaluate([TASKS["rating"]], corpus.templates, "test", at_most=9)
    assert {row["n"] for row in found["rating"].values()} == {9}
    assert set(found["rating"]) == {t.id for t in corpus.templates if t.family == "rating"}


def test_validation_picks_by_the_mean_over_the_seen_templates(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    validation = Validation(evaluator, corpus, at_most=8, keep_seen=True, metric="rating/rmse")
    found = validation.run()
    assert set(found) == {"sequential", "rating"}
    assert "1-10" not in found["rating"]  # held out
    rows = [row["rmse"] for row in found["rating"].values()]
    assert validation.value(found) == pytest.approx(-np.mean(rows))
    assert f"{min(rows):.4f} to {max(rows):.4f}" in validation.line(found)
    wrong = Validation(evaluator, corpus, at_most=8, keep_seen=True, metric="rating/ndcg@10")
    with pytest.raises(ValueError, match="rating/rmse"):
        wrong.value(found)


def test_templates_are_ordered_by_each_tasks_own_metric(corpus: Corpus) -> None:
    report = {
        "sequential": {"2-1": {"ndcg@10": 0.1}, "continue-1": {"ndcg@10": 0.3}},
        "rating": {"1-2": {"rmse": 1.2}, "1-5": {"rmse": 0.9}},
    }
    tasks = [TASKS["sequential"], TASKS["rating"]]
    order = best_templates(report, tasks, corpus.templates)
    assert order["sequential"][:2] == ["continue-1", "2-1"]
    assert order["rating"][:2] == ["1-5", "1-2"]
    assert "1-10" not in order["rating"]
