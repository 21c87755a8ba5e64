from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5_t5.artifact import load_artifact
from p5_t5.data.catalogue import Catalogue
from p5_t5.decoding.diversity import Diversity
from p5_t5.evaluation.evaluator import (
    Evaluator,
    RankedLists,
    questions,
    word_metrics,
)
from p5_t5.evaluation.metrics import binary_metrics, diversity_metrics, ranking_metrics
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import Asked, Prompter, PromptSettings
from p5_t5.prompting.reasons import Reason
from p5_t5.prompting.tasks import TASKS
from p5_t5.prompting.templates import PromptTemplate


@pytest.fixture(scope="module")
def corpus(toy: Path) -> Corpus:
    tasks = read_tasks(["sequential", "rating", "explanation", "direct", "review", "zero-shot"])
    return read_corpus(toy, tasks, PromptSettings(), seed=42)


@pytest.fixture(scope="module")
def evaluator(trained: Path, corpus: Corpus) -> Evaluator:
    model, tokenizer, knowledge = load_artifact(trained)
    return Evaluator(knowledge.predictor(model, tokenizer), corpus.prompter, corpus.split)


def test_the_feature_chooses_among_quotes_only_where_the_prompt_names_it(
    corpus: Corpus, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, given = TASKS["explanation"], {}
    asked = questions(corpus.split, task, "test", 60)
    monkeypatch.setattr(
        evaluator.predictor,
        "explain",
        lambda prompts, known, *by: (
            given.update({id_: known, "by": by}) or [Reason("text", "own_quote")] * len(prompts)
        ),
    )
    quoting = Evaluator(evaluator.predictor, corpus.prompter, corpus.split, reasons=corpus.reasons)
    for id_ in ("3-3", "3-9"):
        metrics = quoting.judge(task, next(t for t in corpus.templates if t.id == id_), asked)
        assert metrics["own_quotes"] == 1
    assert corpus.reasons is not None
    assert given["by"] == (corpus.reasons.length_penalty, corpus.reasons.commonness)
    for user, position, row, told, named in zip(
        asked.users.tolist(),
        asked.positions.tolist(),
        asked.rows.tolist(),
        given["3-3"],
        given["3-9"],
        strict=True,
    ):
        item = int(corpus.split.histories.items[row])
        state = corpus.split.histories.state(user, position)
        assert told == corpus.reasons.about(state, Asked(item=item))
        feature = corpus.split.texts["feature"][row]
        assert named == corpus.reasons.about(state, Asked(item=item, feature=feature))
    assert sum(map(len, given["3-9"])) < sum(map(len, given["3-3"]))


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


def test_ranked_lists_are_handed_out_with_seen_items_excluded(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    lists: dict[str, dict[str, RankedLists]] = {}
    tasks = [TASKS["sequential"], TASKS["rating"]]
    found = evaluator.evaluate(tasks, corpus.reported(), "test", at_most=15, lists=lists)
    assert set(lists) == {"sequential"}  # stars are no lists
    assert lists["sequential"].keys() == found["sequential"].keys()
    for id_, ranked in lists["sequential"].items():
        target = corpus.split.histories.items[ranked.asked.rows]
        for name, value in ranking_metrics(ranked.items, target).items():
            assert found["sequential"][id_][name] == value


def test_every_template_of_a_task_is_judged_on_the_same_rows(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    found = evaluator.evaluate([TASKS["rating"]], corpus.templates, "test", at_most=9)
    assert {row["n"] for row in found["rating"].values()} == {9}
    assert set(found["rating"]) == {t.id for t in corpus.templates if t.family == "rating"}


def template_of(corpus: Corpus, id_: str) -> PromptTemplate:
    return next(t for t in corpus.templates if t.id == id_)


def test_choices_are_judged_by_the_exact_order_of_their_candidates(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    """Against the search over the whole catalogue, which here returns every item."""
    task, template = TASKS["direct"], template_of(corpus, "5-5")
    asked = questions(corpus.split, task, "test", 6)
    metrics = evaluator.judge(task, template, asked)
    ranks = []
    for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True):
        fact = evaluator.candidates.asked(task, task.kind(template), user, position)
        state = corpus.split.histories.state(user, position)
        prompt = corpus.prompter.render(template, state, fact)
        everything = evaluator.predictor.rank([prompt], 120)[0][0]
        assert fact.candidates is not None
        among = everything[np.isin(everything, fact.candidates)].tolist()
        assert len(among) == len(fact.candidates)
        ranks.append(1 + among.index(fact.item))
    assert metrics["n"] == 6
    assert metrics["hr@10/candidates"] == pytest.approx(np.mean(np.array(ranks) <= 10))
    assert metrics["mrr/candidates"] == pytest.approx(np.mean(1 / np.array(ranks)))


def test_yes_ranks_the_candidates_that_a_choice_is_among(
    corpus: Corpus, evaluator: Evaluator
) -> None:
    task, template = TASKS["direct"], template_of(corpus, "5-1")
    asked = questions(corpus.split, task, "test", 30)
    metrics = evaluator.judge(task, template, asked, candidate_users=3)
    assert metrics["n"] == 30 and metrics["n/candidates"] == 3
    ranks = []
    few = asked.some(3)
    for user, position in zip(few.users.tolist(), few.positions.tolist(), strict=True):
        item = task.asked(corpus.split, user, position).item
        assert item is not None
        rows = evaluator.candidates.among(user, item)
        state = corpus.split.histories.state(user, position)
        prompts = [corpus.prompter.render(template, state, Asked(item=i)) for i in rows.tolist()]
        chances = evaluator.predictor.word_probabilities(prompts, ("yes", "no"))
        ranks.append(1 + int((chances > chances[rows == item]).sum()))
    assert metrics["mrr/candidates"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-3)


@pytest.mark.parametrize(("family", "id_"), [("rating", "1-4"), ("zero-shot", "Z-1")])
def test_liking_is_judged_by_the_stars(
    corpus: Corpus, evaluator: Evaluator, family: str, id_: str
) -> None:
    task, template = TASKS[family], template_of(corpus, id_)
    asked = questions(corpus.split, task, "test", 40, needs=template.needs)
    liked = corpus.split.histories.ratings[asked.rows] >= 4
    prompts = [
        corpus.prompter.render(
            template,
            corpus.split.histories.state(user, position),
            task.asked(corpus.split, user, position),
        )
        for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True)
    ]
    chances = evaluator.predictor.word_probabilities(prompts, ("like", "dislike"))
    assert evaluator.judge(task, template, asked) == binary_metrics(chances, liked)


def test_answers_that_are_all_the_same_are_not_told_apart() -> None:
    assert word_metrics(np.array([0.9, 0.2]), np.array([True, True])) == {"accuracy": 0.5, "n": 2}


def test_headlines_are_judged_by_the_summaries(corpus: Corpus, evaluator: Evaluator) -> None:
    task, template = TASKS["review"], template_of(corpus, "4-1")
    asked = questions(corpus.split, task, "test", 5, needs=template.needs)
    metrics = evaluator.judge(task, template, asked)
    assert {"bleu-2", "rouge-1", "rouge-l"} <= set(metrics) and "feature_match" not in metrics
    items = len(set(corpus.split.histories.items[asked.rows].tolist()))
    assert metrics["distinct_per_item"] == pytest.approx(metrics["distinct"] * 5 / items)


def test_a_model_that_names_no_item_has_no_lists_to_describe(
    corpus: Corpus, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(
        prompts: list[object], k: int, *_: object, **__: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(prompts), k), -1), np.full((len(prompts), k), -np.inf)

    monkeypatch.setattr(evaluator.predictor, "rank", nothing)
    template = next(t for t in corpus.templates if t.id == "2-3")
    asked = questions(corpus.split, TASKS["sequential"], "test", 5)
    metrics = evaluator.judge(TASKS["sequential"], template, asked)
    assert metrics["hr@10"] == metrics["mrr"] == 0 and metrics["n"] == 5
    assert "coverage@10" not in metrics
