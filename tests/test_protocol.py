"""The switches between P5's program and this one, each by what it does alone."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from p5_t5.arguments import Arguments, read_arguments
from p5_t5.artifact import checkpoint_knowledge, load_artifact
from p5_t5.data.tables import write_tables
from p5_t5.evaluation.audit import audit, baselines
from p5_t5.evaluation.evaluator import Evaluator
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.reasons import Quotes
from p5_t5.prompting.templates import RATED_SLOTS
from p5_t5.protocol import CORRECTED, Protocol
from tests.conftest import run_train

FAMILIES = read_tasks(["sequential", "rating", "explanation", "review", "direct"])
SWITCHES = list(asdict(CORRECTED))


def corpus_of(folder: Path, item_ids: str = "atomic", **switches: bool) -> Corpus:
    protocol = Protocol(**switches)
    return read_corpus(
        folder, FAMILIES, PromptSettings(), item_ids=item_ids, seed=42, protocol=protocol
    )


def mixture_of(corpus: Corpus) -> Mixture:
    """Its prompts are cut into words."""
    return Mixture(corpus, str.split, "</s>", tokens_per_batch=400, batches_per_step=1, seed=0)


def plan(mixture: Mixture) -> dict[str, np.ndarray]:
    planned = mixture.epoch(0).examples.with_format(None)
    return {name: np.array(planned[name]) for name in planned.column_names}


def read(monkeypatch: pytest.MonkeyPatch, *options: str) -> Arguments:
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    return read_arguments()


def test_a_protocol_sets_defaults_and_a_switch_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch).protocol == CORRECTED
    paper = read(monkeypatch, "--protocol", "paper")
    assert paper.protocol == Protocol(**dict.fromkeys(SWITCHES, True))
    assert paper.data.item_ids == "sequential"
    assert "direct" in paper.tasks and paper.max_history > 10**6
    own = ("--protocol=paper", "--rating_jitter=false", "--item_ids=collaborative")
    mixed = read(monkeypatch, *own)
    assert [name for name, on in asdict(mixed.protocol).items() if not on] == ["rating_jitter"]
    assert mixed.data.item_ids == "collaborative"
    alone = read(monkeypatch, "--late_targets", "--max_history=7")
    assert alone.protocol == Protocol(late_targets=True) and alone.max_history == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol=papr",), "--protocol must be corrected or paper, not 'papr'"),
        (("--heldout_item_order",), "--item_ids atomic don't follow the histories"),
        (("--protocol=paper", "--tasks=rating=2"), "--tasks rating=2: with --sampling_counts"),
        (
            ("--protocol=paper", "--whole_word_embeddings=false"),
            "--whole_words_in_training_only needs --whole_word_embeddings",
        ),
    ],
)
def test_switches_that_could_do_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(monkeypatch, *options)


def test_a_report_names_the_protocol_and_every_switch() -> None:
    assert CORRECTED.facts()["protocol"] == "corrected"
    assert Protocol.paper().facts()["protocol"] == "paper"
    mixed = Protocol(unconstrained_decoding=True).facts()
    assert mixed["protocol"] == "mixed" and "unconstrained" in mixed["ranking"]
    assert mixed["as_in_the_paper"] == {name: name == "unconstrained_decoding" for name in SWITCHES}
    assert "at random, 80/10/10" in Protocol(random_row_split=True).facts()["split"]
    assert "random" not in CORRECTED.facts()["split"]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine users with six items each, none of them in common."""
    rows = [(f"u{u}", f"{(17 * (6 * u + p)) % 54:02}") for u in range(9) for p in range(6)]
    folder = tmp_path_factory.mktemp("strangers") / "made"
    write_tables(folder, pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))
    return folder


