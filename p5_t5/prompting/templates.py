"""Prompt templates: JSON in, checked templates out.

A template is data: a source and a target with slots in braces, and a few marks that say what kind
of answer it asks for. Whatever is wrong with a file is found when it is loaded, and the error names
the file, the template and the cure.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

_SLOT = re.compile(r"[a-z][a-z0-9_]*")
_TOKEN = re.compile(r"<[^\s<>]+>")
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "answer": (str,),
    "source": (str,),
    "target": (str,),
    "given": (str,),
    "heldout": (bool,),
    "weight": (int, float),
    "separator": (str,),
    "reported": (bool,),
}
_DEFAULTS: Mapping[str, Any] = {"given": "", "weight": 1.0, "separator": " , ", "reported": False}
_REQUIRED = ("id", "answer", "source", "target")

AnswerForm = Literal["item", "choice", "stars", "words", "text"]
# Slots that one of two words fills: the word that agrees, and the other one.
WORDS: Mapping[str, tuple[str, str]] = {
    "yes_no": ("yes", "no"),
    "like_dislike": ("like", "dislike"),
}


@dataclass(frozen=True)
class AnswerKind:
    """What an answer is, and so how it is predicted and judged.

    Attributes:
        slot: what the answer fills; it ends the target.
        form: an item of the catalogue, a choice among candidates, a number of stars,
            one of two words, or free text.
        metric: the metric that judges it first, and whether higher is better.
        proposes: what a question puts forward, which is the truth half of the time and drawn
            otherwise: an item or a star.
        corrupts: whether spans of the history are masked, the newest item among them, which is the
            answer; the other masked items are given at prediction.
        listed: whether the prompt lists the candidates of a choice. Without, decoding alone holds
            to them, and as many can be chosen among as one likes.
    """

    slot: str
    form: AnswerForm
    metric: tuple[str, bool]
    proposes: Literal["item", "star"] | None = None
    corrupts: bool = False
    listed: bool = True


@dataclass(frozen=True)
class Family:
    """What the templates of one task may say.

    Attributes:
        name: the family's name, as the JSON file gives it.
        slots: the legal slots.
        answers: the kinds of answers by name, the one that the family is about first.
        open_slots: beginnings of slots that name a column of the data set (``user_``, ``item_``).
    """

    name: str
    slots: frozenset[str]
    answers: Mapping[str, AnswerKind]
    open_slots: tuple[str, ...] = ("user_", "item_")

    def allows(self, slot: str) -> bool:
        """Whether a template of this family may use the slot."""
        return slot in self.slots or slot.startswith(self.open_slots)


# Slots that list items with the stars that they were given, some of them after the stars that
# others usually give. A template that learns to write them teaches as many ratings as there are
# items, where a plain question teaches one.
COMPARED_SLOTS = frozenset({"compared_history", "compared"})
RATED_SLOTS = COMPARED_SLOTS | {"rated_history", "rated"}
# Slots whose value is made of item codes. A code is always a word of its own, so that it is cut
# into the same tokens wherever it stands.
CODE_SLOTS = RATED_SLOTS | {"item", "history", "latest", "recent", "candidates", "masked", "spans"}
# Slots of the newest items, after a cut that is drawn anew each time while training.
RECENT_SLOTS = frozenset({"recent", "rated", "compared"})
# Slots whose tokens were answers once, and are learnt as such although they are given at
# prediction. Of those with stars it is the stars alone.
ANSWERED_SLOTS = RECENT_SLOTS | {"spans"}
# Slots of the older ones before that cut, or of all where nothing is cut.
OLDER_SLOTS = frozenset({"history", "latest", "rated_history", "compared_history"})
# Slots that describe the item of a question, besides {item_COLUMN}.
ITEM_SLOTS = frozenset(
    {"item", "title", "categories", "brand", "price", "description", "usual_stars"}
)

# How the masked spans of a history are written: all but the newest item, and the whole.
_SPANS, _RESTORED = "{spans} ", "{spans} {item}"

# Slots that can be filled only where the interaction has a value in a column.
_COLUMNS: Mapping[str, str] = {
    "rating": "rating",
    "star": "rating",
    "like_dislike": "rating",
    "review": "review",
    "review_stars": "review",
    "summary": "summary",
    "explanation": "explanation",
}


@dataclass(frozen=True)
class PromptTemplate:
    """One checked template.

    Attributes:
        family: the family's name.
        id: unique within the family.
        answer: the kind of answer that it asks for.
        source: what the encoder reads.
        target: what the decoder learns to write.
        given: the start of the target that is given at prediction ("" for none).
        heldout: kept out of training, to measure prompts that were never seen.
        weight: how often it is drawn within its family, against the others.
        separator: what stands between two items of a history.
        reported: judged in every report, not only in the one on all templates.
        file: where it came from, for error messages.
    """

    family: str
    id: str
    answer: str
    source: str
    target: str
    given: str = ""
    heldout: bool = False
    weight: float = 1.0
    separator: str = " , "
    reported: bool = False
    file: str = ""

    @cached_property
    def source_parts(self) -> tuple[tuple[str, str | None], ...]:
        """The source as (literal, slot) pairs."""
        return _parts(self.source)

    @cached_property
    def target_parts(self) -> tuple[tuple[str, str | None], ...]:
        """The target as (literal, slot) pairs."""
        return _parts(self.target)

    @cached_property
    def given_parts(self) -> tuple[tuple[str, str | None], ...]:
        """The given start of the target as (literal, slot) pairs."""
        return _parts(self.given)

    @cached_property
    def source_slots(self) -> frozenset[str]:
        """Slots of the source and of the given start: what must be known at prediction."""
        return frozenset(s for _, s in self.source_parts + self.given_parts if s)

    @cached_property
    def slots(self) -> frozenset[str]:
        """All slots."""
        return self.source_slots | {s for _, s in self.target_parts if s}

    @cached_property
    def needs(self) -> frozenset[str]:
        """The columns that an interaction must have a value in to be asked about."""
        return frozenset(_COLUMNS[slot] for slot in self.slots if slot in _COLUMNS)

    @property
    def names_user(self) -> bool:
        """Whether it can only be asked about a known user."""
        return any(s == "user" or s.startswith("user_") for s in self.source_slots)

    def render(self, parts: Sequence[tuple[str, str | None]], values: Mapping[str, str]) -> str:
        """Fills the slots of ``source_parts``, ``target_parts`` or ``given_parts``.

        Raises:
            ValueError: a slot has no value.
        """
        text = []
        for literal, slot in parts:
            text.append(literal)
            if slot is not None:
                if slot not in values:
                    raise ValueError(
                        f"{self.file}: template {self.id!r} needs a value for {{{slot}}}; "
                        f"given were {', '.join(sorted(values)) or 'none'}"
                    )
                text.append(values[slot])
        return "".join(text)

    def to_json(self) -> dict[str, Any]:
        """The template as it would stand in a file."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {k: v for k, v in fields.items() if k not in _DEFAULTS or v != _DEFAULTS[k]}


