"""Reasons: of the item that is asked about, of training, and true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.histories import UserState
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import check_tables
from p5_t5.prompting.explanations import derive_explanations
from p5_t5.prompting.prompter import Asked, PromptSettings
from p5_t5.prompting.reasons import Facts, Quotes, Reason, Reasons, find_reasons

# user, item, explanation, feature; the last two of each user are held out
SAID = [
    ("a", "lamp", "the light is warm", "light"),
    ("a", "rug", "a <soft>  rug", "pile"),
    ("a", "bed", None, None),
    ("a", "lamp", "held out light", "light"),
    ("a", "rug", "held out pile", "pile"),
    ("b", "lamp", "the base is heavy", "base"),
    ("b", "lamp", "a heavy base , sadly", "base"),
    ("b", "lamp", "the base is heavy", "base"),
    ("b", "bed", "unheard", "frame"),
    ("b", "sofa", "unheard too", "frame"),
    ("c", "lamp", "bright light", "light"),
    ("c", "rug", "deep pile", "pile"),
    ("c", "bed", "held out", "frame"),
    ("c", "sofa", "held out", "frame"),
]
ITEMS = ["bed", "lamp", "rug", "sofa"]
BED, LAMP, RUG, SOFA = range(4)
NOBODY = UserState(None, None, {}, np.empty(0, np.int32), np.empty(0, np.float32))


def catalogue_of(items: pl.DataFrame) -> Catalogue:
    codes = ItemCodes("atomic", tuple((f"<item_{row}>",) for row in range(len(items))))
    return Catalogue(items, codes)


def split_of(features: bool = True) -> tuple[Split, Catalogue]:
    columns = ["user_id", "item_id", "explanation", "feature"]
    said = pl.DataFrame(SAID, schema=columns, orient="row")
    items = pl.DataFrame({"item_id": ITEMS})
    tables = check_tables("made", said if features else said.drop("feature"), items)
    return leave_one_out(tables), catalogue_of(tables.items)


@pytest.fixture
def quotes() -> Quotes:
    found = find_reasons(*split_of(), PromptSettings())
    assert isinstance(found, Quotes)
    return found


def asked(item: str, feature: str | None = None) -> Asked:
    return Asked(item=ITEMS.index(item), feature=feature)


def texts(reasons: Reasons, asked: Asked, state: UserState = NOBODY) -> list[str]:
    return [reason.text for reason in reasons.about(state, asked)]


def test_quotes_are_what_training_says_of_the_item(quotes: Quotes) -> None:
    # What a says of lamp and rug is left out: both are held out of the same user again.
    assert texts(quotes, asked("lamp")) == [
        "the base is heavy",
        "a heavy base , sadly",
        "bright light",
    ]
    assert quotes.about(NOBODY, asked("rug")) == [Reason("deep pile", "quote", RUG)]
    for item in ("bed", "sofa"):
        assert quotes.about(NOBODY, asked(item)) == []


def test_a_wished_feature_is_spoken_of_if_anybody_did(quotes: Quotes) -> None:
    for feature in ("light", "Light"):
        assert texts(quotes, asked("lamp", feature)) == ["bright light"]
    assert len(quotes.about(NOBODY, asked("lamp", "shade"))) == 3


OWN = [
    ("a", "lamp", "the light is warm", "light"),
    ("a", "sofa", "soft light falls on it", "light"),
    ("a", "sofa", "soft as a cloud", "seat"),
    ("a", "lamp", "a base of lead", "base"),
    ("a", "bed", None, None),
    ("a", "tray", None, None),
    ("b", "rug", "light and soft", "light"),
    ("b", "rug", "a light rug", "light"),
    ("b", "rug", "deep pile", "pile"),
    ("b", "rug", "the base slips", "base"),
    ("b", "bed", None, None),
    ("b", "tray", None, None),
]


@pytest.fixture
def two() -> tuple[Split, Quotes]:
    columns = ["user_id", "item_id", "explanation", "feature"]
    tables = check_tables("made", pl.DataFrame(OWN, schema=columns, orient="row"))
    split = leave_one_out(tables)
    return split, Quotes.of(split)


def test_of_a_wished_feature_users_words_stand_in_where_nobody_spoke_of_it(
    two: tuple[Split, Quotes],
) -> None:
    split, quotes = two
    of_a = split.histories.state(0)
    said = {
        feature: texts(quotes, Asked(item=RUG, feature=feature), of_a)
        for feature in ("light", "base", "seat", "colour")
    }
    assert said == {
        "light": ["light and soft", "a light rug"],
        "base": ["the base slips"],
        "seat": ["soft as a cloud"],
        "colour": ["light and soft", "a light rug", "deep pile", "the base slips"],
    }
    # An item that nobody spoke of at all, too.
    (base,) = quotes.about(of_a, Asked(item=BED, feature="base"))
    assert (base.text, base.source, base.said_of) == ("a base of lead", "own_quote", LAMP)
    assert quotes.about(of_a, Asked(item=BED)) == []


def test_own_words_are_of_what_the_user_had_by_then_and_of_known_users(
    two: tuple[Split, Quotes],
) -> None:
    split, quotes = two
    seat = Asked(item=RUG, feature="seat")
    assert texts(quotes, seat, split.histories.state(0, 3)) == ["soft as a cloud"]
    everything = texts(quotes, Asked(item=RUG, feature="colour"))
    assert texts(quotes, seat, split.histories.state(0, 1)) == everything
    stranger = replace(split.histories.state(0), number=None)
    assert texts(quotes, seat, stranger) == everything
    # What was said of the asked item itself is a quote of it.
    assert {r.source for r in quotes.about(split.histories.state(0), Asked(item=SOFA))} == {"quote"}


RANDOM = st.lists(
    st.lists(
        st.tuples(st.sampled_from(ITEMS), st.sampled_from(["light", "seat", None])),
        min_size=3,
        max_size=7,
    ),
    min_size=2,
    max_size=5,
)


@given(RANDOM, st.data())
@settings(deadline=None, max_examples=60)
def test_only_training_is_quoted_by_whom_and_of_what_it_says(
    users: list[list[tuple[str, str | None]]], data: st.DataObject
) -> None:
    rows = [
        (f"u{user}", item, f"{user} said {time}" if feature else None, feature, time)
        for user, own in enumerate(users)
        for time, (item, feature) in enumerate(own)
    ]
    columns = ["user_id", "item_id", "explanation", "feature", "timestamp"]
    tables = check_tables("made", pl.DataFrame(rows, schema=columns, orient="row"))
    split = leave_one_out(tables)
    quotes, items = Quotes.of(split), tables.items["item_id"].to_list()
    user = data.draw(st.integers(0, len(users) - 1))
    # What is asked about is held out, or comes after all that is known.
    position = data.draw(st.integers(len(users[user]) - 2, len(users[user])))
    number = split.histories.number[f"u{user}"]
    state = split.histories.state(number, position)
    item = data.draw(st.sampled_from(items))
    feature = data.draw(st.sampled_from(["light", "seat", None]))
    for reason in quotes.about(state, Asked(item=items.index(item), feature=feature)):
        who, when = (int(word) for word in reason.text.split(" said "))
        assert when < len(users[who]) - 2
        of, about = users[who][when]
        assert reason.said_of is not None and items[reason.said_of] == of
        if reason.source == "quote":
            assert of == item
        else:
            assert (who, about) == (user, feature) and of != item


def test_folders_that_do_not_say_who_spoke_are_read(two: tuple[Split, Quotes]) -> None:
    split, quotes = two
    read = Quotes.read(quotes.table().drop("user"))
    of_a, seat = split.histories.state(0), Asked(item=RUG, feature="seat")
    assert texts(read, seat, of_a) == texts(quotes, seat)


def test_quotes_need_no_features() -> None:
    found = Quotes.of(split_of(features=False)[0])
    assert len(found.about(NOBODY, asked("lamp", "light"))) == 3


def test_quotes_are_saved_and_read(quotes: Quotes) -> None:
    read = Quotes.read(quotes.table())
    assert (read.texts, read.features) == (quotes.texts, quotes.features)
    assert np.array_equal(read.items, quotes.items)
    assert np.array_equal(read.users, quotes.users)


def test_an_often_explained_item_keeps_quotes_about_its_frequent_features() -> None:
    rows = [
        (f"u{user}", item, f"{user} says {item}", "often" if user > 5 else "rare")
        for user in range(40)
        for item in ("lamp", "bed", "sofa")
    ]
    columns = ["user_id", "item_id", "explanation", "feature"]
    tables = check_tables("made", pl.DataFrame(rows, schema=columns, orient="row"))
    found = Quotes.of(leave_one_out(tables)).about(
        NOBODY, Asked(item=tables.items["item_id"].to_list().index("lamp"))
    )
    assert len(found) == 16
    assert all(int(reason.text.split()[0]) > 5 for reason in found)


def test_without_explanations_there_are_no_reasons() -> None:
    rows = pl.DataFrame({"user_id": ["a"] * 3, "item_id": ["bed", "lamp", "rug"]})
    tables = check_tables("made", rows)
    split, catalogue = leave_one_out(tables), catalogue_of(tables.items)
    assert find_reasons(split, catalogue, PromptSettings()) is None


SHELVES = "Atlas: war; Bridge: war love; Comet: love; Dune: crime; Ember: love war; Fog:"
WORLD = {t: kinds.split() for t, kinds in (row.split(":") for row in SHELVES.split("; "))}
histories = st.lists(
    st.tuples(st.sampled_from(list(WORLD)), st.sampled_from([1.0, 3.0, 4.0, 5.0])),
    min_size=3,
    max_size=8,
)


def world_of(seen: list[tuple[str, float]]) -> tuple[Split, Catalogue]:
    # Exact copies of a row would be left out.
    rows = [("u", title, stars, time) for time, (title, stars) in enumerate(seen)]
    schema = ["user_id", "item_id", "rating", "timestamp"]
    interactions = pl.DataFrame(rows, schema=schema, orient="row")
    items = pl.DataFrame({"item_id": list(WORLD), "title": list(WORLD)})
    items = items.with_columns(categories=pl.Series(list(WORLD.values())))
    tables = check_tables("made", interactions, items)
    catalogue = catalogue_of(tables.items)
    return derive_explanations(leave_one_out(tables), catalogue, 4.0), catalogue


@given(histories)
@settings(deadline=None, max_examples=60)
def test_a_derived_explanation_is_one_of_the_facts(seen: list[tuple[str, float]]) -> None:
    split, catalogue = world_of(seen)
    facts = Facts(catalogue, 4.0)
    for row, (text, feature) in enumerate(
        zip(split.texts["explanation"], split.texts["feature"], strict=True)
    ):
        if text is not None:
            state, item = split.histories.state(0, row), int(split.histories.items[row])
            assert text in texts(facts, Asked(item=item), state)
            assert feature is not None
            for wished in (feature, feature.upper()):
                assert texts(facts, Asked(item=item, feature=wished), state) == [text]


def test_facts_are_true_of_any_history() -> None:
    _, catalogue = world_of([("Atlas", 5), ("Comet", 5), ("Bridge", 5)])
    facts = Facts(catalogue, 4.0)
    row = list(WORLD).index
    items = np.array([row("Atlas"), row("Comet"), row("Ember")], dtype=np.int32)
    liked = UserState(None, None, {}, items, np.array([5, 2, 4], dtype=np.float32))
    bridge = Asked(item=row("Bridge"))
    assert set(texts(facts, bridge, liked)) == {
        "you liked Ember and Atlas , and this is war too",
        "you liked Ember , and this is love too",
    }
    assert facts.about(liked, Asked(item=row("Dune"))) == []
    assert facts.about(liked, Asked(item=row("Fog"))) == []
    # Without stars everything was liked.
    unrated = UserState(None, None, {}, items, np.full(3, np.nan, dtype=np.float32))
    assert "you liked Ember and Comet , and this is love too" in texts(facts, bridge, unrated)


def test_facts_are_found_for_derived_explanations() -> None:
    split, catalogue = world_of([("Atlas", 5), ("Comet", 5), ("Bridge", 5), ("Ember", 4)])
    assert isinstance(find_reasons(split, catalogue, PromptSettings()), Facts)
