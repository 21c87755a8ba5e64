"""Model × task × template → numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Part, Split
from p5_t5.decoding.diversity import Diversity
from p5_t5.decoding.predictor import Predictor
from p5_t5.evaluation.metrics import (
    diversity_metrics,
    feature_match,
    ranking_metrics,
    rating_metrics,
    text_metrics,
)
from p5_t5.prompting.prompter import Prompt, Prompter
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import PromptTemplate

Metrics = dict[str, float]
# What is appended to a metric's name when the items that a user already has may be recommended.
KEEP_SEEN = "/keep_seen"
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


def questions(
    split: Split, task: Task, part: Part, at_most: int | None = None, seed: int = 0
) -> Questions:
    """The examples of a task in one part, or a seeded choice of ``at_most`` of them."""
    users, positions = task.examples(split, part)
    if at_most is not None and at_most < len(users):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(users))[:at_most])
        users, positions = users[chosen], positions[chosen]
    return Questions(users, positions, split.histories.offsets[users] + positions)


class Evaluator:
    """Judges a model on one split; every task and template by the same rows."""

    def __init__(
        self,
        predictor: Predictor,
        prompter: Prompter,
        split: Split,
        diversity: Diversity = _RELEVANCE_ALONE,
    ) -> None:
        """Keeps the parts of the judgement.

        Args:
            predictor: answers the prompts.
            prompter: writes them.
            split: what is asked, and the right answers.
            diversity: how far ranked lists are made diverse before they are judged.
        """
        self.predictor, self.prompter, self.split = predictor, prompter, split
        self.diversity = diversity

    def evaluate(
        self,
        tasks: Sequence[Task],
        templates: Sequence[PromptTemplate],
        part: Part,
        *,
        at_most: int | None = None,
        keep_seen: Sequence[bool] = (False, True),
    ) -> dict[str, dict[str, Metrics]]:
        """All metrics, by family and template id.

        Args:
            tasks: what to judge.
            templates: all templates; those of other families are passed over.
            part: ``validation`` or ``test``.
            at_most: judge on so many examples of each task; all without it.
            keep_seen: whether items that a user already has may be recommended; one set of metrics
                for each.
        """
        report: dict[str, dict[str, Metrics]] = {}
        for task in tasks:
            asked = questions(self.split, task, part, at_most)
            if len(asked):
                report[task.name] = {
                    template.id: self.judge(task, template, asked, keep_seen)
                    for template in templates
                    if template.family == task.name
                }
        return report

    def judge(
        self,
        task: Task,
        template: PromptTemplate,
        asked: Questions,
        keep_seen: Sequence[bool] = (False, True),
    ) -> Metrics:
        """The metrics of one template on the given examples."""
        prompts = self._prompts(task, template, asked)
        if task.form == "item":
            return self._ranking(prompts, asked, keep_seen)
        if task.form == "rating":
            return self._rating(prompts, asked)
        return self._text(prompts, asked)

    def _prompts(self, task: Task, template: PromptTemplate, asked: Questions) -> list[Prompt]:
        histories = self.split.histories
        return [
            self.prompter.render(
                template, histories.state(user, position), task.asked(self.split, user, position)
            )
            for user, position in zip(asked.users.tolist(), asked.positions.tolist(), strict=True)
        ]

    def seen(self, asked: Questions) -> list[npt.NDArray[np.int32]]:
        """What each user had before the asked interaction."""
        starts = self.split.histories.offsets[asked.users]
        return [
            self.split.histories.items[start:row]
            for start, row in zip(starts.tolist(), asked.rows.tolist(), strict=True)
        ]

    def _ranking(
        self, prompts: Sequence[Prompt], asked: Questions, keep_seen: Sequence[bool]
    ) -> Metrics:
        target = self.split.histories.items[asked.rows]
        catalogue = self.prompter.catalogue
        categories = catalogue.category_matrix
        wide = self.diversity.width(CUTOFF, len(catalogue))
        metrics: Metrics = {}
        for keep in keep_seen:
            ranking = self.predictor.rank(prompts, wide, None if keep else self.seen(asked))
            items, _ = self.diversity.rerank(*ranking, categories, CUTOFF)
            found = ranking_metrics(items, target)
            found |= diversity_metrics(
                items, len(catalogue), categories if catalogue.category_names else None
            )
            n = found.pop("n")
            metrics |= {f"{name}{KEEP_SEEN if keep else ''}": v for name, v in found.items()}
            metrics["n"] = n
        return metrics

    def _rating(self, prompts: Sequence[Prompt], asked: Questions) -> Metrics:
        expected, decoded = self.predictor.rate(prompts)
        actual = self.split.histories.ratings[asked.rows]
        best = rating_metrics(decoded, actual)
        return rating_metrics(expected, actual) | {
            f"{name}/decoded": best[name] for name in ("rmse", "mae")
        }

    def _text(self, prompts: Sequence[Prompt], asked: Questions) -> Metrics:
        written = self.predictor.write(prompts)
        rows = asked.rows.tolist()
        references = [self.split.texts["explanation"][row] or "" for row in rows]
        metrics = text_metrics(written, references)
        if "feature" in self.split.texts:
            features = [self.split.texts["feature"][row] for row in rows]
            matched = feature_match(written, features)
            if matched["n"]:
                metrics["feature_match"] = matched["feature_match"]
        return metrics


def best_templates(
    report: Mapping[str, Mapping[str, Metrics]],
    tasks: Sequence[Task],
    templates: Sequence[PromptTemplate],
) -> dict[str, list[str]]:
    """For each task the ids of its seen templates, best validation metric first."""
    order: dict[str, list[str]] = {}
    for task in tasks:
        name, higher = task.metric
        seen = [t.id for t in templates if t.family == task.name and not t.heldout]
        judged = [i for i in seen if i in report.get(task.name, {})]
        sign = -1 if higher else 1
        order[task.name] = sorted(judged, key=lambda i: sign * report[task.name][i][name])
        order[task.name] += [i for i in seen if i not in judged]
    return order
