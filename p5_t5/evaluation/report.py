"""The final report: metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from p5_t5.evaluation.audit import audit, baselines, popular_lists
from p5_t5.evaluation.evaluator import (
    CANDIDATES,
    KEEP_SEEN,
    Evaluator,
    RankedLists,
)
from p5_t5.evaluation.newcomers import newcomers
from p5_t5.evaluation.summary import sensitivity
from p5_t5.prompting.corpus import Corpus

# How explanations came about, by where they were chosen from.
EXPLAINED = {
    "quote": "chosen among what training says of the item, about a feature that the prompt names; "
    "where nobody spoke of it, among the user's own words about it in another item (own_quotes)",
    "fact": "chosen among the facts that they are derived from; where the prompt names the feature "
    "only one is left, the very answer",
    None: "written word by word",
}


def final_report(
    corpus: Corpus,
    evaluator: Evaluator,
    run: Mapping[str, Any],
    *,
    everything: bool = False,
    candidate_users: int = 200,
) -> dict[str, Any]:
    """Judges templates on the test split, beside baselines and with the protocol.

    Args:
        corpus: the data, tasks and templates.
        evaluator: of the trained model.
        run: facts about the run that belong to the protocol (seed, beams, steps ...).
        everything: judge all templates, not only the reported ones.
        candidate_users: for so many users candidates are ranked by the probability of "yes".

    Returns:
        ``protocol``, ``test`` (task → template → metric), ``kinds`` (task → kind of answer → its
        templates in ``test``), ``sensitivity`` (task → kind → metric → mean, min and max over
        these), ``baselines`` (task → kind → baseline → metric) and ``newcomers`` (task → items or
        users → template or baseline → bin → metric).
    """
    tasks = corpus.judged
    templates = corpus.templates if everything else corpus.reported()
    repeats = evaluator.predictor.repeats
    settings, held_back = corpus.prompter.settings, corpus.split.held_back
    protocol = {
        "dataset": corpus.name,
        **corpus.protocol.facts(),
        "held_back_users": 0 if held_back is None else int(held_back.sum()),
        "ties": "equal timestamps keep file order",
        "seen_items": f"excluded; kept where a metric ends with {KEEP_SEEN}"
        + (
            f", their probability times {math.exp(repeats):.3g} as on validation" if repeats else ""
        ),
        "candidates": f"where a metric ends with {CANDIDATES}: the right item and "
        f"{settings.candidates - 1} drawn evenly outside the user's history, the same for all "
        f"templates; yes or no ranks those of {candidate_users} users",
        "templates": "all" if everything else "the reported ones",
        "explanations": EXPLAINED[corpus.reasons.source if corpus.reasons else None],
        "expected_stars": "by probabilities calibrated on validation, see p5.json"
        if evaluator.predictor.calibrations
        else "by the model's own probabilities",
        "item_ids": corpus.catalogue.codes.scheme,
        "beams": evaluator.predictor.beams,
        **run,
        "audit": audit(corpus.split, corpus.catalogue.codes),
    }
    lists: dict[str, dict[str, RankedLists]] = {}
    test = evaluator.evaluate(
        tasks, templates, "test", candidate_users=candidate_users, lists=lists
    )
    for ranked in lists.values():
        asked = next(iter(ranked.values())).asked
        popular = popular_lists(corpus.split, asked, len(corpus.catalogue))
        ranked["popularity"] = RankedLists(asked, popular)
    return {
        "protocol": protocol,
        "test": test,
        "kinds": {
            task.name: {
                kind: [
                    t.id for t in corpus.of(task) if t.answer == kind and t.id in test[task.name]
                ]
                for kind in task.family.answers
            }
            for task in tasks
            if task.name in test
        },
        "sensitivity": sensitivity(test, templates),
        "baselines": baselines(corpus.split, tasks, templates, evaluator.candidates),
        "newcomers": {task: newcomers(corpus.split, own) for task, own in lists.items()},
    }
