"""Joined fragments are the tokens of the whole text, for every template and tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase, T5Tokenizer

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.histories import UserState
from p5_t5.data.item_ids import SCHEMES, assign_item_ids
from p5_t5.modeling.tokenizer import WordTokenizer, add_item_tokens, train_tokenizer
from p5_t5.prompting.fragments import Fragments
from p5_t5.prompting.prompter import Asked, Prompter, PromptSettings
from p5_t5.prompting.span_corruption import span_mask
from p5_t5.prompting.tasks import read_prompts
from p5_t5.prompting.templates import PromptTemplate

TEMPLATES = read_prompts()
# Words that a normaliser changes, drops or cuts stand beside plain ones.
WORDS = (
    "The_Lord of (rings), ½ naïve café … 42nd don't \u200b ﬁne — 3.5 ™ 日本 e\u0301 a\u00a0b </s> !"
)


@pytest.fixture(scope="module", params=["compact", "t5"])
def tokenizer_of(request: pytest.FixtureRequest) -> tuple[str, Path | None]:
    """A tokenizer that we learn, and the sentencepiece model of a checkpoint."""
    path = request.getfixturevalue("shared") if request.param == "t5" else None
    return request.param, path


def made_tokenizer(path: Path | None) -> PreTrainedTokenizerBase:
    if path is None:
        return train_tokenizer([t.source + " " + t.target for t in TEMPLATES.values()], 500)
    tokenizer: PreTrainedTokenizerBase = T5Tokenizer.from_pretrained(path / "t5_sentencepiece")
    return tokenizer


class World:
    """A catalogue of odd items, and a user of odd words."""

    def __init__(self, scheme: str, tokenizer: PreTrainedTokenizerBase) -> None:
        generator = np.random.default_rng(0)
        words = WORDS.split(" ")
        texts = [" ".join(generator.choice(words, 5)) for _ in range(60)]
        texts[3], texts[4] = "", "<b>bold</b>"
        table = pl.DataFrame(dict.fromkeys(("title", "brand", "description"), texts))
        table = table.with_columns(
            item_id=pl.Series([f"i{i}" for i in range(60)]),
            price=pl.Series([f"{i / 7:.2f}" for i in range(60)]),
            usual_stars=pl.Series([f"{1 + i / 15:.1f}" for i in range(60)]),
            categories=pl.Series([[f"c {i % 5}", "d,e"] for i in range(60)]),
        )
        items = generator.integers(0, 60, 300).astype(np.int32)
        codes = assign_item_ids(scheme, np.arange(0, 301, 30), items, 60, seed=1)
        add_item_tokens(tokenizer, codes)
        self.words = WordTokenizer(tokenizer)
        self.prompter = Prompter(Catalogue(table, codes), PromptSettings())
        self.fragments = Fragments(self.words.cut, self.prompter.catalogue.code_texts)
        self.generator, self.some = generator, words

    def asked(self) -> tuple[UserState, Asked]:
        """An interaction, with whatever a template may say of it."""
        generator = self.generator
        text, name = (" ".join(generator.choice(self.some, n)) for n in (12, 3))
        count = int(generator.integers(1, 70))
        columns = {slot.removeprefix("user_") for t in TEMPLATES.values() for slot in t.slots}
        state = UserState(
            number=int(generator.integers(0, 5000)),
            name=name,
            profile=dict.fromkeys(columns, text),
            items=generator.integers(0, 60, count).astype(np.int32),
            ratings=generator.integers(1, 6, count).astype(np.float32),
        )
        asked = Asked(
            item=int(generator.integers(0, 60)),
            rating=3.5,
            mask=span_mask(min(count + 1, 50), generator),
            review=text * 20,
            review_stars=4.26,
            summary=name,
            explanation=text,
            feature=name,
            candidates=generator.permutation(60),
            star=2.0,
            agreed=True,
        )
        return state, asked


@pytest.mark.parametrize("scheme", SCHEMES)
def test_joined_fragments_are_the_tokens_of_the_whole_text(
    tokenizer_of: tuple[str, Path | None], scheme: str
) -> None:
    """Every shipped template, against the tokenizer itself, which sees each text whole."""
    tokenizer = made_tokenizer(tokenizer_of[1])
    world = World(scheme, tokenizer)
    texts, joined, said = [], [], []
    for template in TEMPLATES.values():
        for draw in range(6):
            state, asked = world.asked()
            prompt = world.prompter.render(template, state, asked, draw)
            values = world.prompter.values(template, state, asked, draw)
            for text, parts in (
                (prompt.source, template.source_parts),
                (prompt.given, template.given_parts),
                (prompt.target, template.target_parts),
            ):
                texts.append(text)
                joined.append(world.fragments.encode(parts, values, template.separator))
                said.append(template.id)
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for id_, text, own, expected in zip(said, texts, joined, whole, strict=True):
        assert own == expected, (id_, text)


@pytest.mark.parametrize(
    "source",
    [
        "{user}",
        "  {user}{title}  ",
        "a{user}b {title}'s({user}),{user} .",
        "{history}",
        "x{history}y{user}",
        "{latest}{candidates}",
        "plain  words\tonly",
        "\u00a0{user}\u00a0 {{braces}} {title}",
    ],
)
def test_slots_may_stand_anywhere(source: str) -> None:
    world = World("collaborative", made_tokenizer(None))
    template = PromptTemplate("direct", "made", "choice", source, "{item}", separator=" -> ")
    for draw in range(4):
        state, asked = world.asked()
        text = world.prompter.render(template, state, asked, draw).source
        values = world.prompter.values(template, state, asked, draw)
        own = world.fragments.encode(template.source_parts, values, template.separator)
        assert own == world.words.tokenizer(text, add_special_tokens=False)["input_ids"]


def said_by(world: World, given: str, answer: str, separator: str = " ") -> list[str]:
    """The words of a given start that are learnt all the same."""
    template = PromptTemplate(
        "rating", "made", "stars", "", given + answer, given, separator=separator
    )
    state = UserState(
        number=None,
        name=None,
        profile={},
        items=np.array([7, 8, 9], dtype=np.int32),
        ratings=np.array([5.0, np.nan, 3.5], dtype=np.float32),
    )
    values = world.prompter.values(template, state, Asked(item=4, rating=2.0), draw=None)
    ids = world.fragments.encode(template.given_parts, values, separator)
    marks = world.fragments.answers(template.given_parts, values, separator)
    assert len(ids) == len(marks)
    learnt = [id_ for id_, mark in zip(ids, marks, strict=True) if mark]
    return world.words.tokenizer.convert_ids_to_tokens(learnt)  # type: ignore[no-any-return]


def test_what_is_given_is_learnt_only_where_it_was_an_answer() -> None:
    tokenizer = train_tokenizer(["1 2 3 4 5 3.5 3.2 1.3 so it was"] * 9, 200)
    world = World("atomic", tokenizer)
    assert said_by(world, "{recent} ", "{item}") == ["<item_7>", "<item_8>", "<item_9>"]
    of_lists = world.words.tokenizer.tokenize("5 3.5")
    for separator in (" ", " , "):
        assert said_by(world, "{rated} {item} ", "{rating}", separator) == of_lists
        listed = "{compared} {item} {usual_stars} "
        assert said_by(world, listed, "{rating}", separator) == of_lists
    assert not said_by(world, "so it was {expected_stars} ", "{rating}")
    assert not said_by(world, "", "{rating}")