def test_item_numbers_give_the_answer_away_or_do_not(strangers: Path) -> None:
    given_away, hidden = [], []
    for found, switch in ((given_away, True), (hidden, False)):
        corpus = corpus_of(strangers, "sequential", heldout_item_order=switch)
        numbers = np.array([int(text) for text in corpus.catalogue.code_texts])
        taken = numbers[corpus.split.histories.items].reshape(9, 6)
        found += (taken[:, -1] - taken[:, -2]).tolist()
        if not switch:
            assert taken[:, -2:].min() > taken[:, :-2].max()
    assert given_away == [1] * 9
    assert Counter(hidden)[1] < 5
    told = corpus_of(strangers, "sequential", heldout_item_order=True)
    assert audit(told.split, told.catalogue.codes)["next_numbers"] == 1
    assert audit(corpus.split, corpus.catalogue.codes)["next_numbers"] == Counter(hidden)[1] / 9
    assert "next_numbers" not in audit(told.split, corpus_of(strangers).catalogue.codes)


def test_the_order_of_the_file_gives_items_away_or_does_not(tmp_path: Path) -> None:
    # As in a file sorted by item, whose users come in the order in which it meets them: user 3k,
    # 3k + 1 and 3k + 2 share item k, which the first of them has last.
    rows = []
    for user in range(300):
        shared, own = f"shared {user // 3}", [f"own {(13 * user + n) % 997}" for n in range(4)]
        listed = [*own, shared] if user % 3 == 0 else [shared, *own]
        rows += [(f"{user}", item, n) for n, item in enumerate(listed)]
    names = ("user_id", "item_id", "timestamp")
    write_tables(tmp_path / "sorted", pl.DataFrame(rows, schema=names, orient="row"))
    corpora = {
        on: read_corpus(
            tmp_path / "sorted", read_tasks(["sequential"]), PromptSettings(), item_ids="atomic",
            seed=42, protocol=Protocol(file_user_order=on),
        )
        for on in (True, False)
    }  # fmt: skip
    shares = {on: audit(corpus.split)["neighbour_targets"] for on, corpus in corpora.items()}
    assert shares[True] >= 1 / 3
    assert shares[False] < shares[True] / 2
    assert corpora[True].split.histories.user_ids[:3] == ("0", "1", "2")
    assert corpora[True].split.histories.state(17).name == "17"
    assert corpora[False].split.histories.state(17).name == "18"


@pytest.mark.parametrize("on", [False, True])
def test_held_out_items_are_wrong_candidates_or_never_are(toy: Path, on: bool) -> None:
    corpus = corpus_of(toy, spared_negatives=on)
    histories = corpus.split.histories
    end = histories.offsets[1]
    taught, *held_out = histories.items[[0, end - 2, end - 1]].tolist()
    shown = {row for draw in range(200) for row in corpus.candidates.among(0, taught, draw)}
    assert all((item in shown) is not on for item in held_out)
    judged = corpus.candidates.among(0, held_out[1]).tolist()
    assert held_out[0] not in judged


def test_rows_are_split_by_chance_apart_from_the_histories(toy: Path) -> None:
    drawn, whole = corpus_of(toy, random_row_split=True), corpus_of(toy)
    tasks = {task.name: task for task, _ in FAMILIES}
    rows = {
        part: np.stack(tasks["rating"].examples(drawn.split, part, ["rating"]), axis=1)
        for part in ("train", "validation", "test")
    }
    total = len(drawn.split.histories.items)
    shares = {part: len(found) / total for part, found in rows.items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=1e-3)
    assert len(np.unique(np.concatenate(list(rows.values())), axis=0)) == total
    assert audit(drawn.split)["told_targets"] == pytest.approx(0.8, abs=0.1)
    assert audit(whole.split)["told_targets"] == 0
    for name in ("sequential", "direct"):
        for part in ("train", "test"):
            ours, theirs = (tasks[name].examples(each.split, part) for each in (drawn, whole))
            assert np.array_equal(ours, theirs)
    found = [
        baselines(each.split, [tasks["rating"]], each.of(tasks["rating"]), each.candidates)
        for each in (drawn, whole)
    ]
    assert [each["rating"]["stars"]["user_mean"]["n"] for each in found] == [376, 200]


