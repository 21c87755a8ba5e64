"""Validation while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5_t5.evaluation.evaluator import KEEP_SEEN, Evaluator, Metrics, best_templates
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.tasks import Task

Found = dict[str, dict[str, Metrics]]


@dataclass(frozen=True)
class Validation:
    """Judges the seen templates on the validation split.

    Attributes:
        evaluator: of the model.
        corpus: its tasks and templates.
        at_most: judge on so many examples of each task.
        keep_seen: whether items that a user already has may be recommended.
        metric: TASK/METRIC, the mean of which over the templates picks the best weights.
    """

    evaluator: Evaluator
    corpus: Corpus
    at_most: int
    keep_seen: bool
    metric: str

    def run(self, texts: bool = False) -> Found:
        """Metrics by task and template.

        Args:
            texts: also judge texts beside other answers; writing them takes longer than all else.
        """
        tasks = [task for task, _ in self.corpus.tasks if task.form != "text"]
        found = self.evaluator.evaluate(
            [task for task, _ in self.corpus.tasks] if texts or not tasks else tasks,
            [template for template in self.corpus.templates if not template.heldout],
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
        """TASK/METRIC to its mean over the templates."""
        return {
            f"{task}/{name}": float(np.mean([row[name] for row in rows.values()]))
            for task, rows in found.items()
            for name in next(iter(rows.values()))
        }

    def value(self, found: Found) -> float:
        """The value of the chosen metric, turned so that higher is better.

        Raises:
            ValueError: validation has no such metric.
        """
        means = self.means(found)
        if self.metric not in means:
            known = ", ".join(sorted(means))
            raise ValueError(f"--metric_for_best_model {self.metric}: validation has {known}")
        return -means[self.metric] if self.metric.endswith(("rmse", "mae")) else means[self.metric]

    def line(self, found: Found) -> str:
        """The first metric of each task, mean and range over its templates, for people to read."""
        parts = []
        for task in self._tasks(found):
            name, _ = task.metric
            values = [row[name] for row in found[task.name].values()]
            parts.append(
                f"{task.name} {name} {np.mean(values):.4f} "
                f"(by template {min(values):.4f} to {max(values):.4f})"
            )
        return ", ".join(parts)

    def _tasks(self, found: Found) -> list[Task]:
        return [task for task, _ in self.corpus.tasks if task.name in found]

    def order_templates(self) -> dict[str, list[str]]:
        """For each task its seen templates, best first."""
        found = self.run(texts=True)
        return best_templates(found, [t for t, _ in self.corpus.tasks], self.corpus.templates)
