"""Validation while a model is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5_t5.decoding.calibration import StarCalibration, fit_calibration
from p5_t5.decoding.repeats import fit_repeats
from p5_t5.evaluation.evaluator import KEEP_SEEN, Evaluator, Metrics, questions
from p5_t5.evaluation.summary import best_templates, sensitivity
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import AnswerKind, PromptTemplate

Found = dict[str, dict[str, Metrics]]
# So many examples of each template calibrate stars at most.
_CALIBRATED = 2000
# Metrics below it count as much.
_LEAST = 1e-4


@dataclass(frozen=True)
class Validation:
    """Judges the reported seen templates on the validation split.

    Attributes:
        evaluator: of the model.
        corpus: its tasks and templates.
        at_most: judge on so many examples of each template.
        keep_seen: whether items that a user already has may be recommended.
        metrics: TASK/METRIC or TASK/KIND/METRIC each, the means of which over the templates pick
            the best weights; the first metric of every kind of answer if there are none.
    """

    evaluator: Evaluator
    corpus: Corpus
    at_most: int
    keep_seen: bool
    metrics: Sequence[str] = ()

    def run(self, texts: bool = False) -> Found:
        """Metrics by task and template.

        Args:
            texts: also judge texts beside other answers; writing them takes longer than all else.
        """
        tasks = [task for task, _ in self.corpus.tasks]
        forms = {task.name: {k: a.form for k, a in task.family.answers.items()} for task in tasks}
        seen = [t for t in self.corpus.reported() if t.family in forms and not t.heldout]
        quick = [t for t in seen if forms[t.family][t.answer] != "text"]
        found = self.evaluator.evaluate(
            tasks,
            seen if texts or not quick else quick,
            "validation",
            at_most=self.at_most,
            keep_seen=(self.keep_seen,),
        )
        return {
            task: {
                id_: {name.removesuffix(KEEP_SEEN): value for name, value in row.items()}
                for id_, row in rows.items()
            }
            for task, rows in found.items()
        }

    def means(self, found: Found) -> Metrics:
        """TASK/METRIC to its mean over the templates of the task's first kind of answer.

        Those of its other kinds are named TASK/KIND/METRIC.
        """
        return {
            f"{name}/{metric}": values["mean"]
            for name, _, spread in self._kinds(found)
            for metric, values in spread.items()
        }

    def value(self, found: Found) -> float:
        """The chosen metrics in one number, higher is better.

        The mean of their logarithms, those of errors turned round: a hundredth more of any of them
        counts alike, however large they are.

        Raises:
            ValueError: validation has no such metric.
        """
        means = self.means(found)
        # One model answers them all. Lists alone would pick the weights by the noise of a level
        # stretch, before stars and plain questions have been learnt.
        every = [f"{name}/{answer.metric[0]}" for name, answer, _ in self._kinds(found)]
        metrics = self.metrics or [metric for metric in every if metric in means] or every
        for metric in metrics:
            if metric not in means:
                known = ", ".join(sorted(means))
                raise ValueError(f"--metric_for_best_model {metric}: validation has {known}")
        if not metrics:
            raise ValueError("no task has an example on validation that could be judged")
        logs = []
        for metric in metrics:
            # A model that has learnt nothing yet may find no item at all.
            log = math.log(max(means[metric], _LEAST))
            logs.append(-log if {"rmse", "mae"} & set(metric.split("/")) else log)
        return sum(logs) / len(logs)

    def line(self, found: Found) -> str:
        """The first metric of each kind of answer, mean and range over its templates, to read."""
        parts = []
        for name, answer, spread in self._kinds(found):
            metric, _ = answer.metric
            if metric in spread:
                values = spread[metric]
                parts.append(
                    f"{name} {metric} {values['mean']:.4f} "
                    f"(by template {values['min']:.4f} to {values['max']:.4f})"
                )
        return ", ".join(parts)

    def _kinds(self, found: Found) -> list[tuple[str, AnswerKind, dict[str, Metrics]]]:
        """TASK or TASK/KIND, the kind and the spread of its metrics, for all that was judged."""
        spread = sensitivity(found, self.corpus.templates)
        kinds = []
        for task, _ in self.corpus.tasks:
            own = spread.get(task.name, {})
            judged = [kind for kind in task.family.answers if kind in own]
            for kind in judged:
                name = task.name if kind == judged[0] else f"{task.name}/{kind}"
                kinds.append((name, task.family.answers[kind], own[kind]))
        return kinds

    def calibrate(self) -> dict[str, StarCalibration]:
        """What makes probabilities of stars true on validation; stars are judged by it from now on.

        Returns:
            A calibration for each seen template, named FAMILY/ID, and for each family one of all of
            them together, for wordings that are held out or a user's own.
        """
        found: dict[str, StarCalibration] = {}
        if not self.corpus.protocol.uncalibrated_stars:
            for task, _ in self.corpus.tasks:
                told = {
                    f"{task.name}/{template.id}": self._star_probabilities(task, template)
                    for template in self.corpus.of(task)
                    if task.kind(template).form == "stars" and not template.heldout
                }
                told = {name: own for name, own in told.items() if len(own[1])}
                found |= {name: fit_calibration(*own) for name, own in told.items()}
                if told:
                    probabilities, given = zip(*told.values(), strict=True)
                    found[task.name] = fit_calibration(
                        np.concatenate(probabilities), np.concatenate(given)
                    )
        self.evaluator.predictor.calibrations = found
        return found

    def calibrate_repeats(self) -> float:
        """What makes items that users already have as probable as they are on validation.

        Returns:
            What is added to their log-probability wherever they are not excluded from now on; for
            all templates that ask for any item of the catalogue together.
        """
        corpus, evaluator, told = self.corpus, self.evaluator, []
        if corpus.protocol.uncalibrated_repeats or corpus.protocol.unconstrained_decoding:
            return evaluator.predictor.repeats
        ranking = [
            (task, template)
            for task, _ in corpus.tasks
            for template in corpus.of(task)
            if task.kind(template).form == "item" and template.reported and not template.heldout
        ]
        for task, template in ranking:
            needs = template.needs
            asked = questions(corpus.split, task, "validation", _CALIBRATED, needs=needs)
            if len(asked):
                told.append(evaluator.repeats(task, template, asked))
        if told:
            seen, again = map(np.concatenate, zip(*told, strict=True))
            evaluator.predictor.repeats = fit_repeats(seen, again)
        return evaluator.predictor.repeats

    def _star_probabilities(
        self, task: Task, template: PromptTemplate
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Those of a template's validation examples, and which star each of these has."""
        split = self.evaluator.split
        asked = questions(split, task, "validation", _CALIBRATED, needs=template.needs)
        found, stars = self.evaluator.star_probabilities(task, template, asked)
        return found, np.abs(stars[:, None] - self.evaluator.predictor.ratings).argmin(axis=1)

    def order_templates(self) -> dict[str, list[str]]:
        """For each task its seen templates, best first within each kind of answer."""
        found = self.run(texts=True)
        return best_templates(found, [t for t, _ in self.corpus.tasks], self.corpus.templates)