def test_examples_are_counted_by_source_row_and_templates_drawn_evenly(toy: Path) -> None:
    corpus = corpus_of(toy, sampling_counts=True)
    mixture = mixture_of(corpus)
    planned = plan(mixture)
    counts = {task.name: int((planned["task"] == t).sum()) for t, task in enumerate(mixture.tasks)}
    ratings, texts = (
        max(len(task.examples(corpus.split, "train", t.needs)[0]) for t in corpus.of(task))
        for task in (FAMILIES[1][0], FAMILIES[3][0])
    )
    assert counts == {
        "sequential": 200 * 20,
        "rating": ratings,
        "explanation": counts["explanation"],
        "review": texts,
        "direct": 200 * 15,
    }
    assert mixture.shares == pytest.approx(np.array(list(counts.values())) / sum(counts.values()))
    own = planned["task"] == 0
    assert set(np.bincount(planned["user"][own])) == {20}
    drawn = np.bincount(planned["template"][own])
    assert drawn.min() > 0.7 * drawn.mean() and drawn.max() < 1.3 * drawn.mean()
    by_weight = plan(mixture_of(corpus_of(toy)))
    drawn = np.bincount(by_weight["template"][by_weight["task"] == 0])
    assert drawn.min() < 0.3 * drawn.mean()


def test_late_targets_are_the_last_three_of_training_and_histories_start_early(toy: Path) -> None:
    corpus = corpus_of(toy, late_targets=True)
    task = corpus.tasks[0][0]
    users, positions = task.examples(corpus.split, "train")
    training = np.diff(corpus.split.histories.offsets) - 2
    for user in range(len(training)):
        last = [p for p in range(2, training[user]) if p >= training[user] - 3]
        assert positions[users == user].tolist() == last
    whole = corpus_of(toy).split
    assert np.array_equal(task.examples(corpus.split, "test"), task.examples(whole, "test"))

    mixture = mixture_of(corpus)
    planned, examples = plan(mixture), mixture.epoch(0).examples
    source = "Here is what user_"
    starts: Counter[int] = Counter()
    examples = mixture.epoch(0).examples
    for row in np.flatnonzero(planned["task"] == 0)[:600].tolist():
        words = examples[row]["input_ids"]
        if " ".join(words).startswith(source):
            user, position = int(planned["user"][row]), int(planned["position"][row])
            state = corpus.split.histories.state(user, position)
            codes = [corpus.catalogue.code_texts[i] for i in state.items.tolist()]
            listed = [word for word in words if word.startswith("<item_")][::-1]
            assert listed == codes[-len(listed) :] and len(listed) >= 2
            starts[len(codes) - len(listed)] += 1
    assert set(starts) == {0, 1, 2}


def test_stars_are_jittered_in_training_alone(toy: Path) -> None:
    seen: dict[bool, set[str]] = {}
    for switch in (True, False):
        corpus = corpus_of(toy, rating_jitter=switch)
        mixture = mixture_of(corpus)
        rows = np.flatnonzero(plan(mixture)["task"] == 1)
        examples = mixture.epoch(0).examples
        answers = {examples[row]["labels"][-2] for row in rows.tolist()}
        assert {"yes", "no", "like", "dislike"} < answers
        seen[switch] = answers - {"yes", "no", "like", "dislike"}
        rating = FAMILIES[1][0]
        judged = corpus.candidates.asked(rating, rating.family.answers["stars"], 3, 4)
        assert judged.rating in {1, 2, 3, 4, 5}
        assert corpus.candidates.asked(
            rating, rating.family.answers["yes_no"], 3, 4, draw=7
        ).star in {1, 2, 3, 4, 5}
    assert seen[False] == {"1", "2", "3", "4", "5"}
    assert len(seen[True]) > 15
    answers = {f"{value:g}" for value in corpus_of(toy, rating_jitter=True).answers}
    assert seen[True] <= answers and len(answers) == 41
    assert corpus_of(toy).answers == [1, 2, 3, 4, 5]


