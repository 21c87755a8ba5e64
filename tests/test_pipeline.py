from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import pipeline

import p5_t5
from p5_t5.evaluation.metrics import intra_list_distance
from p5_t5.prompting.prompter import Asked
from p5_t5.prompting.reasons import Facts


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


def ids(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["item_id"] for answer in answers]


def items_where(recommend: Any, condition: Any) -> set[str]:
    return set(recommend.knowledge.catalogue.table.filter(condition)["item_id"].to_list())


def unseen(recommend: Any, user: str) -> set[str]:
    histories, catalogue = recommend.knowledge.histories, recommend.knowledge.catalogue
    seen = histories.state(histories.number[user]).items.tolist()
    return set(catalogue.item_ids) - {catalogue.item_ids[row] for row in seen}


def test_filters_allow_and_deny_hold_together(recommend: Any) -> None:
    """Asked for more than there is: exactly the legal items come back, best first as ever."""
    mystery, old = pl.col("categories").list.contains("mystery"), pl.col("year") == 1997
    by_filters = items_where(recommend, mystery & old) & unseen(recommend, "u0001")
    filters = {"category": "mystery", "year": 1997}
    assert set(ids(recommend("u0001", top_k=50, filters=filters))) == by_filters
    everything = ids(recommend("u0001", top_k=120))
    assert ids(recommend("u0001", top_k=50, filters=filters)) == [
        item for item in everything if item in by_filters
    ]
    first, *others = everything[:6]
    found = recommend("u0001", top_k=50, allow=[first, *others], deny=[first])
    assert ids(found) == others
    catalogue = recommend.knowledge.catalogue
    title = catalogue.title(catalogue.find(first))
    assert ids(recommend("u0001", top_k=1, deny=[title])) == others[:1]


def test_a_condition_with_several_values_takes_any_of_them(recommend: Any) -> None:
    found = recommend("u0001", top_k=120, filters={"category": ["mystery", "horror"]})
    either = items_where(recommend, pl.col("categories").list.eval(
        pl.element().is_in(["mystery", "horror"])).list.any())  # fmt: skip
    assert set(ids(found)) == either & unseen(recommend, "u0001")
    years = recommend("u0001", top_k=120, filters={"year": [1996, 1997]}, keep_seen=True)
    assert set(ids(years)) == items_where(recommend, pl.col("year").is_between(1996, 1997))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_request_may_have_conditions_of_its_own(recommend: Any, batch_size: int) -> None:
    mystery, horror = (
        items_where(recommend, pl.col("categories").list.contains(name))
        for name in ("mystery", "horror")
    )
    allowed = sorted(mystery & unseen(recommend, "u0002"))[:2]
    requests = [
        {"user": "u0001", "filters": {"category": "horror"}},
        {"user": "u0001"},
        {"history": [], "deny": ["w0000"], "filters": None},
        {"user": "u0002", "allow": [*allowed, *horror]},
    ]
    filters = {"category": ["mystery"]}
    together = recommend(requests, top_k=120, filters=filters, batch_size=batch_size)
    assert set(ids(together[0])) == horror & unseen(recommend, "u0001")
    assert set(ids(together[1])) == mystery & unseen(recommend, "u0001")
    assert len(together[2]) == 119 and "w0000" not in ids(together[2])
    assert sorted(ids(together[3])) == allowed and allowed


def test_a_request_without_any_item_left_is_named(recommend: Any) -> None:
    requests = ["u0002", {"history": ["w0003"], "allow": ["w0003"]}]
    with pytest.raises(ValueError, match=r"request 1 \(a new user\).* allow 1 of 120 items, and"):
        recommend([{"user": "u0002"}, requests[1]], batch_size=2)
    assert ids(recommend(requests[1], keep_seen=True)) == ["w0003"]
    with pytest.raises(ValueError, match=r"request 0 \(user 'u0002'\): no item.* allow 0 of 120"):
        recommend("u0002", filters={"year": 1700})
    with pytest.raises(ValueError, match=r"request 1 \(user 'u0002'\).* allow 0 of 120 items$"):
        recommend([{"user": "u0001"}, {"user": "u0002", "allow": []}])


