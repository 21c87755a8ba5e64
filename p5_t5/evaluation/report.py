"""The final report: metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p5_t5.evaluation.audit import audit, baselines
from p5_t5.evaluation.evaluator import KEEP_SEEN, Evaluator
from p5_t5.prompting.corpus import Corpus


def final_report(corpus: Corpus, evaluator: Evaluator, run: Mapping[str, Any]) -> dict[str, Any]:
    """Judges every template on the test split, beside baselines and with the protocol.

    Args:
        corpus: the data, tasks and templates.
        evaluator: of the trained model.
        run: facts about the run that belong to the protocol (seed, beams, steps ...).

    Returns:
        ``protocol``, ``test`` (task → template → metric) and ``baselines`` (task → baseline →
        metric).
    """
    tasks = [task for task, _ in corpus.tasks]
    protocol = {
        "dataset": corpus.name,
        "split": "leave one out per user: last item test, second last validation",
        "ties": "equal timestamps keep file order",
        "ranking": "whole catalogue, beam search constrained to it",
        "seen_items": f"excluded; kept where a metric ends with {KEEP_SEEN}",
        "item_ids": corpus.catalogue.codes.scheme,
        "beams": evaluator.predictor.beams,
        **run,
        "audit": audit(corpus.split),
    }
    return {
        "protocol": protocol,
        "test": evaluator.evaluate(tasks, corpus.templates, "test"),
        "baselines": baselines(corpus.split, tasks, len(corpus.catalogue)),
    }
