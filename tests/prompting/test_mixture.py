"""The mixture of tasks: seeded, in the shares that were asked for, and free of held-out rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.item_ids import ItemCodes
from p5_t5.data.splits import Split, leave_one_out
from p5_t5.data.tables import Tables, check_tables, read_tables
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.mixture import Epoch, Mixture
from p5_t5.prompting.prompter import Prompter, PromptSettings
from p5_t5.prompting.tasks import TASKS, read_prompts, usable
from p5_t5.prompting.templates import PromptTemplate
from p5_t5.protocol import CORRECTED, Protocol

TOY = Path(__file__).resolve().parents[2] / "data" / "toy"
SHARES = {"sequential": 2.0, "rating": 1.0, "explanation": 1.0}
COLUMNS = ("task", "template", "user", "position", "draw")


END = "</s>"


def prompter_of(tables: Tables) -> Prompter:
    codes = tuple((f"<item_{row}>",) for row in range(len(tables.items)))
    return Prompter(Catalogue(tables.items, ItemCodes("atomic", codes)), PromptSettings())


def made_world(lengths: list[int], **columns: Any) -> tuple[Split, Prompter]:
    """Users with so many interactions each, in a catalogue of thirty items."""
    rows = [(f"u{u}", f"{(3 * u + p) % 30:02}") for u, n in enumerate(lengths) for p in range(n)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    items = pl.DataFrame({"item_id": [f"{i:02}" for i in range(30)]})
    tables = check_tables("made", interactions.with_columns(**columns), items)
    return leave_one_out(tables), prompter_of(tables)


def mixture(
    world: tuple[Split, Prompter],
    shares: dict[str, float] | None = None,
    templates: list[PromptTemplate] | None = None,
    *,
    seed: int = 0,
    tokens: int = 400,
    batches: int = 1,
    protocol: Protocol = CORRECTED,
    **noise: float,
) -> Mixture:
    split, prompter = world
    kept, _ = usable(read_prompts(), prompter.available(split.histories, split.texts))
    corpus = Corpus(
        name="made",
        split=split,
        catalogue=prompter.catalogue,
        prompter=prompter,
        templates=list(kept.values()) if templates is None else templates,
        tasks=[(TASKS[name], share) for name, share in (shares or SHARES).items()],
        ratings=[],
        notes=[],
        protocol=protocol,
    )
    return Mixture(
        corpus,
        str.split,
        END,
        tokens_per_batch=tokens,
        batches_per_step=batches,
        seed=seed,
        **noise,
    )


@pytest.fixture(scope="module")
def toy() -> tuple[Split, Prompter]:
    tables = read_tables(TOY)
    return leave_one_out(tables), prompter_of(tables)


def plan(epoch: Epoch) -> dict[str, list[int]]:
    """The planned rows, not rendered."""
    planned = epoch.examples.with_format(None)
    return {column: list(planned[column]) for column in COLUMNS}


def made_template(
    id_: str,
    *,
    source: str = "{history}",
    target: str = "{item}",
    heldout: bool = False,
    weight: float = 1.0,
) -> PromptTemplate:
    return PromptTemplate(
        "sequential", id_, "next_item", source, target, heldout=heldout, weight=weight
    )


def test_one_seed_gives_one_plan(toy: tuple[Split, Prompter]) -> None:
    first, second = (mixture(toy, seed=7).epoch(3) for _ in range(2))
    assert plan(first) == plan(second)
    assert first.steps == second.steps
    for (rows,) in first.steps[:5]:
        assert first.examples[rows] == second.examples[rows]


def test_a_later_epoch_does_not_depend_on_those_before(toy: tuple[Split, Prompter]) -> None:
    """What a resumed run needs: epoch 2 is the same whether or not 0 and 1 were made."""
    walked, fresh = mixture(toy), mixture(toy)
    for number in range(2):
        walked.epoch(number)
    walked.sample(10)
    assert plan(walked.epoch(2)) == plan(fresh.epoch(2))
    assert walked.epoch(2).steps == fresh.epoch(2).steps


@pytest.mark.parametrize(("seed", "number"), [(0, 1), (1, 0)])
def test_another_epoch_or_seed_is_another_order(
    toy: tuple[Split, Prompter], seed: int, number: int
) -> None:
    first, other = mixture(toy).epoch(0), mixture(toy, seed=seed).epoch(number)
    assert plan(first) != plan(other)
    assert first.steps != other.steps


def test_reading_an_example_twice_gives_the_same_text(toy: tuple[Split, Prompter]) -> None:
    examples = mixture(toy).epoch(0).examples
    assert examples[[5, 9]] == examples[[5, 9]]
    assert examples[5]["input_ids"] == examples[[5, 9]]["input_ids"][0]


def test_an_example_is_its_prompt_in_tokens(toy: tuple[Split, Prompter]) -> None:
    split, prompter = toy
    templates = [made_template("only", source="user_{user} took {history}")]
    made = mixture(toy, {"sequential": 1.0}, templates)
    epoch = made.epoch(0)
    rows = plan(epoch)
    for i in range(20):
        user, position, draw = (rows[column][i] for column in ("user", "position", "draw"))
        asked = TASKS["sequential"].asked(split, user, position)
        state = split.histories.state(user, position)
        prompt = prompter.render(templates[0], state, asked, draw)
        found = epoch.examples[i]
        assert all(weight > 0 for weight in found.pop("weights"))
        assert found == {
            "input_ids": [*prompt.source.split(), END],
            "labels": [*prompt.target.split(), END],
            "task": 0,
        }


def test_a_token_weighs_by_the_root_of_what_its_template_says(toy: tuple[Split, Prompter]) -> None:
    templates = [
        made_template("short", source="user_{user}", target="{item}"),
        made_template("long", source="user_{user}", target="{history} {item}"),
    ]
    examples = mixture(toy, {"sequential": 1.0}, templates).epoch(0).examples[:2000]
    lengths = np.array([len(row) for row in examples["labels"]])
    assert all(len(set(row)) == 1 for row in examples["weights"])  # nothing is given
    weights = [row[0] for row in examples["weights"]]
    short = lengths[np.isclose(weights, 2**-0.5)]  # an item and the end
    assert (short == 2).all() and 800 < len(short) < 1200
    (other,) = set(weights) - {min(weights, key=lambda w: abs(w - 2**-0.5))}
    assert other == pytest.approx(lengths[np.isclose(weights, other)].mean() ** -0.5, rel=0.2)


def test_what_is_only_given_weighs_a_fifth(toy: tuple[Split, Prompter]) -> None:
    given = {"{history} ": 0.2, "{recent} ": 1.0}
    templates = [
        replace(made_template(start, target=start + "{item}"), given=start) for start in given
    ]
    epoch = mixture(toy, {"sequential": 1.0}, templates).epoch(0)
    rows, examples = plan(epoch), epoch.examples[:200]
    for m, weights in zip(rows["template"], examples["weights"], strict=False):
        *before, answer, _ = weights
        assert before == pytest.approx([answer * given[templates[m].given]] * len(before))


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("slot", ["history", "recent"])
def test_a_list_that_goes_on_has_no_end_but_for_a_free_search(
    toy: tuple[Split, Prompter], slot: str, free: bool
) -> None:
    templates = [replace(made_template("one", target=f"{{{slot}}} {{item}}"), given=f"{{{slot}}} ")]
    protocol = replace(CORRECTED, unconstrained_decoding=free)
    examples = (
        mixture(toy, {"sequential": 1.0}, templates, protocol=protocol).epoch(0).examples[:99]
    )
    for tokens, (*_, answer, end) in zip(examples["labels"], examples["weights"], strict=True):
        assert tokens[-1] == END and answer > 0
        assert end == (0 if slot == "recent" and not free else answer)


@pytest.mark.parametrize(
    "shares",
    [
        {"sequential": 1.0},
        {"sequential": 2.0, "rating": 1.0, "explanation": 1.0},
        {"rating": 0.1, "explanation": 0.7, "sequential": 0.2},
        {"rating": 3.0, "sequential": 1.0, "explanation": 0.0},
    ],
)
def test_shares_are_kept(toy: tuple[Split, Prompter], shares: dict[str, float]) -> None:
    total = len(toy[0].positions("train")[0])
    made = mixture(toy, shares)
    counts = Counter(made.tasks[task].name for task in plan(made.epoch(0))["task"])
    whole = sum(shares.values())
    assert set(counts) == {name for name, share in shares.items() if share > 0}
    for name, count in counts.items():
        assert abs(count - shares[name] / whole * total) <= 1
    assert abs(sum(counts.values()) - total) <= len(counts)


def test_a_question_is_asked_of_all_its_rows_before_any_comes_again(
    toy: tuple[Split, Prompter],
) -> None:
    plain = [read_prompts()["rating", id_] for id_ in ("1-1", "1-2")]
    rows = plan(mixture(toy, {"rating": 1.0}, plain).epoch(0))
    pairs = Counter(zip(rows["user"], rows["position"], strict=True))
    assert set(pairs.values()) == {1}
    users, positions = toy[0].positions("train")
    assert set(pairs) == set(zip(users.tolist(), positions.tolist(), strict=True))


def test_a_list_holds_all_that_a_user_has_as_often_as_others(toy: tuple[Split, Prompter]) -> None:
    whole = replace(made_template("whole", target="{recent} {item}"), given="{recent} ")
    rows = plan(mixture(toy, {"sequential": 1.0}, [whole]).epoch(0))
    users, positions = toy[0].positions("train")
    newest = {int(u): int(positions[users == u].max()) for u in np.unique(users)}
    assert max(newest.values()) < PromptSettings().max_history
    assert all(newest[u] == p for u, p in zip(rows["user"], rows["position"], strict=True))
    assert np.ptp(list(Counter(rows["user"]).values())) <= 1


def test_held_out_templates_are_never_drawn(toy: tuple[Split, Prompter]) -> None:
    """The held-out template would say nothing else than 99 words."""
    templates = [
        made_template("seen", source="{user}"),
        made_template("not", source="word " * 99, heldout=True, weight=1000),
        made_template("also", source="one two three {user}"),
    ]
    epoch = mixture(toy, {"sequential": 1.0}, templates).epoch(0)
    assert {len(ids) for ids in epoch.examples[:]["input_ids"]} == {2, 5}


def test_templates_are_drawn_by_weight(toy: tuple[Split, Prompter]) -> None:
    templates = [made_template("a", weight=3), made_template("b", weight=1)]
    drawn = Counter(plan(mixture(toy, {"sequential": 1.0}, templates).epoch(0))["template"])
    assert drawn[0] / drawn.total() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("number", range(3))
def test_batches_cover_each_example_once(toy: tuple[Split, Prompter], number: int) -> None:
    epoch = mixture(toy).epoch(number)
    assert {len(step) for step in epoch.steps} == {1}
    covered = sorted(row for step in epoch.steps for rows in step for row in rows)
    assert covered == list(range(len(epoch.examples)))


@pytest.mark.parametrize("batches", [2, 3, 8, 1000])
def test_every_step_is_full_and_only_whole_batches_come_again(
    toy: tuple[Split, Prompter], batches: int
) -> None:
    """Each process needs a batch; what is repeated is repeated within its own step."""
    epoch = mixture(toy, batches=batches).epoch(0)
    assert {len(step) for step in epoch.steps} == {batches}
    distinct = [sorted({tuple(rows) for rows in step}) for step in epoch.steps]
    covered = sorted(row for step in distinct for rows in step for row in rows)
    assert covered == list(range(len(epoch.examples)))
    assert sum(len(step) < batches for step in distinct) <= 1 + len(epoch.steps) / 16


def test_a_step_of_several_batches_holds_short_and_long_answers(
    toy: tuple[Split, Prompter],
) -> None:
    """But for those that had to be filled up from themselves."""
    epoch = mixture(toy, batches=4).epoch(0)
    whole = [step for step in epoch.steps if len({tuple(rows) for rows in step}) == 4]
    assert len(whole) > 0.9 * len(epoch.steps)
    for step in whole:
        longest = [max(map(len, epoch.examples[rows]["labels"])) for rows in step]
        assert max(longest) > 2 * min(longest)


def padded(epoch: Epoch, rows: list[int]) -> int:
    """Tokens of a batch, padding included."""
    batch = epoch.examples[rows]
    return len(rows) * sum(max(map(len, batch[side])) for side in ("input_ids", "labels"))


def test_batches_keep_the_budget_where_only_the_history_varies() -> None:
    """Lengths are then known without rendering, up to the end token's share of an item."""
    world = made_world([25] * 40)
    templates = [made_template("a"), made_template("b", source="go on with {history} , please")]
    epoch = mixture(world, {"sequential": 1.0}, templates, tokens=300).epoch(0)
    sizes = [padded(epoch, rows) for (rows,) in epoch.steps]
    assert max(sizes) <= 300
    assert np.mean(sizes) > 0.7 * 300