def test_jitter_refuses_half_stars(tmp_path: Path) -> None:
    rows = {"user_id": ["u"] * 6, "item_id": list("abcdef"), "rating": [0.5, 1, 2, 3, 4, 5]}
    write_tables(tmp_path / "half", pl.DataFrame(rows, strict=False))
    with pytest.raises(ValueError, match=r"expects ratings of 1, .* the data has 0\.5"):
        corpus_of(tmp_path / "half", rating_jitter=True)


def test_templates_that_start_the_answer_are_left_out(toy: Path) -> None:
    assert any(template.given for template in corpus_of(toy).templates)
    corpus = corpus_of(toy, single_target_prompts=True)
    assert not any(template.given for template in corpus.templates)
    assert len(corpus.of(FAMILIES[0][0])) == 13 + 4  # P5's, and more wordings of them


def test_rows_split_by_chance_are_not_told_by_lists_of_stars(toy: Path) -> None:
    def told(**switches: bool) -> list[str]:
        return [t.id for t in corpus_of(toy, **switches).templates if t.slots & RATED_SLOTS]

    rated, compared = range(1, 8), range(1, 7)
    assert told() == [*(f"rated-{n}" for n in rated), *(f"compared-{n}" for n in compared)]
    assert told(random_row_split=True) == []


def test_explanations_choose_unless_they_are_written_freely(toy: Path) -> None:
    assert isinstance(corpus_of(toy).reasons, Quotes)
    assert corpus_of(toy, free_explanations=True).reasons is None


def test_a_run_as_in_the_paper_says_so_and_is_saved_with_all_it_needs(
    toy: Path, tmp_path: Path
) -> None:
    output = tmp_path / "paper"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={output}", "--protocol=paper", "--max_train_steps=12",
        "--evaluations=1", "--eval_examples=20", "--vocab_size=400", "--d_model=32", "--d_ff=64",
        "--d_kv=8", "--tokens_per_batch=2000", "--candidate_users=2", "--candidates=20",
        "--beams=8", "--tasks", "sequential", "rating",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model, tokenizer, knowledge = load_artifact(output)
    assert knowledge.protocol == Protocol.paper()
    kept = checkpoint_knowledge(str(output), knowledge.protocol, seed=42)
    assert kept is not None and kept.catalogue.codes == knowledge.catalogue.codes
    same = ("heldout_item_order", "file_user_order", "random_row_split")
    for number, name in enumerate(same):
        protocol = Protocol(**dict.fromkeys(same[:number], True))
        with pytest.raises(ValueError, match=f"go on with --{name} true"):
            checkpoint_knowledge(str(output), protocol)
    with pytest.raises(ValueError, match="go on with --held_back_users 0"):
        checkpoint_knowledge(str(output), knowledge.protocol, held_back_users=50)
    with pytest.raises(ValueError, match="go on with --seed 42"):
        checkpoint_knowledge(str(output), knowledge.protocol, seed=7)
    assert not any(template.given for template in knowledge.templates)
    assert done.stdout.count("user ") >= 5 and "p5-recommend" in done.stdout
    for switch in SWITCHES:
        assert f"- as_in_the_paper, {switch}: True" in done.stdout
        assert f"- as_in_the_paper, {switch}: True" in (output / "README.md").read_text()

    tasks = read_tasks(["sequential", "rating"])
    corpus = read_corpus(
        toy, tasks, knowledge.settings, item_ids="sequential", seed=42,
        protocol=knowledge.protocol,
    )  # fmt: skip
    assert corpus.catalogue.codes == knowledge.catalogue.codes
    evaluator = Evaluator(knowledge.predictor(model, tokenizer), corpus.prompter, corpus.split)
    metrics = pl.read_json(output / "metrics.json")["test"][0]
    reported = [t for t in corpus.reported() if t.id in ("2-13", "1-6", "2-11")]
    found = evaluator.evaluate([task for task, _ in tasks], reported, "test")
    for family, rows in found.items():
        for id_, row in rows.items():
            for name, value in row.items():
                assert value == pytest.approx(metrics[family][id_][name], abs=1e-4), (id_, name)