def _parts(text: str) -> tuple[tuple[str, str | None], ...]:
    """Cuts a text at its slots and sets every item code off as a word of its own."""
    raw = [(literal, slot) for literal, slot, _, _ in string.Formatter().parse(text)]
    parts: list[tuple[str, str | None]] = []
    after_code = False
    for literal, slot in raw:
        # The last pair is a literal without a slot; an empty one there ends the text.
        if after_code and not literal[:1].isspace() and (literal or slot):
            literal = " " + literal
        if slot in CODE_SLOTS and (literal or parts) and not literal[-1:].isspace():
            literal += " "
        parts.append((literal, slot))
        after_code = slot in CODE_SLOTS
    return tuple(parts)


def load_templates(
    paths: Iterable[str | Path], families: Mapping[str, Family]
) -> dict[tuple[str, str], PromptTemplate]:
    """Reads template files, or every ``*.json`` of a folder, and checks each template.

    Args:
        paths: files or folders; an id may stand only once in all of them.
        families: the families that exist, by name.

    Returns:
        Templates by (family, id), in the order of the files.

    Raises:
        ValueError: anything is wrong with a file; names the file, the template and the cure.
    """
    loaded: dict[tuple[str, str], PromptTemplate] = {}
    for path in paths:
        for file in _files(Path(path)):
            for template in _read_file(file, families):
                key = (template.family, template.id)
                if key in loaded:
                    raise ValueError(
                        f"{file}: template {template.id!r} stands twice in the family "
                        f"{template.family!r} (also in {loaded[key].file}); give it another id"
                    )
                loaded[key] = template
    return loaded


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise ValueError(f"{path}: the folder has no *.json file with templates")
        return files
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder with templates")
    return [path]


def _read_file(file: Path, families: Mapping[str, Family]) -> list[PromptTemplate]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason})") from error
    if not isinstance(content, dict) or set(content) != {"family", "templates"}:
        raise ValueError(f'{file}: expected an object with the two fields "family" and "templates"')
    name, templates = content["family"], content["templates"]
    if not isinstance(name, str) or name not in families:
        raise ValueError(f"{file}: unknown family {name!r}{_nearest(str(name), families)}")
    if not isinstance(templates, list) or not templates:
        raise ValueError(f'{file}: "templates" must be a list with at least one template')
    return [_read_template(file, families[name], i, t) for i, t in enumerate(templates)]


