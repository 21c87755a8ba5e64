"""Templates: what a file may say, what is refused and with which words, and rendering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.prompting.templates import AnswerKind, Family, PromptTemplate, load_templates

RMSE, NDCG, AUC = ("rmse", False), ("ndcg@10", True), ("auc", True)
FAMILIES = {
    "sequential": Family(
        name="sequential",
        slots=frozenset({"user", "history", "recent", "item"}),
        answers={"next_item": AnswerKind("item", "item", NDCG)},
        open_slots=("user_",),
    ),
    "rating": Family(
        name="rating",
        slots=frozenset({"user", "item", "title", "history", "rating"}),
        answers={"stars": AnswerKind("rating", "stars", RMSE)},
    ),
    "all": Family(
        name="all",
        slots=frozenset({"user", "item", "title", "candidates", "star", "rating", "yes_no"})
        | {"masked", "spans"}
        | {"like_dislike", "review", "summary"},
        answers={
            "choice": AnswerKind("item", "choice", NDCG),
            "pick": AnswerKind("item", "choice", NDCG, listed=False),
            "whether": AnswerKind("yes_no", "words", AUC, proposes="item"),
            "star": AnswerKind("yes_no", "words", AUC, proposes="star"),
            "like": AnswerKind("like_dislike", "words", AUC),
            "headline": AnswerKind("summary", "text", ("bleu-2", True)),
            "gaps": AnswerKind("item", "item", NDCG, corrupts=True),
        },
    ),
}
NEXT = {"id": "2-1", "answer": "next_item", "source": "{user} had {history}", "target": "{item}"}
STARS = {"id": "1-1", "answer": "stars", "source": "{user} on {item} ?", "target": "{rating}"}
GIVEN = {**NEXT, "target": "{recent} {item}", "given": "{recent} "}


def without(template: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in template.items() if name != field}


def save(path: Path, templates: Any, family: Any = "sequential") -> Path:
    path.write_text(json.dumps({"family": family, "templates": templates}), encoding="utf-8")
    return path


def load(path: Path, *templates: Any, family: str = "sequential") -> list[PromptTemplate]:
    """Writes templates into a file and reads them."""
    return list(
        load_templates([save(path / "own.json", list(templates), family)], FAMILIES).values()
    )


def only(path: Path, template: dict[str, Any], family: str = "sequential") -> PromptTemplate:
    (loaded,) = load(path, template, family=family)
    return loaded


def refused(*paths: Path) -> str:
    """The message of the one error."""
    with pytest.raises(ValueError, match=r".") as error:
        load_templates(paths, FAMILIES)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "cures"),
    [
        ('{"family": "sequential",\n"templates": [\n{"id": }]}', ["JSON", "line 3", "column 8"]),
        ("", ["JSON", "line 1"]),
        ("[]", ['"family"', '"templates"']),
        ('{"templates": []}', ['"family"', '"templates"']),
        ('{"family": "sequential"}', ['"family"', '"templates"']),
        ('{"family": "rating", "templates": [], "x": 1}', ['"family"', '"templates"']),
        ('{"family": "sequentail", "templates": []}', ["'sequentail'", "mean 'sequential'"]),
        ('{"family": "zzz", "templates": []}', ["'zzz'", "legal: all, rating, sequential"]),
        ('{"family": null, "templates": []}', ["None", "legal: all, rating, sequential"]),
        ('{"family": "rating", "templates": {}}', ['"templates" must be a list']),
        ('{"family": "rating", "templates": "1-1"}', ['"templates" must be a list']),
        ('{"family": "rating", "templates": []}', ["at least one template"]),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, cures: list[str]) -> None:
    path = tmp_path / "own.json"
    path.write_text(text, encoding="utf-8")
    message = refused(path)
    for cure in (str(path), *cures):
        assert cure in message


@pytest.mark.parametrize("family", [["sequential"], {}])
def test_a_family_that_is_no_text_is_refused(tmp_path: Path, family: Any) -> None:
    path = save(tmp_path / "own.json", [NEXT], family)
    assert str(path) in refused(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(b'{"family": "\xff"}')
    assert f"{path}: not UTF-8" in refused(path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.json'}: no such file or folder" in refused(tmp_path / "none.json")


def test_a_folder_without_templates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a template")
    assert f"{tmp_path}: the folder has no *.json" in refused(tmp_path)


@pytest.mark.parametrize(
    ("template", "cures"),
    [
        # fields
        (without(NEXT, "answer"), ["'answer' is missing"]),
        (without(NEXT, "source"), ["'source' is missing"]),
        (without(NEXT, "target"), ["'target' is missing"]),
        ({**NEXT, "source": "  "}, ["'source' is missing or empty"]),
        ({**NEXT, "sourse": "x"}, ["unknown field 'sourse'", "mean 'source'"]),
        ({**NEXT, "heldOut": True}, ["unknown field 'heldOut'", "mean 'heldout'"]),
        ({**NEXT, "source": ["a"]}, ["'source' must be str", "['a']"]),
        ({**NEXT, "heldout": "yes"}, ["'heldout' must be bool", "'yes'"]),
        ({**NEXT, "heldout": 1}, ["'heldout' must be bool", "1"]),
        ({**NEXT, "weight": "2"}, ["'weight' must be int or float", "'2'"]),
        ({**NEXT, "weight": True}, ["'weight' must be int or float", "True"]),
        ({**NEXT, "weight": 0}, ["'weight' must be above 0", "0"]),
        ({**NEXT, "weight": -1.5}, ["'weight' must be above 0", "-1.5"]),
        ({**NEXT, "weight": float("nan")}, ["'weight' must be above 0"]),
        # slots
        ({**NEXT, "source": "{histroy}"}, ["'source'", "{histroy}", "mean 'history'"]),
        ({**NEXT, "source": "{title}"}, ["{title}", "legal: history, item, recent, user"]),
        ({**NEXT, "source": "{item_year}"}, ["unknown slot {item_year}"]),
        ({**NEXT, "target": "{rcent} {item}"}, ["'target'", "{rcent}", "mean 'recent'"]),
        ({**NEXT, "source": "{user.name}"}, ["'source'", "{user.name}", "only a name"]),
        ({**NEXT, "source": "{history[0]}"}, ["'source'", "{history[0]}", "only a name"]),
        ({**NEXT, "source": "{user:.1f}"}, ["'source'", "{user}", "no dot, index, conversion"]),
        ({**NEXT, "target": "{item!r}"}, ["'target'", "{item}", "only a name"]),
        ({**NEXT, "source": "{}"}, ["'source'", "only a name"]),
        ({**NEXT, "source": "{0}"}, ["'source'", "{0}", "only a name"]),
        ({**NEXT, "source": "{ user }"}, ["'source'", "{ user }", "only a name"]),
        ({**NEXT, "source": "{history"}, ["braces of 'source'", "{{ for a plain brace"]),
        ({**NEXT, "source": "history}"}, ["braces of 'source'", "{{ for a plain brace"]),
        ({**NEXT, "target": "{item}}"}, ["braces of 'target'"]),
        # the answer
        ({**NEXT, "answer": "next_itme"}, ["unknown answer kind", "mean 'next_item'"]),
        ({**NEXT, "answer": "stars"}, ["unknown answer kind 'stars'", "legal: next_item"]),
        ({**NEXT, "target": "it is {history}"}, ["target must end with {item}", "'next_item'"]),
        ({**NEXT, "target": "{item} ."}, ["target must end with {item}"]),
        ({**NEXT, "source": "{history} {item}"}, ["{item} is the answer", "source"]),
        ({**GIVEN, "given": "{item} ", "target": "{item} {item}"}, ["{item} is the answer"]),
        # the given start
        ({**GIVEN, "given": "{history} "}, ["'given' must be the beginning of 'target'"]),
        ({**GIVEN, "given": "{recent}  "}, ["'given' must be the beginning of 'target'"]),
        ({**GIVEN, "given": "{recent}"}, ["'given' must end with a space"]),
        # lists
        ({**NEXT, "separator": ""}, ["'separator' must begin and end with a space"]),
        ({**NEXT, "separator": ","}, ["'separator' must begin and end with a space"]),
        ({**NEXT, "separator": ", "}, ["'separator' must begin and end with a space"]),
    ],
)
def test_a_broken_template_is_refused(
    tmp_path: Path, template: dict[str, Any], cures: list[str]
) -> None:
    """The message names the file, the template, what is wrong and what is expected."""
    good = {**NEXT, "id": "good"}
    path = save(tmp_path / "own.json", [good, template])
    message = refused(path)
    for cure in (f"{path}: template '2-1'", *cures):
        assert cure in message


def asking(answer: str, source: str, slot: str) -> dict[str, Any]:
    return {"id": "a", "answer": answer, "source": source, "target": f"{{{slot}}}"}


@pytest.mark.parametrize(
    ("template", "cure"),
    [
        (asking("choice", "{user}", "item"), "must have {candidates} with the answer 'choice'"),
        (asking("pick", "{candidates}", "item"), "must not have {candidates} with the answer"),
        (asking("choice", "{candidates} {title}", "item"), "{title} tells the answer to 'choice'"),
        (asking("choice", "{candidates} {item_year}", "item"), "{item_year} tells the answer"),
        (asking("whether", "{item} of {candidates}", "yes_no"), "must not have {candidates}"),
        (asking("whether", "{item} {star}", "yes_no"), "must not have {star}"),
        (asking("star", "{item}", "yes_no"), "must have {star} with the answer 'star'"),
        (asking("star", "{item} {star} {rating}", "yes_no"), "{rating} tells the answer to 'star'"),
        (asking("like", "{item} {rating}", "like_dislike"), "{rating} tells the answer to 'like'"),
        (asking("headline", "{review} {star}", "summary"), "must not have {star}"),
    ],
)
def test_a_question_puts_forward_what_its_answer_is_about_and_tells_no_more(
    tmp_path: Path, template: dict[str, Any], cure: str
) -> None:
    message = refused(save(tmp_path / "own.json", [template], "all"))
    assert "template 'a'" in message and cure in message


@pytest.mark.parametrize(
    ("changed", "cure"),
    [
        ({"source": "{user}"}, "must have {masked} with the answer 'gaps'"),
        ({"source": "{masked} {spans}"}, "{spans} tells the answer to 'gaps'"),
        ({"source": "{masked} {title}"}, "{title} tells the answer to 'gaps'"),
        ({"target": "{item}", "given": ""}, "'target' must be '{spans} {item}' and 'given'"),
        ({"given": ""}, "'given' '{spans} '"),
        ({"answer": "choice", "source": "{candidates} {masked}"}, "must not have {masked}"),
    ],
)
def test_masked_items_are_all_restored_and_never_told(
    tmp_path: Path, changed: dict[str, Any], cure: str
) -> None:
    gaps = asking("gaps", "{user} {masked}", "item")
    gaps |= {"target": "{spans} {item}", "given": "{spans} "}
    assert only(tmp_path, gaps, "all").source_slots == {"user", "masked", "spans"}
    message = refused(save(tmp_path / "own.json", [gaps | changed], "all"))
    assert "template 'a'" in message and cure in message


@pytest.mark.parametrize(
    ("template", "needs"),
    [
        (asking("choice", "{candidates}", "item"), set()),
        (asking("whether", "{title}", "yes_no"), set()),
        (asking("star", "{item} {star}", "yes_no"), {"rating"}),
        (asking("like", "{item}", "like_dislike"), {"rating"}),
        (asking("headline", "{review}", "summary"), {"review", "summary"}),
        (asking("headline", "{review} {rating}", "summary"), {"review", "summary", "rating"}),
    ],
)
def test_a_template_says_which_columns_it_needs(
    tmp_path: Path, template: dict[str, Any], needs: set[str]
) -> None:
    assert only(tmp_path, template, "all").needs == needs


@pytest.mark.parametrize(
    ("template", "cure"),
    [
        (without(NEXT, "id"), "'id' is missing"),
        ({**NEXT, "id": ""}, "'id' is missing or empty"),
        ({**NEXT, "id": None}, "'id' must be str"),
        ("2-1", "expected an object with id, answer, source, target"),
    ],
)
def test_a_template_without_a_name_is_counted(tmp_path: Path, template: Any, cure: str) -> None:
    path = save(tmp_path / "own.json", [NEXT, template])
    message = refused(path)
    assert f"{path}: template number 2" in message
    assert cure in message


def test_an_infinite_weight_is_refused(tmp_path: Path) -> None:
    assert "'weight'" in refused(save(tmp_path / "own.json", [{**NEXT, "weight": float("inf")}]))


def test_the_rating_family_knows_other_slots(tmp_path: Path) -> None:
    """A format spec on a slot that exists is refused as well as on one that does not."""
    path = save(tmp_path / "own.json", [{**STARS, "target": "{rating:.1f}"}], "rating")
    assert f"{path}: template '1-1': 'target' has {{rating}}" in refused(path)
    assert only(tmp_path, {**STARS, "source": "{item_year} {title}"}, "rating").id == "1-1"


def test_an_id_stands_once_in_a_family(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    twice = refused(save(first, [NEXT, {**NEXT, "source": "x"}]))
    assert f"{first}: template '2-1' stands twice" in twice
    assert "give it another id" in twice
    save(first, [NEXT])
    save(second, [NEXT])
    assert f"{second}: template '2-1' stands twice" in refused(first, second)
    assert f"(also in {first})" in refused(first, second)


def test_two_families_may_share_an_id(tmp_path: Path) -> None:
    save(tmp_path / "a.json", [NEXT])
    save(tmp_path / "b.json", [{**STARS, "id": "2-1"}], "rating")
    assert list(load_templates([tmp_path], FAMILIES)) == [("sequential", "2-1"), ("rating", "2-1")]


def test_a_folder_gives_its_json_files_by_name(tmp_path: Path) -> None:
    save(tmp_path / "b.json", [{**NEXT, "id": "b"}])
    save(tmp_path / "a.json", [{**NEXT, "id": "a2"}, {**NEXT, "id": "a1"}])
    (tmp_path / "c.txt").write_text("no template")
    assert [key[1] for key in load_templates([tmp_path], FAMILIES)] == ["a2", "a1", "b"]


@pytest.mark.parametrize(
    "template",
    [
        NEXT,
        GIVEN,
        {**NEXT, "heldout": True, "weight": 2.5, "separator": " -> ", "reported": True},
        {**NEXT, "source": "Ünïcode „quotes“ and {{braces}} {history}\n"},
        {**GIVEN, "separator": " ", "weight": 8},
    ],
)
def test_writing_and_reading_gives_the_same_template(
    tmp_path: Path, template: dict[str, Any]
) -> None:
    first = only(tmp_path, template)
    again = only(tmp_path, first.to_json())
    assert again == first
    assert set(first.to_json()) <= {*template, "heldout"}


# Texts that put something before, between and behind the slots, spaces or not.
literals = st.text(alphabet="ab .,:_{}\n", min_size=1, max_size=4).map(
    lambda text: text.replace("{", "{{").replace("}", "}}")
)
slots = st.sampled_from(["history", "recent", "user", "user_age"])


@settings(deadline=None)
@given(st.lists(st.tuples(literals, slots), max_size=4), literals, st.booleans(), st.booleans())
def test_any_template_survives_json_and_sets_codes_off_as_words(
    pieces: list[tuple[str, str]], end: str, heldout: bool, given_start: bool
) -> None:
    source = "".join(f"{text}{{{slot}}}" for text, slot in pieces) + end
    start = "{recent} " if given_start else ""
    template = PromptTemplate(
        "sequential", "x", "next_item", source, start + "{item}", start, heldout=heldout
    )
    fields = json.loads(json.dumps(template.to_json()))
    assert PromptTemplate("sequential", **fields) == template
    values = {"history": "<h>", "recent": "<r>", "user": "7", "user_age": "30", "item": "<i>"}
    words = template.render(template.source_parts, values).split()
    for slot, code in (("history", "<h>"), ("recent", "<r>")):
        assert words.count(code) == [s for _, s in pieces].count(slot)
    target = template.render(template.target_parts, values)
    assert target.startswith(template.render(template.given_parts, values))


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("item_{item}.", "item_ <7> ."),
        ("{item}", "<7>"),
        ("{item}{item}", "<7> <7>"),
        ("({item})", "( <7> )"),
        ("see {item} now", "see <7> now"),
        ("{title}:{item}", "Heat: <7>"),
        pytest.param(
            *("{item}{title}!", "<7> Heat!"),
        ),
        ("user_{user}.", "user_3."),
        ("{{{item}}}", "{ <7> }"),
    ],
)
def test_codes_are_words_of_their_own_and_other_slots_are_not(
    tmp_path: Path, text: str, rendered: str
) -> None:
    template = only(tmp_path, {**STARS, "source": text}, "rating")
    values = {"item": "<7>", "title": "Heat", "user": "3"}
    assert " ".join(template.render(template.source_parts, values).split()) == rendered


def test_rendering_names_the_slot_that_has_no_value(tmp_path: Path) -> None:
    template = only(tmp_path, NEXT)
    expected = rf"{tmp_path}.*own.json: template '2-1' needs a value for {{history}}.*user"
    with pytest.raises(ValueError, match=expected):
        template.render(template.source_parts, {"user": "1"})


def test_values_are_never_read_as_templates(tmp_path: Path) -> None:
    template = only(tmp_path, NEXT)
    values = {"user": "{item}", "history": "{0.__class__}"}
    assert template.render(template.source_parts, values) == "{item} had {0.__class__}"


def test_slots_and_the_user(tmp_path: Path) -> None:
    named, unnamed = load(tmp_path, NEXT, {**GIVEN, "id": "2-2", "source": "{history}"})
    assert named.source_slots == {"user", "history"}
    assert named.slots == {"user", "history", "item"}
    assert unnamed.source_slots == {"history", "recent"}
    assert (named.names_user, unnamed.names_user) == (True, False)
    assert only(tmp_path, {**NEXT, "source": "{user_age}"}).names_user


def test_the_file_is_remembered(tmp_path: Path) -> None:
    assert only(tmp_path, NEXT).file == str(tmp_path / "own.json")