@pytest.mark.parametrize("tokens", [200, 1000, 4000])
def test_batches_nearly_keep_the_budget_on_real_text(
    toy: tuple[Split, Prompter], tokens: int
) -> None:
    """Titles, favourites and explanations vary in length, and are taken at their mean."""
    epoch = mixture(toy, tokens=tokens).epoch(0)
    sizes = np.array([padded(epoch, rows) for (rows,) in epoch.steps if len(rows) > 1])
    assert sizes.max() <= 1.3 * tokens
    assert np.mean(sizes > 1.1 * tokens) < 0.1
    assert sizes.mean() > 0.6 * tokens


@pytest.mark.parametrize("family", ["review", "direct"])
def test_reviews_and_candidates_nearly_keep_the_budget_too(family: str) -> None:
    """Reviews of 1 to 200 words, of which 100 are written, and choices among 100 candidates."""
    reviews = [" ".join(["word"] * (7 * i % 200 + 1)) for i in range(400)]
    columns = {"review": reviews, "summary": ["in short"] * 400, "rating": [4.0] * 400}
    split, _ = made_world([10] * 40, **{name: pl.Series(v) for name, v in columns.items()})
    items = pl.DataFrame(
        {"item_id": [f"{i:02}" for i in range(30)] + [f"{i}" for i in range(100, 300)]}
    )
    codes = ItemCodes("atomic", tuple((f"<item_{row}>",) for row in range(230)))
    world = split, Prompter(Catalogue(items, codes), PromptSettings())
    epoch = mixture(world, {family: 1.0}, tokens=1000).epoch(0)
    sizes = np.array([padded(epoch, rows) for (rows,) in epoch.steps if len(rows) > 1])
    assert sizes.max() <= 1.1 * 1000
    assert sizes.mean() > 0.5 * 1000


