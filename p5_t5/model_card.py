"""Tables of a run's numbers, and the README.md of a trained model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from p5_t5.evaluation.evaluator import CANDIDATES
from p5_t5.prompting.prompter import Prompt

_RANKING = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
# The columns of each table, and what its heading adds to the kind of answer; a kind of answer gets
# the tables that it has metrics for.
_TABLES: Sequence[tuple[str, Sequence[str]]] = (
    ("", (*_RANKING, "mrr", "hr@10/keep_seen")),
    ("", ("accuracy", "precision", "recall", "f1", "auc")),
    (", ranking candidates", tuple(f"{name}{CANDIDATES}" for name in _RANKING)),
    ("", ("rmse", "mae", "rmse/decoded", "mae/decoded")),
    (
        "",
        (
            "bleu-2",
            "bleu-4",
            "rouge-1",
            "rouge-2",
            "rouge-l",
            "feature_match",
            "distinct",
            "distinct_per_item",
            "own_quotes",
        ),
    ),
)


def metrics_tables(metrics: Mapping[str, Any], heldout: Mapping[str, frozenset[str]]) -> str:
    """The test metrics as Markdown tables, baselines above the templates.

    Each task and kind of answer has a table of its own, or two where its answers are judged one by
    one and as a ranking. Where several templates ask for the same, their mean and range follow. At
    the end stands how well new items and new users are served.

    Args:
        metrics: what metrics.json holds.
        heldout: for each task the ids of the templates that training never showed.
    """
    tables = []
    for task, kinds in metrics["kinds"].items():
        for kind, ids in kinds.items():
            rows = {
                _named(id_, heldout.get(task, ())): row
                for id_, row in metrics["test"][task].items()
                if id_ in ids
            }
            baselines = metrics["baselines"].get(task, {}).get(kind, {})
            spread = metrics["sensitivity"].get(task, {}).get(kind, {})
            for heading, columns in _TABLES:
                names = [n for n in columns if any(n in row for row in rows.values())]
                if names:
                    lines = _lines(names, baselines, rows, spread)
                    tables.append(f"### {task}: {kind}{heading}\n\n{_table(lines)}")
    return "\n\n".join(tables + _newcomers_tables(metrics.get("newcomers", {}), heldout))


def _named(id_: str, heldout: Collection[str]) -> str:
    return f"P5 {id_}{' (held out)' if id_ in heldout else ''}"


def _newcomers_tables(
    newcomers: Mapping[str, Any], heldout: Mapping[str, frozenset[str]]
) -> list[str]:
    """HR@10 / NDCG@10 by what training knows of the target item and of the user, as Markdown."""
    said = {
        "items": "by training interactions of the target item",
        "users": "by the length of the user's training history",
    }
    tables = []
    for task, parts in newcomers.items():
        for part, rows in parts.items():
            bins = next(iter(rows.values()))
            lines = [["", *bins], ["n", *(f"{found['n']}" for found in bins.values())]]
            for label, row in sorted(rows.items(), key=lambda pair: pair[0] != "popularity"):
                name = label if label == "popularity" else _named(label, heldout.get(task, ()))
                cells = [f"{f['hr@10']:.4f} / {f['ndcg@10']:.4f}" for f in row.values()]
                lines.append([name, *cells])
            heading = f"### {task}: HR@10 / NDCG@10 {said[part]}"
            tables.append(f"{heading}\n\n{_table(lines)}")
    return tables


def _lines(
    names: Sequence[str],
    baselines: Mapping[str, Mapping[str, float]],
    rows: Mapping[str, Mapping[str, float]],
    spread: Mapping[str, Mapping[str, float]],
) -> list[list[str]]:
    """The cells of one table, its head first."""
    lines = [["", *(name.removesuffix(CANDIDATES) for name in names), "n"]]
    judged = {label: row for label, row in baselines.items() if any(n in row for n in names)}
    for label, row in {**judged, **rows}.items():
        n = row["n"]
        if names[0].endswith(CANDIDATES):
            n = row.get(f"n{CANDIDATES}", n)
        lines.append([label, *(_number(row.get(name)) for name in names), _number(n)])
    if len(rows) > 1:
        for label, of in {"mean": "mean", "lowest": "min", "highest": "max"}.items():
            cells = [_number(spread[n][of]) if n in spread else "-" for n in names]
            lines.append([f"{label} of {len(rows)}", *cells, ""])
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or (float(value).is_integer() and value > 1):
        return f"{int(value)}"
    return f"{value:.4f}"


def _table(lines: list[list[str]]) -> str:
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    texts = [
        "| "
        + " | ".join(
            cell.ljust(w) if c == 0 else cell.rjust(w)
            for c, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join(
        "-" * (w + 2) if c == 0 else "-" * (w + 1) + ":" for c, w in enumerate(widths)
    )
    return "\n".join([texts[0], rule + "|", *texts[1:]])


def protocol_lines(protocol: Mapping[str, Any]) -> str:
    """The protocol and what the audit found, one line each."""
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            lines += [f"- {name}, {inner}: {_fact(v)}" for inner, v in value.items()]
        else:
            lines.append(f"- {name}: {_fact(value)}")
    return "\n".join(lines)


def _fact(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def model_card(
    name: str,
    metrics: Mapping[str, Any],
    heldout: Mapping[str, frozenset[str]],
    examples: Mapping[str, Prompt],
) -> str:
    """The README.md of a trained model, made from its run.

    Args:
        name: the data set's name.
        metrics: what metrics.json holds.
        heldout: for each task the ids of the templates that training never showed.
        examples: for each task one rendered training prompt.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["p5", "recommender-system", "t5"],
    )
    prompts = "\n".join(
        f"**{task}**\n\n```\n{prompt.source}\n→ {prompt.target}\n```\n"
        for task, prompt in examples.items()
    )
    return f"""---
{data.to_yaml()}
---

# P5 on {name}

A T5 that recommends: histories and items are written as text, answers are decoded as item tokens
({metrics["protocol"]["ranking"]}).

```python
import p5_t5
from transformers import pipeline

recommend = pipeline("p5-recommend", model="FOLDER")
recommend("USER_ID", top_k=5)
recommend({{"history": ["ITEM_ID_OR_TITLE", "ITEM_ID_OR_TITLE"]}})
```

## Prompts

{prompts}
## Test

{metrics_tables(metrics, heldout)}

## Protocol

{protocol_lines(metrics["protocol"])}
"""
