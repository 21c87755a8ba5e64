"""Zero-shot transfer: a trained model answers prompts about items of another data set.

python -m p5_t5.transfer --model outputs/toys --dataset data/beauty
python -m p5_t5.transfer --help

The prompts of the family ``zero-shot`` tell an item by its title, brand and price, never by a code,
and are never trained (P5, section 5.7). Nothing is learnt from the other data set; asked is about
the last interaction of each of its users. Only what the model learnt to answer is asked, and only
about items that it does not know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from p5_t5.arguments import TransferArguments
from p5_t5.artifact import Knowledge, find_artifact, load_artifact
from p5_t5.data.sources import find_dataset
from p5_t5.data.splits import Split
from p5_t5.evaluation.evaluator import (
    Evaluator,
    Metrics,
    Questions,
    questions,
    word_metrics,
)
from p5_t5.evaluation.metrics import rating_metrics
from p5_t5.evaluation.report import EXPLAINED
from p5_t5.evaluation.summary import sensitivity
from p5_t5.model_card import metrics_tables
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.prompting.corpus import Corpus, read_corpus
from p5_t5.prompting.prompter import plain
from p5_t5.prompting.reasons import Facts
from p5_t5.prompting.tasks import TASKS, ZERO_SHOT
from p5_t5.prompting.templates import PromptTemplate

# From more unreadable words on the answers would be about nothing.
_MOST_UNREADABLE = 0.5


@dataclass(frozen=True)
class Transfer:
    """A model's knowledge beside a data set that it does not know.

    Attributes:
        known: what the model was trained with.
        other: the other data set.
    """

    known: Knowledge
    other: Corpus

    def templates(self) -> tuple[list[PromptTemplate], list[str]]:
        """The zero-shot templates with an answer that the model learnt; notes on the others.

        Raises:
            ValueError: it learnt none of their answers.
        """
        taught = {
            TASKS[t.family].kind(t).slot
            for t in self.known.templates
            if t.id in self.known.best_templates.get(t.family, ())
        }
        own = self.other.of(ZERO_SHOT)
        fit = [t for t in own if ZERO_SHOT.kind(t).slot in taught]
        slots = sorted({ZERO_SHOT.kind(t).slot for t in own} - taught)
        if not fit:
            raise ValueError(
                f"the model {self.known.name} never learnt to answer with {', '.join(slots)}; "
                "train one with --tasks rating explanation"
            )
        left_out = [t.id for t in own if t not in fit]
        note = f"templates {', '.join(left_out)} left out: {', '.join(slots)} was never taught"
        return fit, [note] if left_out else []

    def unknown(self, asked: Questions) -> Questions:
        """The examples with an item that the model does not know by id and title.

        Raises:
            ValueError: there is none.
        """
        source, target = self.known.catalogue, self.other.catalogue
        names = {(id_, source.title(row)) for row, id_ in enumerate(source.item_ids)}
        fresh = np.array(
            [(id_, target.title(row)) not in names for row, id_ in enumerate(target.item_ids)]
        )
        keep = fresh[self.other.split.histories.items[asked.rows]]
        if not keep.any():
            raise ValueError(
                f"{self.other.name}: the model {self.known.name} knows all items that are asked "
                "about; expected items of another data set"
            )
        return Questions(asked.users[keep], asked.positions[keep], asked.rows[keep])

    def split(self, shared_users: bool) -> Split:
        """The other data, with users numbered after those of the model.

        Args:
            shared_users: a user id that the model knows keeps the number that it was trained with.
        """
        source, histories = self.known.histories, self.other.split.histories
        numbers = source.num_users + np.arange(histories.num_users)
        if shared_users:
            ids = enumerate(histories.user_ids)
            numbers = np.array([source.number.get(id_, numbers[user]) for user, id_ in ids])
        return replace(self.other.split, histories=replace(histories, numbers=numbers))

    def check_stars(self) -> None:
        """Refuses a scale that the model can't answer in.

        Raises:
            ValueError: there are stars below or above those of the model.
        """
        stars, known = self.other.split.histories.ratings, self.known.ratings
        stars = stars[~np.isnan(stars)]
        if known and len(stars) and (min(stars) < min(known) or max(stars) > max(known)):
            raise ValueError(
                f"{self.other.name}: has stars from {min(stars):g} to {max(stars):g}, but the "
                f"model {self.known.name} knows those from {min(known):g} to {max(known):g}; "
                "bring the column rating to that scale"
            )

    def check_words(
        self, words: WordTokenizer, templates: Sequence[PromptTemplate], asked: Questions
    ) -> str:
        """Says how the model's tokenizer reads the other items; refuses what it can't read.

        An unknown word is cut into known pieces, in the end into its characters; a character that
        never stood in training becomes ``<unk>``.

        Raises:
            ValueError: most words hold such a character.
        """
        columns = self.other.catalogue.columns
        slots = sorted({slot for t in templates for slot in t.slots} & columns.keys())
        rows = np.unique(self.other.split.histories.items[asked.rows]).tolist()
        texts = [
            word
            for slot in slots
            for i in rows
            for word in plain(columns[slot][i]).split()
            if any(letter.isalpha() for letter in word)
        ]
        if not texts:
            return "titles and all else are numbers"
        pieces = [words.encode(word, end=False) for word in texts]
        unreadable = [words.tokenizer.unk_token_id in own for own in pieces]
        share = sum(unreadable) / len(texts)
        if share > _MOST_UNREADABLE:
            example = texts[unreadable.index(True)]
            raise ValueError(
                f"{self.other.name}: {share:.0%} of the words in {', '.join(slots)} have "
                f"characters that the model {self.known.name} never saw, as in {example!r}; train "
                "it on data in this script, or from a checkpoint that reads it "
                "(--model_name_or_path)"
            )
        whole = sum(len(own) == 1 for own in pieces) / len(texts)
        return (
            f"of the words in {', '.join(slots)} the tokenizer has {whole:.0%} as one piece, cuts "
            f"the others ({sum(map(len, pieces)) / len(texts):.1f} pieces a word in all) and can't "
            f"read {share:.1%}"
        )

    def baselines(self, kind: str, asked: Questions) -> dict[str, Metrics]:
        """What the model's own training data say of everybody: mean star, more frequent word."""
        answer, histories = ZERO_SHOT.family.answers[kind], self.known.histories
        rows = Split(histories, {}, 0, 0).rows("train")
        stars = histories.ratings[rows].astype(np.float64)
        stars = stars[~np.isnan(stars)]
        actual = self.other.split.histories.ratings[asked.rows]
        if answer.form == "stars":
            return {"source_mean": rating_metrics(np.full(len(asked), stars.mean()), actual)}
        if answer.form == "words":
            like = self.known.settings.like_threshold
            share = np.full(len(asked), (stars >= like).mean())
            return {"source_majority": word_metrics(share, actual >= like)}
        return {}