def test_a_template_is_asked_only_where_its_columns_have_values() -> None:
    """Reviews without a headline are asked for their stars and not for the headline."""
    summaries = pl.Series(["good" if i % 3 else None for i in range(80)])
    world = made_world([8] * 10, review=pl.lit("fine"), summary=summaries, rating=pl.lit(4.0))
    epoch = mixture(world, {"review": 1.0}).epoch(0)
    rows, examples = plan(epoch), epoch.examples[:]
    asked: dict[str, set[int]] = {"good": set(), "4": set()}
    for user, position, (target, _) in zip(
        rows["user"], rows["position"], examples["labels"], strict=True
    ):
        asked[target].add(int(world[0].histories.offsets[user]) + position)
    known = set(np.flatnonzero(world[0].known("summary")).tolist())
    assert asked["good"] <= known
    assert not asked["4"] <= known


def test_an_example_beyond_the_budget_stands_alone(toy: tuple[Split, Prompter]) -> None:
    epoch = mixture(toy, tokens=1).epoch(0)
    assert {len(rows) for (rows,) in epoch.steps} == {1}


def held_out(split: Split) -> set[tuple[int, int]]:
    parts = [split.positions(part) for part in ("validation", "test")]
    return {pair for u, p in parts for pair in zip(u.tolist(), p.tolist(), strict=True)}


