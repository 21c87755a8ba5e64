"""Which example with which template at which step: seeded, lazy and resumable.

An epoch is planned as arrays before anything is rendered: the plan follows from the seed and the
epoch's number alone, so a run that resumes at a step sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.prompter import Prompt
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import PromptTemplate

Encode = Callable[[str], Sequence[Any]]

# How many steps' examples are sorted by length together: enough for little padding, few enough for
# chance.
_STEPS_A_POOL = 32
_SAMPLES_A_TEMPLATE = 32


@dataclass(frozen=True)
class Epoch:
    """One planned epoch.

    Attributes:
        examples: a lazy data set: an example is rendered and tokenised when it is read.
        steps: the batches of each step, each a list of examples. A batch holds examples of like
            length, the batches of one step hold different ones, so that each step sees all tasks.
    """

    examples: datasets.Dataset
    steps: list[list[list[int]]]


class Mixture:
    """Draws training examples of all tasks in given shares."""

    def __init__(
        self,
        corpus: Corpus,
        encode: Encode,
        *,
        tokens_per_batch: int,
        batches_per_step: int,
        seed: int,
    ) -> None:
        """Finds the examples of each task and measures the templates.

        Args:
            corpus: data, prompts and shares; held-out templates are never drawn.
            encode: text to token ids, ``</s>`` included.
            tokens_per_batch: a batch holds at most so many tokens, padding included.
            batches_per_step: so many batches make one step, over all processes.
            seed: of the plan.

        Raises:
            ValueError: a task has no template or no training example, or no share is above 0.
        """
        self._split, self._prompter, self._encode = corpus.split, corpus.prompter, encode
        self._tokens_per_batch, self._batches_per_step = tokens_per_batch, batches_per_step
        self._seed = seed
        self.tasks = [task for task, share in corpus.tasks if share > 0]
        if not self.tasks:
            raise ValueError("no task has a share above 0")
        shares = np.array([share for _, share in corpus.tasks if share > 0], dtype=float)
        self.shares = shares / shares.sum()
        self._templates = [self._seen(task, corpus.templates) for task in self.tasks]
        self._rows = [task.examples(self._split, "train") for task in self.tasks]
        for task, (users, _) in zip(self.tasks, self._rows, strict=True):
            if len(users) == 0:
                raise ValueError(f"the data set has no training example for the task {task.name!r}")
        self._lengths = {
            (t, m): self._measure(t, template)
            for t, own in enumerate(self._templates)
            for m, template in enumerate(own)
        }

    @staticmethod
    def _seen(task: Task, templates: Sequence[PromptTemplate]) -> list[PromptTemplate]:
        own = [t for t in templates if t.family == task.name and not t.heldout]
        if not own:
            raise ValueError(f"no template of the family {task.name!r} can be used for training")
        return own

    def sample(self, count: int) -> list[Prompt]:
        """Rendered examples of a plan of their own, such as a tokenizer learns from."""
        plan = self._plan(np.random.default_rng([self._seed, 2**32 - 1]))
        chosen = {name: values[:count].tolist() for name, values in plan.items()}
        return [self._prompt(*row) for row in zip(*chosen.values(), strict=True)]

    def epoch(self, number: int) -> Epoch:
        """Plans one epoch: as many examples as there are training interactions."""
        generator = np.random.default_rng([self._seed, number])
        plan = self._plan(generator)
        source, target = self._estimate(plan)
        # About as many examples as make _STEPS_A_POOL steps are sorted by length together.
        step = self._tokens_per_batch * self._batches_per_step / float((source + target).mean())
        size = max(int(_STEPS_A_POOL * step), 1)
        steps: list[list[list[int]]] = []
        for begin in range(0, len(source), size):
            rows = np.arange(begin, min(begin + size, len(source)))
            steps += self._deal(generator, self._batches(rows, source, target))
        examples = datasets.Dataset.from_dict(plan).with_transform(self._render)
        return Epoch(examples, steps)

    def _plan(self, generator: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
        total = len(self._split.positions("train")[0])
        counts = np.maximum(np.round(self.shares * total), 1).astype(int)
        columns: dict[str, list[npt.NDArray[np.int64]]] = {}
        for t, count in enumerate(counts):
            users, positions = self._rows[t]
            rounds = [generator.permutation(len(users)) for _ in range(-(-count // len(users)))]
            chosen = np.concatenate(rounds)[:count]
            weights = np.array([template.weight for template in self._templates[t]])
            drawn = {
                "task": np.full(count, t),
                "template": generator.choice(len(weights), count, p=weights / weights.sum()),
                "user": users[chosen],
                "position": positions[chosen],
                "draw": generator.integers(0, 2**31, count),
            }
            for name, values in drawn.items():
                columns.setdefault(name, []).append(values)
        order = generator.permutation(int(counts.sum()))
        return {name: np.concatenate(parts)[order] for name, parts in columns.items()}

    def _prompt(self, t: int, m: int, user: int, position: int, draw: int) -> Prompt:
        asked = self.tasks[t].asked(self._split, user, position)
        state = self._split.histories.state(user, position)
        return self._prompter.render(self._templates[t][m], state, asked, draw)

    def _render(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Renders and tokenises the rows that are read."""
        names = ("task", "template", "user", "position", "draw")
        prompts = [self._prompt(*row) for row in zip(*(rows[n] for n in names), strict=True)]
        return {
            "input_ids": [self._encode(prompt.source) for prompt in prompts],
            "labels": [self._encode(prompt.target) for prompt in prompts],
            "task": list(rows["task"]),
        }

    def _history(
        self, t: int, m: int, positions: npt.NDArray[np.int64], draws: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many items a template writes into its source and into its target, each example."""
        template = self._templates[t][m]
        settings = self._prompter.settings
        kept = np.minimum(positions, settings.max_history)
        cut = np.zeros_like(kept)
        if "recent" in template.slots:
            cut = draws % (np.minimum(kept, settings.max_recent) + 1)
        listed = bool(template.slots & {"history", "latest"})
        return (kept - cut if listed else np.zeros_like(kept)), cut

    def _measure(self, t: int, template: PromptTemplate) -> tuple[float, float, float]:
        """Tokens of a template without its list of items, source and target, and of one item."""
        m = self._templates[t].index(template)
        generator = np.random.default_rng([self._seed, t, m])
        users, positions = self._rows[t]
        rows = generator.integers(0, len(users), _SAMPLES_A_TEMPLATE)
        draws = generator.integers(0, 2**31, _SAMPLES_A_TEMPLATE)
        written, cut = self._history(t, m, positions[rows], draws)
        codes = self._prompter.catalogue.code_texts
        some = [codes[i] for i in generator.integers(0, len(codes), _SAMPLES_A_TEMPLATE)]
        item = len(self._encode(template.separator.join(some))) / len(some)
        lengths = [
            (len(self._encode(prompt.source)), len(self._encode(prompt.target)))
            for row, draw in zip(rows, draws, strict=True)
            for prompt in [self._prompt(t, m, int(users[row]), int(positions[row]), int(draw))]
        ]
        source, target = np.array(lengths).T
        return (
            float((source - written * item).mean()),
            float((target - cut * item).mean()),
            float(item),
        )

    def _estimate(
        self, plan: Mapping[str, npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens of each planned example, source and target, without rendering it."""
        source, target = np.zeros(len(plan["task"])), np.zeros(len(plan["task"]))
        for (t, m), (start, answer, item) in self._lengths.items():
            own = (plan["task"] == t) & (plan["template"] == m)
            written, cut = self._history(t, m, plan["position"][own], plan["draw"][own])
            source[own] = start + written * item
            target[own] = answer + cut * item
        return np.ceil(source).astype(np.int64), np.ceil(target).astype(np.int64)

    def _batches(
        self,
        rows: npt.NDArray[np.int64],
        source: npt.NDArray[np.int64],
        target: npt.NDArray[np.int64],
    ) -> list[list[int]]:
        """Examples of like length side by side, as many a batch as its budget of tokens holds."""
        rows = rows[np.lexsort((source[rows], target[rows]))]
        batches: list[list[int]] = [[]]
        widest = longest = 0
        lengths = zip(rows.tolist(), source[rows].tolist(), target[rows].tolist(), strict=True)
        for row, s, t in lengths:
            widest, longest = max(widest, s), max(longest, t)
            if batches[-1] and (widest + longest) * (len(batches[-1]) + 1) > self._tokens_per_batch:
                batches.append([])
                widest, longest = s, t
            batches[-1].append(row)
        return batches

    def _deal(
        self, generator: np.random.Generator, batches: list[list[int]]
    ) -> list[list[list[int]]]:
        """Deals batches, sorted by length, into steps that each get short and long ones."""
        strata = np.array_split(np.arange(len(batches)), self._batches_per_step)
        shuffled = [generator.permutation(stratum).tolist() for stratum in strata]
        steps = []
        for s in generator.permutation(len(strata[0])).tolist():
            own = [stratum[s] for stratum in shuffled if s < len(stratum)]
            # Every process needs a batch: the last step of a pool is filled up from itself.
            filled = [own[i % len(own)] for i in range(self._batches_per_step)]
            steps.append([batches[i] for i in filled])
        return steps
