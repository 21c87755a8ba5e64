from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

import p5_t5


@pytest.fixture(scope="module")
def recommend(trained: Path) -> Any:
    found = pipeline("p5-recommend", model=str(trained))
    assert isinstance(found, p5_t5.P5RecommendPipeline)
    return found


def titles(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["title"] for answer in answers]


def test_a_known_user_gets_k_unseen_titled_items(recommend: Any) -> None:
    answers = recommend("u0001", top_k=7)
    assert len(answers) == 7
    histories = recommend.knowledge.histories
    seen = histories.state(histories.number["u0001"]).items.tolist()
    ids = recommend.knowledge.catalogue.item_ids
    assert not {answer["item_id"] for answer in answers} & {ids[item] for item in seen}
    assert [set(answer) for answer in answers] == [{"item_id", "title", "score"}] * 7
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 0


def test_seen_items_can_be_kept(recommend: Any) -> None:
    answers = recommend("u0001", top_k=120, keep_seen=True)
    assert len({answer["item_id"] for answer in answers}) == 120
    assert sum(math.exp(a["score"]) for a in answers) == pytest.approx(1, abs=1e-3)


def test_all_unseen_items_come_back_and_no_more(recommend: Any) -> None:
    histories = recommend.knowledge.histories
    seen = len(set(histories.state(histories.number["u0001"]).items.tolist()))
    assert len(recommend("u0001", top_k=500)) == 120 - seen


def test_a_new_user_gives_titles_or_ids(recommend: Any) -> None:
    catalogue = recommend.knowledge.catalogue
    history = [catalogue.title(3), catalogue.title(7).upper()]
    answers = recommend(history, top_k=5)
    assert len(answers) == 5
    assert not {catalogue.title(3), catalogue.title(7)} & set(titles(answers))
    ids = [catalogue.item_ids[3], catalogue.item_ids[7]]
    for same in (ids, {"history": ids}):
        assert titles(recommend(same, top_k=5)) == titles(answers)


def test_a_new_user_without_any_history_is_answered(recommend: Any) -> None:
    assert len(recommend({"history": []}, top_k=3)) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_list_is_answered_request_by_request(recommend: Any, batch_size: int) -> None:
    catalogue = recommend.knowledge.catalogue
    requests = ["u0001", [catalogue.title(3)], {"user": "u0002"}, {"history": [catalogue.title(9)]}]
    together = recommend(requests, top_k=4, batch_size=batch_size)
    assert [titles(a) for a in together] == [titles(recommend(r, top_k=4)) for r in requests]
    users = recommend(["u0001", "u0002"], top_k=4, batch_size=batch_size)
    assert [titles(a) for a in users] == [titles(together[0]), titles(together[2])]


def test_ratings_are_stars_of_the_asked_or_the_recommended_items(recommend: Any) -> None:
    title = recommend.knowledge.catalogue.title(5)
    (asked,) = recommend("u0001", task="rating", item=title)
    assert asked["title"] == title and 1 <= asked["score"] <= 5
    (same,) = recommend({"user": "u0001", "item": title}, task="rating")
    assert same == asked
    rated = recommend("u0001", task="rating", top_k=3)
    assert titles(rated) == titles(recommend("u0001", top_k=3))
    assert all(1 <= answer["score"] <= 5 for answer in rated)


def test_liking_is_a_probability_for_any_user_and_item(recommend: Any) -> None:
    catalogue = recommend.knowledge.catalogue
    (asked,) = recommend("u0001", task="like", item=catalogue.title(5))
    assert asked["title"] == catalogue.title(5) and 0 < asked["score"] < 1
    (new,) = recommend({"history": [catalogue.title(3)]}, task="like", item=catalogue.title(5))
    assert 0 < new["score"] < 1
    liked = recommend("u0001", task="like", top_k=3)
    assert titles(liked) == titles(recommend("u0001", top_k=3))


def test_a_template_of_another_kind_of_answer_is_refused(recommend: Any) -> None:
    for task, template in (("rating", "1-4"), ("like", "1-2"), ("sequential", "2-7")):
        with pytest.raises(ValueError, match=f"unknown {task} template '{template}'"):
            recommend("u0001", task=task, template=template)


def test_explanations_are_text(recommend: Any) -> None:
    title = recommend.knowledge.catalogue.title(5)
    (asked,) = recommend("u0001", task="explanation", item=title)
    assert asked["title"] == title and asked["score"] is None
    assert isinstance(asked["explanation"], str)
    explained = recommend(["u0001", "u0002"], task="explanation", top_k=2, batch_size=2)
    assert [len(answers) for answers in explained] == [2, 2]
    assert all("explanation" in answer for answers in explained for answer in answers)
    # A model of twelve steps writes little, but the same whatever the batch.
    alone = recommend("u0002", task="explanation", top_k=2)
    assert [a["explanation"] for a in alone] == [a["explanation"] for a in explained[1]]


def test_a_template_can_be_chosen(recommend: Any) -> None:
    assert len(recommend("u0001", template="2-13", top_k=2)) == 2
    with pytest.raises(ValueError, match="needs a value for {user}"):
        recommend({"history": []}, template="2-13")


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        ("u9999", {}, "unknown user 'u9999'; the nearest are 'u"),
        (["No Such Title At All"], {}, "no item has the id or title 'No Such Title At All'"),
        ({"user": "u0001", "histroy": []}, {}, "unknown field 'histroy'"),
        ({}, {}, "either 'user' or 'history'"),
        ({"history": "w0001"}, {}, "a history is a list"),
        (7, {}, "expected a user id"),
        ("u0001", {"task": "ratings"}, "unknown task 'ratings'; expected one of sequential"),
        ("u0001", {"top_k": 0}, "top_k must be"),
        ("u0001", {"topk": 3}, "unknown parameter 'topk'"),
        ("u0001", {"template": "9-9"}, "unknown sequential template '9-9'"),
        ("u0001", {"task": "rating", "item": "Nothing"}, "no item has the id or title"),
    ],
)
def test_wrong_requests_say_what_was_expected(
    recommend: Any, request_: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(request_, **options)


def test_a_misspelt_title_names_its_neighbour(recommend: Any) -> None:
    title = recommend.knowledge.catalogue.title(3)
    with pytest.raises(ValueError, match="the nearest are") as error:
        recommend([title[:-1] + "x"])
    assert repr(title) in str(error.value)