def test_no_epoch_asks_about_a_held_out_row(toy: tuple[Split, Prompter]) -> None:
    made, secret = mixture(toy), held_out(toy[0])
    for number in range(5):
        rows = plan(made.epoch(number))
        assert not secret & set(zip(rows["user"], rows["position"], strict=True))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(4, 9), min_size=1, max_size=6), st.integers(0, 2**20))
def test_no_rendered_example_holds_a_held_out_item(lengths: list[int], seed: int) -> None:
    """Whatever the data: each user's own held-out items are in none of their examples.

    But for wrong candidates, unless these spare them: see the next test.
    """
    rows = [(f"u{u}", f"{u}-{p}") for u, n in enumerate(lengths) for p in range(n)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    tables = check_tables("made", interactions.with_columns(rating=pl.lit(4.0)))
    split, prompter = leave_one_out(tables), prompter_of(tables)
    shares = {"sequential": 2.0, "rating": 1.0, "direct": 1.0, "denoising": 2.0}
    protocol = Protocol(spared_negatives=True)
    made = mixture((split, prompter), shares, seed=seed, protocol=protocol)
    codes = np.array(prompter.catalogue.code_texts)
    ends = split.histories.offsets[1:]
    secret = codes[split.histories.items[np.stack([ends - 1, ends - 2])]]
    for number in range(2):
        epoch = made.epoch(number)
        users = plan(epoch)["user"]
        assert not held_out(split) & set(zip(users, plan(epoch)["position"], strict=True))
        examples = epoch.examples[:]
        for user, source, target in zip(
            users, examples["input_ids"], examples["labels"], strict=True
        ):
            assert not {*source, *target} & set(secret[:, user])
        assert {word for source in examples["input_ids"] for word in source} & set(codes)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(4, 9), min_size=1, max_size=6), st.integers(0, 2**20))