def transfer(options: TransferArguments) -> tuple[dict[str, Any], list[str]]:
    """Judges a trained model on the items of another data set.

    Returns:
        ``test`` (zero-shot → template → metric), ``kinds``, ``sensitivity`` and ``baselines`` as in
        metrics.json; and printable notes.

    Raises:
        ValueError: the model or the data set is not there or doesn't fit, or the model knows too
            little to be asked.
    """
    model, tokenizer, known = load_artifact(find_artifact(options.model))
    if options.examples is not None and options.examples < 1:
        raise ValueError(f"--examples must be at least 1, not {options.examples}")
    folder = find_dataset(options.dataset, Path("data"))
    task = [(ZERO_SHOT, 1.0)]
    other = read_corpus(folder, task, known.settings, prompts=options.prompts, judged_only=True)
    pair = Transfer(known, other)
    templates, notes = pair.templates()
    pair.check_stars()
    split = pair.split(options.shared_users)
    predictor = known.predictor(model, tokenizer)
    # Facts follow from the catalogue; to quote what was said there of the items is no transfer.
    facts = isinstance(other.reasons, Facts) and not known.protocol.free_explanations
    evaluator = Evaluator(
        predictor, other.prompter, split, reasons=other.reasons if facts else None
    )
    everything = pair.unknown(questions(split, ZERO_SHOT, "test"))
    notes = [*other.notes, *notes, pair.check_words(predictor.words, templates, everything)]
    notes.append(f"explanations are {EXPLAINED['fact' if facts else None]}")
    notes.append(f"{len(everything):,} of {split.histories.num_users:,} users' last items are new")
    rows: dict[str, Metrics] = {}
    kinds: dict[str, list[str]] = {}
    baselines: dict[str, dict[str, Metrics]] = {}
    for template in templates:
        asked = questions(split, ZERO_SHOT, "test", needs=template.needs)
        keep = np.isin(asked.rows, everything.rows)
        if not keep.any():
            notes.append(f"template {template.id} left out: no test example can be asked")
            continue
        asked = Questions(asked.users[keep], asked.positions[keep], asked.rows[keep])
        asked = asked.some(options.examples)
        rows[template.id] = evaluator.judge(ZERO_SHOT, template, asked)
        kinds.setdefault(template.answer, []).append(template.id)
        baselines[template.answer] = pair.baselines(template.answer, asked)
    if not rows:
        raise ValueError(f"{folder}: nothing can be asked: {notes[-1]}")
    test = {ZERO_SHOT.name: rows}
    return {
        "model": known.name,
        "dataset": other.name,
        "test": test,
        "kinds": {ZERO_SHOT.name: kinds},
        "sensitivity": sensitivity(test, templates),
        "baselines": {ZERO_SHOT.name: baselines},
    }, notes


def main() -> None:
    """Reads the command line and prints notes and tables."""
    parser = HfArgumentParser(
        TransferArguments, description="Judge a model on the items of another data set."
    )
    (options,) = parser.parse_args_into_dataclasses()
    try:
        report, notes = transfer(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(notes))
    heldout = {task: frozenset(rows) for task, rows in report["test"].items()}
    print(f"\n{report['model']} on {report['dataset']}\n\n{metrics_tables(report, heldout)}")
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
