"""Explanations from facts: true, from the past only, and only where there is something to say."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.explanations import derive_explanations

SENTENCE = re.compile(r"you liked (.+?)(?: and (.+))? , and this is (.+) too")
# title: categories
WORLD = {
    "Atlas": ["war"],
    "Bridge": ["war", "love"],
    "Comet": ["love"],
    "Dune": ["crime"],
    "Ember": ["love", "war"],
    "Fog": [],
    "Gale": ["war"],
}

Seen = list[tuple[str, float]]


def explained(
    *users: Seen,
    titles: bool = True,
    categories: bool = True,
    threshold: float = 4.0,
    stars: bool = True,
) -> Split:
    """Users who saw these titles in this order, with so many stars."""
    rows = [(f"u{u}", t, t, s) for u, seen in enumerate(users) for t, s in seen]
    schema = ["user_id", "item_id", "review", "rating"]
    interactions = pl.DataFrame(rows, schema=schema, orient="row")
    items = pl.DataFrame({"item_id": list(WORLD)})
    if titles:
        items = items.with_columns(title=pl.Series([t.upper() for t in WORLD]))
    if categories:
        items = items.with_columns(categories=pl.Series(list(WORLD.values())))
    tables = check_tables("made", interactions if stars else interactions.drop("rating"), items)
    codes = ItemCodes("atomic", tuple((f"<item_{row}>",) for row in range(len(items))))
    return derive_explanations(leave_one_out(tables), Catalogue(tables.items, codes), threshold)


def sentences(seen: Seen, **options: bool) -> list[str | None]:
    return explained(seen, **options).texts["explanation"]


def test_a_sentence_names_the_category_and_what_was_liked() -> None:
    split = explained([("Atlas", 5), ("Comet", 4), ("Bridge", 4), ("Gale", 5), ("Ember", 5)])
    assert split.texts["explanation"] == [
        None,
        None,
        "you liked COMET , and this is love too",
        "you liked BRIDGE and ATLAS , and this is war too",
        "you liked GALE and BRIDGE , and this is war too",
    ]
    assert split.texts["feature"] == [None, None, "love", "war", "war"]


def test_other_texts_stay() -> None:
    split = explained([("Atlas", 5), ("Gale", 4), ("Dune", 4)])
    assert split.texts["review"] == ["Atlas", "Gale", "Dune"]


def test_derived_explanations_are_marked() -> None:
    assert explained([("Atlas", 5), ("Gale", 4), ("Dune", 4)]).derived_explanations


@pytest.mark.parametrize(
    "seen",
    [
        [("Atlas", 5), ("Comet", 5), ("Dune", 5)],
        [("Atlas", 3), ("Gale", 5), ("Dune", 5)],
        [("Atlas", 1), ("Gale", 2), ("Bridge", 3)],
        [("Fog", 5), ("Fog", 4), ("Dune", 5)],
        [("Dune", 5), ("Fog", 5), ("Atlas", 5)],
    ],
    ids=["nothing shared", "the other disliked", "all disliked", "no category", "first of a kind"],
)
def test_where_nothing_explains_there_is_no_sentence(seen: Seen) -> None:
    split = explained(seen)
    assert split.texts["explanation"] == split.texts["feature"] == [None] * 3


def test_disliked_items_are_neither_explained_nor_named() -> None:
    seen = [("Atlas", 5.0), ("Gale", 2.0), ("Bridge", 5.0)]
    assert sentences(seen) == [None, None, "you liked ATLAS , and this is war too"]


def test_the_threshold_of_liking_is_given() -> None:
    seen = [("Atlas", 3.0), ("Gale", 3.0), ("Dune", 3.0)]
    assert explained(seen, threshold=3.0).texts["feature"] == [None, "war", None]
    assert explained(seen, threshold=3.5).texts["feature"] == [None, None, None]


def test_without_stars_everything_was_liked() -> None:
    seen = [("Atlas", 1.0), ("Gale", 1.0), ("Dune", 1.0)]
    assert sentences(seen, stars=False) == [None, "you liked ATLAS , and this is war too", None]


def test_users_do_not_share_a_history() -> None:
    first: Seen = [("Atlas", 5), ("Dune", 5), ("Comet", 5)]
    second: Seen = [("Gale", 5), ("Fog", 5), ("Bridge", 5)]
    split = explained(first, second)
    assert split.texts["feature"] == [None] * 5 + ["war"]
    assert split.texts["explanation"][5] == "you liked GALE , and this is war too"


@pytest.mark.parametrize(("titles", "categories"), [(False, True), (True, False), (False, False)])
def test_without_titles_or_categories_nothing_is_derived(titles: bool, categories: bool) -> None:
    seen: Seen = [("Atlas", 5), ("Gale", 4), ("Bridge", 4)]
    split = explained(seen, titles=titles, categories=categories)
    assert set(split.texts) == {"review"}
    assert not split.derived_explanations


histories = st.lists(
    st.tuples(st.sampled_from(list(WORLD)), st.sampled_from([1.0, 3.0, 4.0, 5.0])),
    min_size=3,
    max_size=7,
    unique_by=lambda seen: seen[0],
)


@settings(deadline=None, max_examples=80)
@given(st.lists(histories, min_size=1, max_size=3))
def test_every_sentence_is_true(users: list[Seen]) -> None:
    """Derived again in plain Python: the commonest liked category, its two newest liked titles."""
    split = explained(*users)
    texts = zip(split.texts["explanation"], split.texts["feature"], strict=True)
    for seen in users:
        for position, (title, stars) in enumerate(seen):
            sentence, feature = next(texts)
            liked = [t for t, s in seen[:position] if s >= 4]
            shared = {c: [t for t in liked if c in WORLD[t]] for c in WORLD[title]}
            most = max(map(len, shared.values()), default=0)
            if stars < 4 or most == 0:
                assert sentence is None
                assert feature is None
                continue
            assert feature == min(c for c, own in shared.items() if len(own) == most)
            found = SENTENCE.fullmatch(sentence or "")
            assert found
            named = [t.capitalize() for t in found.groups()[:2] if t]
            assert named == shared[feature][-2:][::-1]
            assert found.group(3) == feature


@settings(deadline=None, max_examples=40)
@given(histories, st.data())
def test_a_sentence_looks_at_the_past_only(seen: Seen, data: st.DataObject) -> None:
    """Cutting or changing what comes later leaves the sentences before as they were."""
    cut = data.draw(st.integers(1, len(seen)))
    later = [t for t in WORLD if t not in {name for name, _ in seen[:cut]}]
    other = [*seen[:cut], *((t, 5.0) for t in data.draw(st.permutations(later)))]
    assert sentences(seen)[:cut] == sentences(other)[:cut]


def test_a_category_written_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORLD, "Atlas", ["war", "war"])
    assert sentences([("Atlas", 5), ("Dune", 5), ("Comet", 5)]) == [None, None, None]


def test_an_item_taken_again_is_named_once() -> None:
    sentence = sentences([("Atlas", 5), ("Atlas", 4), ("Gale", 5)])[2]
    assert sentence == "you liked ATLAS , and this is war too"
