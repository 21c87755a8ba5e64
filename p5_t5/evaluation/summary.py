"""What a report's metrics say together: the best templates, and how much the wording matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from p5_t5.evaluation.evaluator import Metrics
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import PromptTemplate


def best_templates(
    report: Mapping[str, Mapping[str, Metrics]],
    tasks: Sequence[Task],
    templates: Sequence[PromptTemplate],
) -> dict[str, list[str]]:
    """For each task the ids of its seen templates, best first within each kind of answer.

    The kinds stand in the order of the task; templates that were not judged come last in theirs.
    """
    order: dict[str, list[str]] = {}
    for task in tasks:
        order[task.name] = []
        for name, kind in task.family.answers.items():
            own = [t for t in templates if (t.family, t.answer) == (task.name, name)]
            seen = [t.id for t in own if not t.heldout]
            metric, higher = kind.metric
            found = report.get(task.name, {})
            judged = [i for i in seen if metric in found.get(i, {})]
            sign = -1 if higher else 1
            order[task.name] += sorted(judged, key=lambda i: sign * found[i][metric])
            order[task.name] += [i for i in seen if i not in judged]
    return order


def sensitivity(
    report: Mapping[str, Mapping[str, Metrics]], templates: Sequence[PromptTemplate]
) -> dict[str, dict[str, dict[str, Metrics]]]:
    """How much each metric depends on the prompt.

    Returns:
        Family → kind of answer → metric → ``mean``, ``min`` and ``max`` over the judged templates,
        and ``templates``, their number.
    """
    found: dict[str, dict[str, dict[str, Metrics]]] = {}
    for family, rows in report.items():
        kinds = {t.id: t.answer for t in templates if t.family == family}
        for kind in dict.fromkeys(kinds[id_] for id_ in rows):
            own = [row for id_, row in rows.items() if kinds[id_] == kind]
            names = dict.fromkeys(name for row in own for name in row if name.split("/")[0] != "n")
            spread = found.setdefault(family, {}).setdefault(kind, {})
            for name in names:
                values = [row[name] for row in own if name in row]
                spread[name] = {
                    "mean": float(np.mean(values)),
                    "min": min(values),
                    "max": max(values),
                    "templates": len(values),
                }
    return found