def test_a_cap_spreads_a_list_over_categories(recommend: Any) -> None:
    table = recommend.knowledge.catalogue.table
    categories = dict(zip(table["item_id"], table["categories"], strict=True))
    for cap in (1, 2):
        # In the order of a list five times as long; what is too much of a kind comes last.
        counts: Counter[str] = Counter()
        passed, held = [], []
        for item in ids(recommend("u0001", top_k=30)):
            if all(counts[name] < cap for name in categories[item]):
                passed.append(item)
                counts.update(categories[item])
            else:
                held.append(item)
        assert ids(recommend("u0001", top_k=6, per_category=cap)) == (passed + held)[:6]
        assert len(passed) > 3 and held
    # One category alone has more than the cap: the list is filled up all the same.
    horror = recommend("u0001", top_k=4, per_category=1, filters={"category": "horror"})
    assert ids(horror) == ids(recommend("u0001", top_k=4, filters={"category": "horror"}))


def test_diversity_chooses_unlike_items(recommend: Any) -> None:
    catalogue = recommend.knowledge.catalogue
    rows = {item: row for row, item in enumerate(catalogue.item_ids)}

    def distance(answers: list[dict[str, Any]]) -> float:
        ranked = [[rows[item] for item in ids(answers)]]
        return intra_list_distance(ranked, catalogue.category_matrix)

    plain = recommend("u0001", top_k=6)
    assert recommend("u0001", top_k=6, diversity=0.0) == plain
    diverse = recommend("u0001", top_k=6, diversity=0.9)
    assert diverse[0] == plain[0]
    assert len(set(ids(diverse))) == 6 and distance(diverse) > distance(plain)
    # What the cap lets pass comes first.
    capped = recommend("u0001", top_k=20, diversity=0.5, per_category=1)
    assert distance(capped[:4]) == 1
    assert set(ids(diverse)) <= set(ids(recommend("u0001", top_k=30)))
    rated = recommend("u0001", task="rating", top_k=6, diversity=0.9)
    assert ids(rated) == ids(diverse)


def test_settings_of_the_pipeline_hold_where_a_call_says_nothing(
    recommend: Any, trained: Path
) -> None:
    own = pipeline("p5-recommend", model=str(trained), top_k=3, per_category=1, deny=["w0001"])
    expected = recommend("u0001", top_k=3, per_category=1, deny=["w0001"])
    assert own("u0001") == expected
    assert len(own("u0001", top_k=5)) == 5


def test_ratings_are_stars_of_the_asked_or_the_recommended_items(recommend: Any) -> None:
    title = recommend.knowledge.catalogue.title(5)
    (asked,) = recommend("u0001", task="rating", item=title)
    assert asked["title"] == title and 1 <= asked["score"] <= 5
    (same,) = recommend({"user": "u0001", "item": title}, task="rating")
    assert same == asked
    knowledge = recommend.knowledge
    state = knowledge.histories.state(knowledge.histories.number["u0001"])
    id_ = knowledge.best_templates["rating"][0]
    prompt = knowledge.prompter.render(knowledge.template("rating", id_), state, Asked(item=5))
    probabilities = recommend.predictor.star_probabilities([prompt])
    calibrated = knowledge.calibrations[f"rating/{id_}"].apply(probabilities)
    assert asked["score"] == pytest.approx((calibrated @ np.array(knowledge.ratings))[0])
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
    assert set(asked) == {"item_id", "title", "score", "explanation", "explained_by", "said_of"}
    explained = recommend(["u0001", "u0002"], task="explanation", top_k=2, batch_size=2)
    assert [len(answers) for answers in explained] == [2, 2]
    assert all("explanation" in answer for answers in explained for answer in answers)
    # A model of twelve steps writes little, but the same whatever the batch.
    alone = recommend("u0002", task="explanation", top_k=2)
    assert [a["explanation"] for a in alone] == [a["explanation"] for a in explained[1]]


def test_explanations_quote_what_was_said_of_the_item(recommend: Any, toy: Path) -> None:
    said = pl.read_parquet(toy / "interactions.parquet").select("item_id", "explanation").rows()
    answers = recommend("u0001", task="explanation", top_k=100)
    quoted = [a for a in answers if a["explained_by"] == "quote"]
    assert len(quoted) > 0.9 * len(answers)
    assert {(a["item_id"], a["explanation"]) for a in quoted} <= set(said)
    assert all(a["said_of"] == a["item_id"] for a in quoted)