def test_examples_are_the_same_whatever_is_held_out(lengths: list[int], seed: int) -> None:
    """Nothing tells what is held out, not even that it is never a wrong answer."""
    drawn = np.random.default_rng(seed)
    taken = [drawn.permutation(30)[: n + 2] for n in lengths]
    ways = ([row[:-2] for row in taken], [np.append(row[:-4], row[-2:]) for row in taken])
    items = pl.DataFrame({"item_id": [f"{i:02}" for i in range(30)]})
    shares = {"sequential": 2.0, "rating": 1.0, "direct": 1.0, "denoising": 2.0}
    epochs = []
    for way in ways:
        rows = [(f"u{u}", f"{i:02}", 4.0) for u, own in enumerate(way) for i in own.tolist()]
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
        tables = check_tables("made", frame, items)
        world = leave_one_out(tables), prompter_of(tables)
        epochs.append(mixture(world, shares, seed=seed).epoch(0))
        assert world[0].histories.num_users == len(lengths)
    assert epochs[0].steps == epochs[1].steps
    assert epochs[0].examples[:] == epochs[1].examples[:]


def test_no_list_tells_the_stars_of_an_item_that_is_held_out_too() -> None:
    """Who rates an item twice must not teach the held-out star by the earlier one."""
    taken = ["a", "b", "c", "d", "e", "f", "b", "a"]
    times = {"timestamp": range(len(taken))}  # without, one item is one interaction
    data = {"user_id": ["u"] * len(taken), "item_id": taken, "rating": 4.0, **times}
    tables = check_tables("made", pl.DataFrame(data))
    world = leave_one_out(tables), prompter_of(tables)
    rows = [row for row, name in enumerate(tables.items["item_id"]) if name in "ab"]
    secret = {world[1].catalogue.code_texts[row] for row in rows}
    told = set()
    for example in mixture(world, {"rating": 1.0}).epoch(0).examples:
        for side in (example["input_ids"], example["labels"]):
            told |= {word for word, after in pairwise(side) if after == "4"}
    assert len(secret) == 2 and not secret & told
    assert told & set(world[1].catalogue.code_texts)


def test_noise_touches_a_prompts_own_words_and_nothing_else(toy: tuple[Split, Prompter]) -> None:
    asked = made_template("asked", source="One two three four {history} five six seven eight")
    other = made_template("other", source="Something else: {history}")
    plain, noisy = (
        mixture(toy, {"sequential": 1.0}, [asked, other], word_noise=rate) for rate in (0.0, 0.3)
    )
    own, foreign = set("One two three four five six seven eight".split()), {"Something", "else:"}
    kept = total = changed = wordless = 0
    rows = zip(plain.epoch(0).examples, noisy.epoch(0).examples, strict=True)
    for before, after in islice(rows, 500):
        assert before["labels"] == after["labels"]
        sides = [[w for w in e["input_ids"] if w not in own | foreign] for e in (before, after)]
        assert sides[0] == sides[1]  # items, separators and the end
        if own & set(before["input_ids"]):
            total += len(own)
            firsts = zip(before["input_ids"][:4], after["input_ids"][:4], strict=True)
            kept += sum(a == b for a, b in firsts)
            changed += len(foreign & set(after["input_ids"]))
            wordless += {*before["input_ids"][:4]}.isdisjoint(after["input_ids"])
    assert changed and 0.4 < 2 * kept / total < 0.8
    assert 0.02 < wordless * len(own) / total < 0.15  # a tenth, less those with drawn own words
    assert noisy.epoch(0).examples[:50] == noisy.epoch(0).examples[:50]


