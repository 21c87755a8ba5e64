"""Model × task × template → numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from p5_t5.data.histories import UserState
from p5_t5.data.splits import Part, Split
from p5_t5.decoding.diversity import Diversity
from p5_t5.decoding.predictor import Predictor
from p5_t5.decoding.repeats import seen_probability
from p5_t5.evaluation.metrics import (
    PADDING,
    binary_metrics,
    diversity_metrics,
    feature_match,
    ranking_metrics,
    rating_metrics,
    text_metrics,
)
from p5_t5.prompting.candidates import Candidates
from p5_t5.prompting.prompter import Asked, Prompt, Prompter
from p5_t5.prompting.reasons import Quotes, Reason, Reasons
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import WORDS, AnswerKind, PromptTemplate

Metrics = dict[str, float]
# What is appended to a metric's name when the items that a user already has may be recommended.
KEEP_SEEN = "/keep_seen"
# What is appended when one right item and drawn ones are ranked instead of the whole catalogue.
CANDIDATES = "/candidates"
CUTOFF = 20
_RELEVANCE_ALONE = Diversity()


@dataclass(frozen=True)
class Questions:
    """The examples of one task that a report is about.

    Attributes:
        users: shape (examples,).
        positions: of the asked interaction in the user's order, shape (examples,).
        rows: the same as indices into the split's arrays, shape (examples,).
    """

    users: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.users)

    def some(self, at_most: int | None, seed: int = 0) -> Questions:
        """These, or a seeded choice of ``at_most`` of them."""
        if at_most is None or at_most >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:at_most])
        return Questions(self.users[chosen], self.positions[chosen], self.rows[chosen])


@dataclass(frozen=True)
class RankedLists:
    """What was recommended to some examples, items that a user already has excluded.

    Attributes:
        asked: the examples.
        items: catalogue rows, best first, padded with -1, shape (examples, 20).
    """

    asked: Questions
    items: npt.NDArray[np.int64]


def questions(
    split: Split,
    task: Task,
    part: Part,
    at_most: int | None = None,
    *,
    needs: Collection[str] = (),
    seed: int = 0,
) -> Questions:
    """The examples of a task in one part, or a seeded choice of ``at_most`` of them.

    Args:
        split: the data.
        task: what is asked.
        part: which interactions.
        at_most: how many; all without it.
        needs: the columns that they must have a value in, as a template says.
        seed: of the choice.
    """
    users, positions = task.examples(split, part, needs)
    found = Questions(users, positions, split.histories.offsets[users] + positions)
    return found.some(at_most, seed)


class Evaluator:
    """Judges a model on one split; every task and template by the same rows."""

    def __init__(
        self,
        predictor: Predictor,
        prompter: Prompter,
        split: Split,
        diversity: Diversity = _RELEVANCE_ALONE,
        reasons: Reasons | None = None,
    ) -> None:
        """Keeps the parts of the judgement.

        Args:
            predictor: answers the prompts.
            prompter: writes them.
            split: what is asked, and the right answers.
            diversity: how far ranked lists are made diverse before they are judged.
            reasons: what explanations choose from; without it they are written word by word.
        """
        self.predictor, self.prompter, self.split = predictor, prompter, split
        self.diversity, self.reasons = diversity, reasons
        self.candidates = Candidates(
            split, len(prompter.catalogue), split.stars(), prompter.settings
        )

    def evaluate(
        self,
        tasks: Sequence[Task],
        templates: Sequence[PromptTemplate],
        part: Part,
        *,
        at_most: int | None = None,
        keep_seen: Sequence[bool] = (False, True),
        candidate_users: int = 0,
        lists: dict[str, dict[str, RankedLists]] | None = None,
    ) -> dict[str, dict[str, Metrics]]:
        """All metrics, by family and template id.

        Args:
            tasks: what to judge.
            templates: all templates; those of other families are passed over.
            part: ``validation`` or ``test``.
            at_most: judge on so many examples of each template; all without it.
            keep_seen: whether items that a user already has may be recommended; one set of metrics
                for each.
            candidate_users: for so many users the candidates are also ranked by the probability of
                "yes", one prompt a candidate.
            lists: is given the lists ranked over the whole catalogue, by family and template id.
        """
        report: dict[str, dict[str, Metrics]] = {}
        for task in tasks:
            for template in templates:
                if template.family != task.name:
                    continue
                asked = questions(self.split, task, part, at_most, needs=template.needs)
                if len(asked):
                    own: list[RankedLists] = []
                    found = self.judge(task, template, asked, keep_seen, candidate_users, own)
                    report.setdefault(task.name, {})[template.id] = found
                    if lists is not None and own:
                        lists.setdefault(task.name, {})[template.id] = own[0]
        return report

    def judge(
        self,
        task: Task,
        template: PromptTemplate,
        asked: Questions,
        keep_seen: Sequence[bool] = (False, True),
        candidate_users: int = 0,
        lists: list[RankedLists] | None = None,
    ) -> Metrics:
        """The metrics of one template on the given examples; see ``evaluate``."""
        kind = task.kind(template)
        facts = self._facts(task, template, asked)
        prompts = self._prompts(template, asked, facts)
        if kind.form == "item":
            return self._ranking(prompts, asked, keep_seen, lists)
        if kind.form == "choice":
            return self._choice(prompts, asked, facts)
        if kind.form == "stars":
            return self._rating(prompts, asked)
        if kind.form == "text":
            if "feature" not in template.source_slots:
                # What the answer is about must not choose it unless the prompt says so too.
                facts = [replace(fact, feature=None) for fact in facts]
            return self._text(prompts, kind, asked, facts)
        metrics = self._words(prompts, kind, facts)
        if kind.proposes == "item" and candidate_users:
            metrics |= self._ranked_words(task, template, asked.some(candidate_users))
        return metrics

    def _facts(self, task: Task, template: PromptTemplate, asked: Questions) -> list[Asked]:
        kind = task.kind(template)
        return [
            self.candidates.asked(task, kind, user, position)
            for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True)
        ]

    def _prompts(
        self, template: PromptTemplate, asked: Questions, facts: Sequence[Asked]
    ) -> list[Prompt]:
        return [
            self.prompter.render(template, state, fact)
            for state, fact in zip(self._states(asked), facts, strict=True)
        ]

    def _states(self, asked: Questions) -> Iterator[UserState]:
        """Each user before the asked interaction."""
        for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True):
            yield self.split.histories.state(user, position)

    def seen(self, asked: Questions) -> list[npt.NDArray[np.int32]]:
        """What each user had before the asked interaction."""
        starts = self.split.histories.offsets[asked.users]
        return [
            self.split.histories.items[start:row]
            for start, row in zip(starts.tolist(), asked.rows.tolist(), strict=True)
        ]

    def _ranking(
        self,
        prompts: Sequence[Prompt],
        asked: Questions,
        keep_seen: Sequence[bool],
        lists: list[RankedLists] | None,
    ) -> Metrics:
        target = self.split.histories.items[asked.rows]
        catalogue = self.prompter.catalogue
        categories = catalogue.category_matrix
        wide = self.diversity.width(CUTOFF, len(catalogue))
        metrics: Metrics = {}
        seen = self.seen(asked)
        for keep in keep_seen:
            excluded = None if keep else seen
            ranking = self.predictor.rank_where_possible(prompts, wide, excluded, seen)
            items, _ = self.diversity.rerank(*ranking, categories, CUTOFF)
            if lists is not None and not keep:
                lists.append(RankedLists(asked, items))
            found = ranking_metrics(items, target)
            # Decoding without a constraint may find no item for anyone.
            if (items >= 0).any():
                found |= diversity_metrics(
                    items, len(catalogue), categories if catalogue.category_names else None
                )
            n = found.pop("n")
            metrics |= {f"{name}{KEEP_SEEN if keep else ''}": v for name, v in found.items()}
            metrics["n"] = n
        return metrics

    def star_probabilities(
        self, task: Task, template: PromptTemplate, asked: Questions
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """What the model gives each number of stars, (examples, stars), and the true stars."""
        facts = self._facts(task, template, asked)
        found = self.predictor.star_probabilities(self._prompts(template, asked, facts))
        return found, self.split.histories.ratings[asked.rows]

    def repeats(
        self, task: Task, template: PromptTemplate, asked: Questions
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """How probable all is that each user has, and whether the next item was one of it."""
        prompts = self._prompts(template, asked, self._facts(task, template, asked))
        seen, target = self.seen(asked), self.split.histories.items[asked.rows].tolist()
        again = [item in own for item, own in zip(target, seen, strict=True)]
        return seen_probability(self.predictor, prompts, seen), np.array(again)

    def _rating(self, prompts: Sequence[Prompt], asked: Questions) -> Metrics:
        expected, decoded = self.predictor.rate(prompts)
        actual = self.split.histories.ratings[asked.rows]
        best = rating_metrics(decoded, actual)
        return rating_metrics(expected, actual) | {
            f"{name}/decoded": best[name] for name in ("rmse", "mae")
        }

    def _choice(
        self, prompts: Sequence[Prompt], asked: Questions, facts: Sequence[Asked]
    ) -> Metrics:
        lists = [fact.candidates for fact in facts if fact.candidates is not None]
        items, _ = self.predictor.choose(prompts, lists)
        ranked = [row[row != PADDING] for row in items]
        return among_candidates(ranked, self.split.histories.items[asked.rows])

    def _words(
        self, prompts: Sequence[Prompt], kind: AnswerKind, facts: Sequence[Asked]
    ) -> Metrics:
        words = WORDS[kind.slot]
        labels = np.array([self.prompter.answer(kind.slot, fact) == words[0] for fact in facts])
        return word_metrics(self.predictor.word_probabilities(prompts, words), labels)

    def _ranked_words(self, task: Task, template: PromptTemplate, asked: Questions) -> Metrics:
        """Candidates by the probability of "yes": the lists that a choice is judged by."""
        target = self.split.histories.items[asked.rows]
        lists = [
            self.candidates.among(user, item)
            for user, item in zip(asked.users.tolist(), target.tolist(), strict=True)
        ]
        counts = [len(row) for row in lists]
        each = Questions(
            *(np.repeat(a, counts) for a in (asked.users, asked.positions, asked.rows))
        )
        facts = [
            replace(fact, item=item)
            for user, position, row in zip(
                asked.users.tolist(), asked.positions.tolist(), lists, strict=True
            )
            for fact in [task.asked(self.split, user, position)]
            for item in row.tolist()
        ]
        words = WORDS[task.kind(template).slot]
        scores = self.predictor.word_probabilities(self._prompts(template, each, facts), words)
        own = np.split(scores, np.cumsum(counts)[:-1])
        ranked = [
            row[np.argsort(-score, kind="stable")] for row, score in zip(lists, own, strict=True)
        ]
        metrics = among_candidates(ranked, target)
        metrics[f"n{CANDIDATES}"] = metrics.pop("n")
        return metrics

    def _text(
        self,
        prompts: Sequence[Prompt],
        kind: AnswerKind,
        asked: Questions,
        facts: Sequence[Asked],
    ) -> Metrics:
        known: list[list[Reason]] = [[] for _ in prompts]
        length_penalty, commonness = 1.0, 0.0
        if kind.slot == "explanation" and self.reasons is not None:
            length_penalty, commonness = self.reasons.length_penalty, self.reasons.commonness
            known = [
                self.reasons.about(state, fact)
                for state, fact in zip(self._states(asked), facts, strict=True)
            ]
        reasons = self.predictor.explain(prompts, known, length_penalty, commonness)
        written = [reason.text for reason in reasons]
        rows = asked.rows.tolist()
        references = [self.split.texts[kind.slot][row] or "" for row in rows]
        metrics = text_metrics(written, references)
        items = len(np.unique(self.split.histories.items[asked.rows]))
        metrics["distinct_per_item"] = len(set(written)) / items
        if kind.slot == "explanation" and isinstance(self.reasons, Quotes):
            own = [reason.source == "own_quote" for reason in reasons]
            metrics["own_quotes"] = float(np.mean(own))
        if kind.slot == "explanation" and "feature" in self.split.texts:
            features = [self.split.texts["feature"][row] for row in rows]
            matched = feature_match(written, features)
            if matched["n"]:
                metrics["feature_match"] = matched["feature_match"]
        return metrics


def among_candidates(
    ranked: Sequence[npt.NDArray[np.int64]], target: npt.NDArray[np.int32]
) -> Metrics:
    """HR and NDCG at 1, 5 and 10, and MRR, of ranked candidates; lists may be of any length."""
    cutoffs = (1, 5, 10)
    lists = np.full((len(ranked), max(max(map(len, ranked)), *cutoffs)), PADDING)
    for i, row in enumerate(ranked):
        lists[i, : len(row)] = row
    found = ranking_metrics(lists, target, cutoffs)
    n = found.pop("n")
    return {f"{name}{CANDIDATES}": value for name, value in found.items()} | {"n": n}


def word_metrics(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> Metrics:
    """Binary metrics; accuracy alone where all answers are the same, so nothing is told apart."""
    if labels.all() or not labels.any():
        return {"accuracy": float(((scores >= 0.5) == labels).mean()), "n": len(labels)}
    return binary_metrics(scores, labels)