def test_explanations_speak_of_the_feature_that_was_asked_for(recommend: Any, toy: Path) -> None:
    quotes, catalogue = recommend.knowledge.reasons, recommend.knowledge.catalogue
    state = recommend.knowledge.histories.state(recommend.knowledge.histories.number["u0001"])
    said = list(zip(quotes.items.tolist(), quotes.users.tolist(), quotes.features, strict=True))
    theirs = {feature: item for item, user, feature in said if user == state.number}
    features = {item: {f for i, _, f in said if i == item} for item in set(quotes.items.tolist())}
    # About the item where anybody spoke of the feature, else what the user said of another item.
    for feature in theirs:
        item = next(i for i in features if feature in features[i])
        other = next(i for i in features if feature not in features[i])
        for row, source in ((item, "quote"), (other, "own_quote")):
            request = {"user": "u0001", "item": catalogue.title(row), "feature": feature}
            (answer,) = recommend(request, task="explanation")
            assert answer["explained_by"] == source
            of = catalogue.item_ids.index(answer["said_of"])
            assert (of, answer["explanation"], feature) in zip(
                quotes.items, quotes.texts, quotes.features, strict=True
            )
            assert (of == row) == (source == "quote")


def test_where_no_fact_holds_nothing_is_said(
    recommend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = recommend.knowledge.catalogue
    facts = Facts(catalogue, like_threshold=4.0)
    monkeypatch.setattr(recommend, "knowledge", replace(recommend.knowledge, reasons=facts))
    first, kinds = catalogue.item_ids[0], catalogue.categories
    shared = next(i for i in range(1, len(kinds)) if set(kinds[i]) & set(kinds[0]))
    other = next(i for i in range(1, len(kinds)) if not set(kinds[i]) & set(kinds[0]))
    requests = [{"history": [first], "item": catalogue.item_ids[i]} for i in (shared, other)]
    (told,), (silent,) = recommend(requests, task="explanation")
    assert told["explained_by"] == "fact"
    assert told["explanation"].startswith(f"you liked {catalogue.title(0)} , and this is ")
    assert silent["explained_by"] is silent["explanation"] is silent["said_of"] is None


def test_an_item_that_nobody_spoke_of_is_explained_by_the_model(
    recommend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend, "knowledge", replace(recommend.knowledge, reasons=None))
    (answer,) = recommend("u0001", task="explanation", top_k=1)
    assert answer["explained_by"] == "model" and isinstance(answer["explanation"], str)


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
        ({"user": "u0001", "feature": 3}, {}, "a request's 'feature' is a word, not 3"),
        ({}, {}, "either 'user' or 'history'"),
        ({"history": "w0001"}, {}, "history: expected a list of item ids or titles, not 'w0001'"),
        (7, {}, "expected a user id"),
        ("u0001", {"task": "ratings"}, "unknown task 'ratings'; expected one of sequential"),
        ("u0001", {"top_k": 0}, "top_k must be"),
        ("u0001", {"topk": 3}, "unknown parameter 'topk'"),
        ("u0001", {"template": "9-9"}, "unknown sequential template '9-9'"),
        ("u0001", {"task": "rating", "item": "Nothing"}, "no item has the id or title"),
        ("u0001", {"diversity": 1.5}, "diversity must be from 0 to 1, not 1.5"),
        ("u0001", {"per_category": 0}, "per_category must be a whole number from 1 on, not 0"),
        ("u0001", {"filters": "mystery"}, "filters are a dictionary of conditions"),
        ("u0001", {"filters": {"category": "mistery"}}, "unknown category 'mistery'.*'mystery'"),
        ("u0001", {"filters": {"category": 3}}, r"'category' can't be 3 \(int\)"),
        ("u0001", {"filters": {"yaer": 1997}}, "no column 'yaer'; the nearest is 'year'"),
        ("u0001", {"filters": {"year": "1997"}}, "nothing in it can equal '1997'"),
        ("u0001", {"filters": {"price_below": "20"}}, r"'price_below' can't be '20' \(str\)"),
        ("u0001", {"allow": "w0001"}, "allow: expected a list of item ids or titles"),
        ({"user": "u0001", "deny": ["No Such"]}, {}, "no item has the id or title 'No Such'"),
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