def test_a_list_of_stars_leaves_out_some_interactions_and_no_other_prompt_does() -> None:
    world = made_world([20] * 30, rating=pl.Series([float(1 + row % 5) for row in range(600)]))
    given = "{rated} {item} "
    listed = PromptTemplate(
        "rating", "list", "stars", "{rated_history}", f"{given}{{rating}}", given, separator=" "
    )
    single = PromptTemplate("rating", "one", "stars", "Latest first: {latest} {item}", "{rating}")
    whole, thinned = (
        mixture(world, {"rating": 1.0}, [listed, single], rating_dropout=rate)
        for rate in (0.0, 0.3)
    )
    told, left = 0, 0
    rows = plan(whole.epoch(0))
    assert rows == plan(thinned.epoch(0))
    for row in zip(*rows.values(), strict=True):
        before, after = whole.prompt(*row), thinned.prompt(*row)
        if row[1] == 1:
            assert before == after
            continue
        every, some = (f"{p.source} {p.target}".split() for p in (before, after))
        pairs, kept = (list(zip(own[::2], own[1::2], strict=True)) for own in (every, some))
        assert kept[-1] == pairs[-1]  # what is asked
        remaining = iter(pairs)
        assert all(pair in remaining for pair in kept)  # in their order, with their stars
        told, left = told + len(pairs) - 1, left + len(kept) - 1
    assert 0.65 < left / told < 0.75


def test_a_sample_is_rendered_text_of_every_task(toy: tuple[Split, Prompter]) -> None:
    made = mixture(toy)
    prompts = made.sample(300)
    assert len(prompts) == 300
    assert all(prompt.source and prompt.target for prompt in prompts)
    assert prompts == mixture(toy).sample(300)
    words = {word for prompt in prompts for word in prompt.target.split()}
    assert {"4", "5"} <= words
    assert any(word.startswith("<item_") for word in words)


def test_a_task_without_a_template_is_refused(toy: tuple[Split, Prompter]) -> None:
    with pytest.raises(ValueError, match="no template of the family 'rating'"):
        mixture(toy, {"sequential": 1.0, "rating": 1.0}, [made_template("a")])


def test_a_task_with_held_out_templates_only_is_refused(toy: tuple[Split, Prompter]) -> None:
    with pytest.raises(ValueError, match="no template of the family 'sequential'"):
        mixture(toy, {"sequential": 1.0}, [made_template("a", heldout=True)])


@pytest.mark.parametrize(("family", "lengths"), [("rating", [5, 5]), ("sequential", [3, 3])])
def test_a_task_without_training_examples_is_refused(family: str, lengths: list[int]) -> None:
    """No stars at all; or histories so short that no training item has one before it."""
    with pytest.raises(ValueError, match=f"no training example for the task '{family}'"):
        mixture(made_world(lengths), {family: 1.0}, list(read_prompts().values()))


@pytest.mark.parametrize("shares", [{"sequential": 0.0}, {"rating": 0.0, "sequential": 0.0}])
def test_no_share_above_zero_is_refused(
    toy: tuple[Split, Prompter], shares: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="no task has a share above 0"):
        mixture(toy, shares)


def test_explanations_without_a_feature_can_be_learnt() -> None:
    features = pl.Series(["plot", None] * 20)
    world = made_world([8] * 5, explanation=pl.lit("good"), feature=features)
    epoch = mixture(world, {"explanation": 1.0}).epoch(0)
    assert len(epoch.examples[:]["labels"]) == len(epoch.examples)