def _read_template(file: Path, family: Family, number: int, fields: Any) -> PromptTemplate:
    name = fields.get("id") if isinstance(fields, dict) else None
    where = f"{file}: template {name!r}" if name else f"{file}: template number {number + 1}"
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(_REQUIRED)}")
    for field, value in fields.items():
        if field not in _FIELDS:
            raise ValueError(f"{where}: unknown field {field!r}{_nearest(field, _FIELDS)}")
        kinds = _FIELDS[field]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{where}: {field!r} must be {expected}, not {value!r}")
    for field in _REQUIRED:
        if not fields.get(field, "").strip():
            raise ValueError(f"{where}: the field {field!r} is missing or empty")
    if not 0 < fields.get("weight", 1) < math.inf:
        raise ValueError(f"{where}: 'weight' must be above 0 and finite, not {fields['weight']!r}")
    for field in ("source", "target", "given", "separator"):
        if token := _TOKEN.search(fields.get(field, "")):
            raise ValueError(
                f"{where}: {field!r} has {token[0]!r}, which could be read as a token; words in "
                "angle brackets belong to the item codes"
            )
    template = PromptTemplate(family=family.name, file=str(file), **fields)
    for field in ("source", "target", "given"):
        _check_slots(where, field, getattr(template, field), family)
    _check_answer(where, template, family)
    return template


def _check_slots(where: str, field: str, text: str, family: Family) -> None:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"{where}: braces of {field!r} don't match ({error}); write {{{{ for a plain brace"
        ) from error
    for _, slot, spec, conversion in parsed:
        if slot is None:
            continue
        if not _SLOT.fullmatch(slot) or slot.endswith("_") or spec or conversion:
            raise ValueError(
                f"{where}: {field!r} has {{{slot}}} with something that is not a plain name; a "
                "slot is only a name in braces: no dot, index, conversion or format"
            )
        if not family.allows(slot):
            raise ValueError(
                f"{where}: {field!r} has the unknown slot {{{slot}}}{_nearest(slot, family.slots)}"
            )


def _check_answer(where: str, template: PromptTemplate, family: Family) -> None:
    if template.answer not in family.answers:
        near = _nearest(template.answer, family.answers)
        raise ValueError(f"{where}: unknown answer kind {template.answer!r}{near}")
    kind = family.answers[template.answer]
    slot = kind.slot
    if not template.target.endswith(f"{{{slot}}}"):
        raise ValueError(
            f"{where}: the target must end with {{{slot}}}, the answer to {template.answer!r}"
        )
    if slot in template.source_slots:
        raise ValueError(
            f"{where}: {{{slot}}} is the answer and must not stand in the source or the given start"
        )
    if told := sorted(s for s in template.source_slots if _tells(s, kind)):
        raise ValueError(f"{where}: {{{told[0]}}} tells the answer to {template.answer!r}")
    drawn = {
        "candidates": kind.form == "choice" and kind.listed,
        "star": kind.proposes == "star",
        "masked": kind.corrupts,
    }
    for name, wanted in drawn.items():
        if wanted != (name in template.source_slots):
            must = "must" if wanted else "must not"
            raise ValueError(
                f"{where}: the source {must} have {{{name}}} with the answer {template.answer!r}"
            )
    if kind.corrupts and (template.target, template.given) != (_RESTORED, _SPANS):
        raise ValueError(
            f"{where}: with the answer {template.answer!r} 'target' must be {_RESTORED!r} and "
            f"'given' {_SPANS!r}"
        )
    if any(asked == "spans" for _, asked in template.source_parts):
        raise ValueError(f"{where}: {{spans}} tells the answer to {template.answer!r}")
    if not template.target.startswith(template.given):
        raise ValueError(f"{where}: 'given' must be the beginning of 'target', word for word")
    if template.given and not template.given[-1].isspace():
        raise ValueError(f"{where}: 'given' must end with a space, so that the answer is a word")
    if not template.separator or not (
        template.separator[0].isspace() and template.separator[-1].isspace()
    ):
        raise ValueError(f"{where}: 'separator' must begin and end with a space")


def _tells(slot: str, kind: AnswerKind) -> bool:
    """Whether a slot of the source gives the answer away."""
    if kind.slot == "item":
        return slot in ITEM_SLOTS or slot.startswith("item_")
    return slot == "rating" and (kind.slot == "like_dislike" or kind.proposes == "star")


def _nearest(given: str, legal: Iterable[str]) -> str:
    """A hint that names the nearest legal name, and all of them where they are few."""
    names = sorted(legal)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (legal: {', '.join(names)})"
