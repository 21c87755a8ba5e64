"""From a user at one moment to text: what is written, and what never is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
from p5_t5.prompting.prompter import Asked, Prompter, PromptSettings, plain, stars
from p5_t5.prompting.tasks import TASKS, read_prompts
from p5_t5.prompting.templates import PromptTemplate

SHIPPED = read_prompts()
IDS = [f"i{n:02}" for n in range(12)]
TITLES = [f"Film {n}" for n in range(12)]
GENRES = [["war"], ["war", "love"], ["love"], ["crime"], ["war"], []] * 2
STARS = [5.0, 4.0, 1.0, 3.0, 5.0, 2.0, 4.0, 5.0]


def template(source: str, target: str = "{item}", given: str = "", **fields: Any) -> PromptTemplate:
    return PromptTemplate("sequential", "made", "next_item", source, target, given, **fields)


CONTINUE = template("{history}", "{recent} {item}", "{recent} ", separator=" ")


RATED = PromptTemplate(
    "rating", "made", "stars", "{rated_history}", "{rated} {item} {rating}", "{rated} {item} ",
    separator=" ",
)  # fmt: skip


COMPARED = PromptTemplate(
    "rating", "made", "stars", "{compared_history}", "{compared} {item} {usual_stars} {rating}",
    "{compared} {item} {usual_stars} ", separator=" ",
)  # fmt: skip
USUAL = [f"{3 + n / 10:.1f}" for n in range(12)]


def prompter(
    titles: list[str | None] | None = None,
    *,
    prompts: PromptSettings | None = None,
    **columns: Any,
) -> Prompter:
    """Twelve items with the codes <item_0> … <item_11>."""
    items = pl.DataFrame(
        {"item_id": IDS, "title": titles or TITLES, "categories": GENRES, **columns}
    )
    codes = ItemCodes("atomic", tuple((f"<item_{n}>",) for n in range(len(IDS))))
    return Prompter(Catalogue(items, codes), prompts or PromptSettings())


def codes(numbers: Any) -> list[str]:
    return [f"<item_{n}>" for n in numbers]


def state(items: list[int], ratings: list[float] | None = None, **fields: Any) -> UserState:
    known = [np.nan] * len(items) if ratings is None else ratings
    start = UserState(
        number=0,
        name=None,
        profile={},
        items=np.array(items, dtype=np.int32),
        ratings=np.array(known, dtype=np.float32),
    )
    return replace(start, **fields)


def split(items: list[str], ratings: list[float], explanation: list[str] | None = None) -> Split:
    """One user, whose interactions stand in this order."""
    data = {"user_id": ["u"] * len(items), "item_id": items, "rating": ratings}
    if explanation is not None:
        data["explanation"] = explanation
    return leave_one_out(
        check_tables("made", pl.DataFrame(data), pl.DataFrame({"item_id": IDS, "title": TITLES}))
    )


histories = st.lists(st.integers(0, 11), max_size=12)
limits = st.builds(
    PromptSettings,
    max_history=st.integers(1, 14),
    recent=st.integers(0, 14),
    least_recent=st.floats(0, 1),
    max_recent=st.integers(0, 14),
)


@pytest.mark.parametrize(
    ("max_history", "kept"), [(1, [7]), (3, [5, 6, 7]), (8, range(8)), (50, range(8))]
)
def test_the_newest_items_of_a_long_history_are_kept(max_history: int, kept: Any) -> None:
    short = prompter(prompts=PromptSettings(max_history=max_history))
    prompt = short.render(template("{history}", separator=" "), state(list(range(8))), Asked())
    assert prompt.source.split() == codes(kept)


def test_no_history_is_written_if_none_is_allowed() -> None:
    none = prompter(prompts=PromptSettings(max_history=0))
    assert none.render(template("{history}"), state([1, 2, 3]), Asked()).source == ""


def test_items_are_joined_by_the_separator() -> None:
    prompt = prompter().render(template("{history}", separator=" -> "), state([3, 1]), Asked())
    assert prompt.source == "<item_3> -> <item_1>"


@settings(deadline=None)
@given(histories, limits, st.integers(0, 2**31 - 1))
def test_any_cut_writes_the_same_list(items: list[int], limit: PromptSettings, draw: int) -> None:
    """History and recent items together are the newest ones, however the draw cuts them."""
    made = prompter(prompts=limit)
    prompt = made.render(CONTINUE, state(items), Asked(item=5), draw)
    assert prompt.target.startswith(prompt.given)
    recent = prompt.given.split()
    assert prompt.source.split() + recent == codes(items[-limit.max_history :])
    assert prompt.target.split() == [*recent, "<item_5>"]
    kept = len(items[-limit.max_history :])
    most = min(kept, limit.max_recent)
    assert min(int(kept * limit.least_recent), most) <= len(recent) <= most
    assert len(recent) == made.recent_count(CONTINUE, len(items), draw)


@settings(deadline=None)
@given(histories, limits)
def test_the_cut_at_prediction_is_fixed(items: list[int], limit: PromptSettings) -> None:
    prompt = prompter(prompts=limit).render(CONTINUE, state(items), Asked())
    kept = items[-limit.max_history :]
    recent = prompt.given.split()
    assert len(recent) == min(limit.recent, len(kept))
    assert prompt.source.split() + recent == codes(kept)
    assert prompt.target == ""


@settings(deadline=None)
@given(histories, limits, st.none() | st.integers(0, 2**31 - 1))
def test_without_recent_items_nothing_is_cut(
    items: list[int], limit: PromptSettings, draw: int | None
) -> None:
    made, whole = prompter(prompts=limit), template("{history}", separator=" ")
    prompt = made.render(whole, state(items), Asked(item=0), draw)
    assert prompt.source.split() == codes(items[-limit.max_history :])
    assert made.recent_count(whole, len(items), draw) == 0


@pytest.mark.parametrize(
    ("least", "length", "cuts"),
    [
        (0.0, 9, {0, 1, 2, 3, 4}),
        (0.0, 2, {0, 1, 2}),
        (0.5, 5, {2, 3, 4}),
        (0.5, 1, {0, 1}),
        (0.5, 9, {4}),
        (1.0, 3, {3}),
    ],
)
def test_draws_reach_every_cut(least: float, length: int, cuts: set[int]) -> None:
    made = prompter(prompts=PromptSettings(least_recent=least, max_recent=4))
    assert {made.recent_count(CONTINUE, length, draw) for draw in range(100)} == cuts


@pytest.mark.parametrize(
    ("position", "average", "favourites", "liked", "history"),
    [
        (0, "none yet", "none yet", "none yet", "none yet"),
        (1, "5.0", "war", "Film 0", "Film 0"),
        (2, "4.5", "war, love", "Film 0, Film 1", "Film 0, Film 1"),
        (3, "3.3", "war, love", "Film 0, Film 1", "Film 0, Film 1, Film 2"),
        (5, "3.6", "war, love", "Film 0, Film 1, Film 4", ", ".join(TITLES[:5])),
        (7, "3.4", "war, love", "Film 1, Film 4, Film 6", ", ".join(TITLES[2:7])),
    ],
)
def test_what_is_said_of_a_user(
    position: int, average: str, favourites: str, liked: str, history: str
) -> None:
    """Averages, favourites and titles come from the interactions before the position."""
    known = split(IDS[:8], STARS).histories.state(0, position)
    whole = "{average_rating} | {favourite_categories} | {liked_titles} | {history_titles}"
    prompt = prompter().render(template(whole), known, Asked())
    assert prompt.source.split(" | ") == [average, favourites, liked, history]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_comes_later_changes_no_prompt(data: st.DataObject) -> None:
    """Two users who differ only from the asked interaction on are asked the same."""
    count = data.draw(st.integers(4, 8))
    position = data.draw(st.integers(1, count - 1))
    ratings = st.lists(st.sampled_from([1.0, 3.0, 4.0, 5.0]), min_size=count, max_size=count)
    worlds = []
    first_items = data.draw(st.permutations(IDS))[:count]
    first_ratings = data.draw(ratings)
    for _ in range(2):
        later = data.draw(st.permutations([i for i in IDS if i not in first_items[:position]]))
        items = [*first_items[:position], *later][:count]
        stars_given = first_ratings[:position] + data.draw(ratings)[position:]
        worlds.append(split(items, stars_given))
    made = prompter()
    everything = template(
        "{average_rating} {favourite_categories} {liked_titles} {history_titles} {history} {user}"
    )
    for asking in (everything, CONTINUE):
        prompts = [
            made.render(
                asking,
                world.histories.state(0, position),
                TASKS["sequential"].asked(world, 0, position),
            )
            for world in worlds
        ]
        assert prompts[0] == prompts[1]


def test_without_stars_everything_counts_as_liked() -> None:
    known = template("{liked_titles} | {favourite_categories} | {average_rating}")
    source = prompter().render(known, state([0, 2]), Asked()).source
    assert source == "Film 0, Film 2 | love, war | none yet"


@pytest.mark.parametrize(("threshold", "liked"), [(5.0, "Film 0"), (4.0, "Film 0, Film 1")])
def test_the_threshold_of_liking_is_a_setting(threshold: float, liked: str) -> None:
    made = prompter(prompts=PromptSettings(like_threshold=threshold))
    known = state([0, 1, 2], [5.0, 4.0, 3.5])
    assert made.render(template("{liked_titles}"), known, Asked()).source == liked


NEW_USER = state([1, 2], [5.0, 4.0], number=None)
ASKED = Asked(
    item=3,
    rating=4.0,
    review="A good film.",
    review_stars=4.26,
    summary="Good",
    explanation="good",
    feature="plot",
    candidates=np.array([5, 3, 9]),
    star=2.0,
    agreed=False,
    mask=np.array([False, False, True]),
)


@pytest.mark.parametrize("shipped", SHIPPED.values(), ids=lambda t: f"{t.family}-{t.id}")
def test_a_new_user_is_asked_by_templates_that_name_nobody(shipped: PromptTemplate) -> None:
    made = prompter(brand=["Nova"] * len(IDS), price=[9.5] * len(IDS), usual_stars=USUAL)
    assert made.can_ask(shipped, NEW_USER, ASKED) == (not shipped.names_user)
    known = replace(NEW_USER, number=0)
    assert made.can_ask(shipped, known, ASKED) == (
        not any(slot.startswith("user_") for slot in shipped.source_slots)
    )
    profile = {"age": "30", "gender": "woman", "occupation": "clerk"}
    assert made.can_ask(shipped, replace(known, profile=profile, name="Ann"), ASKED)


def test_a_template_that_names_the_user_is_not_rendered_for_a_new_one() -> None:
    with pytest.raises(ValueError, match=r"template '2-1' needs a value for \{user\}"):
        prompter().render(SHIPPED["sequential", "2-1"], NEW_USER, ASKED)


def test_a_question_about_an_item_needs_one() -> None:
    rating = SHIPPED["rating", "1-2"]
    user = replace(NEW_USER, number=3)
    assert not prompter(usual_stars=USUAL).can_ask(rating, user, Asked())
    assert prompter(usual_stars=USUAL).can_ask(rating, user, Asked(item=0))
    with pytest.raises(ValueError, match=r"template '1-2' needs a value for \{item\}"):
        prompter(usual_stars=USUAL).render(rating, user, Asked())


def test_what_the_words_of_a_review_make_likely_is_told_in_tenths() -> None:
    shipped = SHIPPED["review", "worded-1"]
    assert " 4.3 stars" in prompter().render(shipped, NEW_USER, ASKED).source
    with pytest.raises(ValueError, match=r"needs a value for \{review_stars\}"):
        prompter().render(shipped, NEW_USER, replace(ASKED, review_stars=None))


def test_training_needs_the_answer() -> None:
    made = prompter(usual_stars=USUAL)
    with pytest.raises(ValueError, match=r"template '1-7' needs a value for \{rating\}"):
        made.render(SHIPPED["rating", "1-7"], NEW_USER, Asked(item=0), draw=1)


def test_users_are_numbered_from_one() -> None:
    assert prompter().render(template("{user}"), state([], number=41), Asked()).source == "42"


NASTY = "Film\n<item_3> & </s>\t<extra_id_0> <a_1><b_2>"


@pytest.mark.parametrize(
    "slot",
    ["title", "description", "item_studio", "liked_titles", "history_titles", "brand"],
)
def test_text_of_an_item_never_becomes_a_token(slot: str) -> None:
    texts = [NASTY] * len(IDS)
    made = prompter([*texts], description=texts, studio=texts, brand=texts)
    source = made.render(template(f"x {{{slot}}} y"), state([0]), Asked(item=1)).source
    assert source == "x Film item_3 & /s extra_id_0 a_1 b_2 y"


@pytest.mark.parametrize(
    "slot", ["user_name", "user_town", "review", "summary", "explanation", "feature"]
)
def test_text_of_a_user_never_becomes_a_token(slot: str) -> None:
    known = state([0], name=NASTY, profile={"town": NASTY})
    asked = Asked(item=1, review=NASTY, summary=NASTY, explanation=NASTY, feature=NASTY)
    made = prompter()
    source = made.render(template(f"{{{slot}}}"), known, asked).source
    assert source == "Film item_3 & /s extra_id_0 a_1 b_2"
    target = made.render(template("", f"{{{slot}}}"), known, asked, draw=0).target
    assert target == source


def test_names_of_categories_never_become_tokens() -> None:
    made = prompter(categories=[["<item_5>", "</s> a"]] * len(IDS))
    whole = template("{categories} | {favourite_categories}")
    source = made.render(whole, state([0]), Asked(item=1)).source
    assert source == "item_5 , /s a | /s a, item_5"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab<>_3/ \n\t\u2028\x0b") | st.characters()))
def test_plain_text_is_one_line_without_brackets(text: str) -> None:
    cleaned = plain(text)
    assert not {"<", ">"} & set(cleaned)
    assert len(cleaned.splitlines()) <= 1
    assert cleaned == cleaned.strip()
    assert plain(cleaned) == cleaned
    words = text.replace("<", " ").replace(">", " ").split()
    assert cleaned.split() == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.0, "4"), (3.5, "3.5"), (0.5, "0.5"), (float(np.float32(3.7)), "3.7"), (10.0, "10")],
)
def test_stars_as_text(value: float, text: str) -> None:
    assert stars(value) == text


def test_the_slots_that_data_can_fill() -> None:
    everything = split(IDS[:4], STARS[:4], explanation=["a"] * 4)
    bare = leave_one_out(
        check_tables("bare", pl.DataFrame({"user_id": ["u"] * 3, "item_id": IDS[:3]}))
    )
    made = prompter(year=[1990] * 12)
    always = {"user", "user_name", "item", "history", "latest", "recent", "candidates", "yes_no"}
    always |= {"masked", "spans"}
    of_items = {"title", "categories", "item_year"}
    from_items = {"favourite_categories", "liked_titles", "history_titles"}
    from_stars = {"rating", "average_rating", "star", "like_dislike", "rated", "rated_history"}
    assert made.available(everything.histories, everything.texts) == (
        always | of_items | from_items | from_stars | {"explanation"}
    )
    assert made.available(bare.histories, bare.texts) == always | of_items | from_items
    codes_only = ItemCodes("atomic", (("<item_0>",),))
    empty = Prompter(Catalogue(pl.DataFrame({"item_id": ["a"]}), codes_only), PromptSettings())
    assert empty.available(bare.histories, bare.texts) == always
    compared = prompter(usual_stars=USUAL).available(everything.histories, everything.texts)
    assert compared - made.available(everything.histories, everything.texts) == {
        "usual_stars", "compared", "compared_history", "expected_stars",
    }  # fmt: skip
    assert "compared" not in prompter(usual_stars=USUAL).available(bare.histories, bare.texts)


def test_profile_columns_and_the_name_are_slots() -> None:
    interactions = pl.DataFrame({"user_id": ["u"] * 3, "item_id": IDS[:3]})
    users = pl.DataFrame({"user_id": ["u"], "name": ["Ann"], "age": [30]})
    known = leave_one_out(check_tables("made", interactions, users=users)).histories
    made = prompter()
    assert {"user_name", "user_age"} <= made.available(known, {})
    named = template("{user_name} is {user_age}")
    assert made.render(named, known.state(0, 1), Asked()).source == "Ann is 30"


def test_a_user_without_a_name_is_called_by_the_raw_id() -> None:
    interactions = pl.DataFrame({"user_id": ["u"] * 3 + ["v"] * 3, "item_id": IDS[:3] * 2})
    users = pl.DataFrame({"user_id": ["v", "u"], "name": [None, "Ann"]})
    made, named = prompter(), template("{user_name}")
    for table, expected in ((None, ["u", "v"]), (users, ["Ann", "v"])):
        known = leave_one_out(check_tables("made", interactions, users=table)).histories
        said = [made.render(named, known.state(user, 1), Asked()).source for user in range(2)]
        assert said == expected


def test_what_is_asked_is_written() -> None:
    made = prompter(prompts=PromptSettings(review_words=2))
    whole = template("{candidates} | {star} | {rating} | {review} | {summary} | {yes_no}")
    source = made.render(whole, state([1]), ASKED).source
    assert source == "<item_5> <item_3> <item_9> | 2 | 4 | A good | Good | no"


@pytest.mark.parametrize(
    ("rating", "threshold", "word"),
    [(4.0, 4.0, "like"), (3.9, 4.0, "dislike"), (3.0, 2.5, "like"), (1.0, 4.0, "dislike")],
)
def test_stars_from_the_threshold_on_are_liking(rating: float, threshold: float, word: str) -> None:
    made = prompter(prompts=PromptSettings(like_threshold=threshold))
    liking = template("", "{like_dislike}")
    assert made.render(liking, state([]), Asked(rating=rating), draw=0).target == word
    assert made.answer("like_dislike", Asked(rating=rating)) == word


def test_the_latest_items_are_the_history_turned_round() -> None:
    made = prompter(prompts=PromptSettings(max_history=3, recent=1, max_recent=3))
    known = state([1, 2, 3, 4])
    backwards = made.render(template("{latest}"), known, Asked()).source.split(" , ")
    forwards = made.render(template("{history}"), known, Asked()).source.split(" , ")
    assert backwards == forwards[::-1] and len(forwards) == 3


@given(st.integers(0, 8), st.integers(0, 10), st.integers(0, 10), st.integers(0, 2**31 - 1))
def test_rated_lists_tell_the_stars_of_the_past_and_of_no_other(
    length: int, most: int, recent: int, draw: int
) -> None:
    """However they are cut, the parts together are the newest items, each with its stars."""
    limit = PromptSettings(max_history=most, recent=recent)
    made = prompter(prompts=limit)
    user, asked = state(list(range(length)), STARS[:length]), Asked(item=9, rating=3.5)
    told = [
        w for n in range(length)[max(length - most, 0) :] for w in (*codes([n]), f"{STARS[n]:g}")
    ]
    learnt = made.render(RATED, user, asked, draw)
    assert learnt.source.split() + learnt.target.split() == [*told, "<item_9>", "3.5"]
    assert learnt.target.split()[:-1] == learnt.given.split()
    question = made.render(RATED, user, replace(asked, rating=None))
    assert question.source.split() + question.given.split() == [*told, "<item_9>"]
    assert len(question.given.split()) == 2 * min(recent, most, length) + 1


def test_a_rated_list_names_items_without_stars_alone() -> None:
    user = state([1, 2, 3], [4.0, np.nan, 2.5])
    written = prompter().render(RATED, user, Asked(item=5), None)
    assert (written.source + written.given).split() == [
        "<item_1>", "4", "<item_2>", "<item_3>", "2.5", "<item_5>",
    ]  # fmt: skip


def test_compared_lists_tell_what_others_gave_before_the_users_own_stars() -> None:
    """While training what may be told with each interaction, at prediction what all gave."""
    made = prompter(usual_stars=USUAL, prompts=PromptSettings(recent=1, least_recent=1.0))
    told = np.array([4.24, 2.0], dtype=np.float32)
    user, asked = state([1, 2], [5.0, np.nan], usual=told), Asked(item=9, rating=3.5, usual=2.26)
    learnt = made.render(COMPARED, user, asked, draw=0)
    assert learnt.source == ""
    assert learnt.target == "<item_1> 4.2 5 <item_2> 2.0 <item_9> 2.3 3.5"
    question = made.render(COMPARED, user, asked)
    assert (question.source, question.given) == ("<item_1> 3.1 5", "<item_2> 3.2 <item_9> 3.9 ")
    expected = template("{expected_stars}", "{rating}")
    # The one known star is .76 above what others are told to give there, and five say nothing.
    assert made.render(expected, user, asked, draw=0).source == "2.4"  # 2.26 + .76 / 6
    assert made.render(expected, user, asked).source == "4.2"  # 3.9 + 1.9 / 6
    assert made.render(expected, state([]), asked).source == "3.9"
    plain_question = template("{item} {usual_stars}", "{rating}")
    assert made.render(plain_question, user, asked, draw=0).source == "<item_9> 2.3"
    assert made.render(plain_question, user, asked).source == "<item_9> 3.9"
