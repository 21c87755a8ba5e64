"""Which example with which template at which step: seeded, lazy and resumable.

An epoch is planned as arrays before anything is rendered: the plan follows from the seed and the
epoch's number alone, so a run that resumes at a step sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from p5_t5.data.histories import UserState
from p5_t5.prompting.corpus import Corpus
from p5_t5.prompting.fragments import Cut, Fragments, Noise
from p5_t5.prompting.prompter import Asked, Prompt, Value
from p5_t5.prompting.sampling import (
    counts_by_share,
    counts_by_source_row,
    draw_rows,
    draw_users,
    draw_weighted,
    list_weights,
)
from p5_t5.prompting.span_corruption import span_counts
from p5_t5.prompting.steps import deal, like_length
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import (
    ANSWERED_SLOTS,
    COMPARED_SLOTS,
    OLDER_SLOTS,
    RATED_SLOTS,
    RECENT_SLOTS,
    PromptTemplate,
)

Rows = npt.NDArray[np.int64]

# The random number of an example is below it.
_DRAWS = 2**31
# How many steps' examples are sorted by length together: enough for little padding, few enough for
# chance.
_STEPS_A_POOL = 32
_SAMPLES_A_TEMPLATE = 32
# What is given at prediction and was never an answer need hardly be learnt: in a list of stars it
# is the items, which would have most of its loss. Without it such lists are learnt by heart sooner.
_ANSWER, _GIVEN_WEIGHT = 1.0, 0.2
# Where words are noisy, this share of the prompts keeps none of its own: what they ask must also be
# read from what fills them. A wording with an end that nothing trained has, "Continue.", had cost
# 40% of RMSE.
_WORDLESS = 0.1


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


@dataclass(frozen=True)
class _Lengths:
    """Tokens of a template: without its lists and its review, and of an item and a word in these.

    A target can have less between its items than a source. ``answers`` is how many tokens of the
    whole target are answers, in the mean.
    """

    source: float
    target: float
    item: float
    answered: float
    word: float
    answers: float


class Mixture:
    """Draws training examples of all tasks in given shares."""

    def __init__(
        self,
        corpus: Corpus,
        cut: Cut,
        end: Any,
        *,
        tokens_per_batch: int,
        batches_per_step: int,
        seed: int,
        word_noise: float = 0.0,
        rating_dropout: float = 0.0,
    ) -> None:
        """Finds the examples of each task and measures the templates.

        Args:
            corpus: data, prompts and shares; held-out templates are never drawn.
            cut: text to token ids, word by word.
            end: is put at the end of each.
            tokens_per_batch: a batch holds at most so many tokens, padding included.
            batches_per_step: so many batches make one step, over all processes.
            seed: of the plan.
            word_noise: the share of a prompt's own words that are left out or changed, on average;
                from none to twice as many are in one example, and all in every tenth.
            rating_dropout: the share of a user's interactions that a list of stars leaves out, on
                average; from none to twice as many in one example.

        Raises:
            ValueError: a task has no template or no training example, or no share is above 0.
        """
        self._split, self._prompter, self._end = corpus.split, corpus.prompter, end
        self._fragments = Fragments(cut, corpus.catalogue.code_texts)
        self._tokens_per_batch, self._batches_per_step = tokens_per_batch, batches_per_step
        self._seed = seed
        self.tasks = [task for task, share in corpus.tasks if share > 0]
        if not self.tasks:
            raise ValueError("no task has a share above 0")
        shares = np.array([share for _, share in corpus.tasks if share > 0], dtype=float)
        self.shares = shares / shares.sum()
        self._candidates = corpus.candidates
        self._templates = [self._seen(task, corpus.templates) for task in self.tasks]
        total = len(self._split.positions("train")[0])
        self._counts = counts_by_share(self.shares, total)
        self._as_counted = corpus.protocol.sampling_counts
        if self._as_counted:
            self._counts = counts_by_source_row(self.tasks, self._templates, self._split)
            self.shares = self._counts / self._counts.sum()
        # The rows that a template may ask about, shared by all with the same needs.
        self._rows = [
            {t.needs: task.examples(self._split, "train", t.needs) for t in own}
            for task, own in zip(self.tasks, self._templates, strict=True)
        ]
        self._word_noise, self._rating_dropout = word_noise, rating_dropout
        # A list is asked for what comes after the last item that training shows, so it must not be
        # learnt that nothing does. Only a search without a constraint has to see the end.
        self._endless = not corpus.protocol.unconstrained_decoding
        own_words = {
            tuple(word)
            for own in self._templates
            for template in own
            for word in self._fragments.words(template.source_parts)
        }
        self._words = sorted(own_words)
        self._lengths = {
            (t, m): self._measure(t, m)
            for t, own in enumerate(self._templates)
            for m in range(len(own))
        }

    def _seen(self, task: Task, templates: Sequence[PromptTemplate]) -> list[PromptTemplate]:
        """The templates of a task that training can draw."""
        own = [t for t in templates if t.family == task.name and not t.heldout]
        if not own:
            raise ValueError(f"no template of the family {task.name!r} can be used for training")
        asked = [t for t in own if len(task.examples(self._split, "train", t.needs)[0])]
        if not asked:
            raise ValueError(f"the data set has no training example for the task {task.name!r}")
        return asked

    def sample(self, count: int) -> list[Prompt]:
        """Rendered examples of a plan of their own, such as a tokenizer learns from."""
        plan = self._plan(np.random.default_rng([self._seed, 2**32 - 1]))
        chosen = {name: values[:count].tolist() for name, values in plan.items()}
        return [self.prompt(*row) for row in zip(*chosen.values(), strict=True)]

    def epoch(self, number: int) -> Epoch:
        """Plans one epoch: as many examples as there are training interactions.

        With P5's sampling counts it has those.
        """
        generator = np.random.default_rng([self._seed, number])
        plan = self._plan(generator)
        source, target = self._estimate(plan)
        # About as many examples as make _STEPS_A_POOL steps are sorted by length together.
        step = self._tokens_per_batch * self._batches_per_step / float((source + target).mean())
        size = max(int(_STEPS_A_POOL * step), 1)
        steps: list[list[list[int]]] = []
        for begin in range(0, len(source), size):
            rows = np.arange(begin, min(begin + size, len(source)))
            batches = like_length(rows, source[rows], target[rows], self._tokens_per_batch)
            steps += deal(generator, batches, self._batches_per_step)
        examples = datasets.Dataset.from_dict(plan).with_transform(self._render)
        return Epoch(examples, steps)

    def _plan(self, generator: np.random.Generator) -> dict[str, Rows]:
        columns: dict[str, list[Rows]] = {}
        for t, count in enumerate(self._counts.tolist()):
            own = self._templates[t]
            weights = np.array([1.0 if self._as_counted else template.weight for template in own])
            chosen = generator.choice(len(weights), count, p=weights / weights.sum())
            users, positions = self._draw_rows(generator, t, chosen)
            drawn = {
                "task": np.full(count, t),
                "template": chosen,
                "user": users,
                "position": positions,
                "draw": generator.integers(0, _DRAWS, count),
            }
            for name, values in drawn.items():
                columns.setdefault(name, []).append(values)
        order = generator.permutation(int(self._counts.sum()))
        return {name: np.concatenate(parts)[order] for name, parts in columns.items()}

    def _draw_rows(
        self, generator: np.random.Generator, t: int, templates: Rows
    ) -> tuple[Rows, Rows]:
        """Users and positions for drawn templates: all rows before any comes again.

        Those that answer a whole list draw rows so that each is in as many lists. With P5's
        sampling counts it is all users of a task about histories.
        """
        by_user = self._as_counted and self.tasks[t].user_examples is not None
        alike = [
            (template.needs, bool(template.slots & ANSWERED_SLOTS) and not self._as_counted)
            for template in self._templates[t]
        ]
        drawn = np.empty((2, len(templates)), dtype=np.int64)
        for key in dict.fromkeys(alike):
            needs, listed = key
            users, positions = self._rows[t][needs]
            own = np.flatnonzero(np.isin(templates, [m for m, k in enumerate(alike) if k == key]))
            if by_user:
                chosen = draw_users(generator, users, len(own))
            elif listed:
                weights = list_weights(users, positions, self._prompter.settings.max_history)
                chosen = draw_weighted(generator, weights, len(own))
            else:
                chosen = draw_rows(generator, len(users), len(own))
            drawn[:, own] = users[chosen], positions[chosen]
        return drawn[0], drawn[1]

    def prompt(self, t: int, m: int, user: int, position: int, draw: int) -> Prompt:
        """The text of a planned example, given by the columns of its row in the plan."""
        state, asked = self._asked(t, m, user, position, draw)
        return self._prompter.render(self._templates[t][m], state, asked, draw)

    def _asked(
        self, t: int, m: int, user: int, position: int, draw: int
    ) -> tuple[UserState, Asked]:
        task, template = self.tasks[t], self._templates[t][m]
        asked = self._candidates.asked(task, task.kind(template), user, position, draw)
        histories = task.split(self._split).taught
        state = histories.state(user, position, task.skipped(position, draw))
        if template.slots & RATED_SLOTS and self._rating_dropout:
            generator = np.random.default_rng([7, draw])
            state = state.only(generator.random(len(state.items)) < self._kept(np.int64(draw)))
        return state, asked

    def _kept(self, draws: Rows | np.int64) -> npt.NDArray[np.float64]:
        """The share of a list of stars that an example tells."""
        return 1 - 2 * self._rating_dropout * np.asarray(draws / _DRAWS)

    def _tokens(
        self, t: int, m: int, user: int, position: int, draw: int
    ) -> tuple[list[Any], list[Any], list[float]]:
        """Source and target of one example as token ids, and how much of the target's is learnt."""
        template = self._templates[t][m]
        state, asked = self._asked(t, m, user, position, draw)
        values = self._prompter.values(template, state, asked, draw)
        encode, separator = self._fragments.encode, template.separator
        source = encode(template.source_parts, values, separator, self._noise(draw))
        target = [*encode(template.target_parts, values, separator), self._end]
        given = self._fragments.answers(template.given_parts, values, separator)
        learnt = [_ANSWER if answered else _GIVEN_WEIGHT for answered in given]
        learnt += [_ANSWER] * (len(target) - len(learnt))
        if "recent" in template.slots and self._endless:
            learnt[-1] = 0.0
        return [*source, self._end], target, learnt

    def _noise(self, draw: int) -> Noise | None:
        if not self._word_noise or not self._words:
            return None
        generator = np.random.default_rng([5, draw])
        rate = 2 * self._word_noise * float(generator.random())
        if generator.random() < _WORDLESS:
            rate = 1.0
        return Noise(self._words, rate, generator)

    def _render(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Renders and tokenises the rows that are read."""
        names = ("task", "template", "user", "position", "draw")
        sides = [self._tokens(*row) for row in zip(*(rows[n] for n in names), strict=True)]
        # By tokens alone, as in T5, a list of fifty stars would leave nothing to a question about
        # one; by examples alone, as in P5, a token of the list would hardly teach.
        weights = [
            self._lengths[key].answers ** -0.5
            for key in zip(rows["task"], rows["template"], strict=True)
        ]
        return {
            "input_ids": [source for source, _, _ in sides],
            "labels": [target for _, target, _ in sides],
            "task": list(rows["task"]),
            "weights": [
                [weight * part for part in learnt]
                for weight, (_, _, learnt) in zip(weights, sides, strict=True)
            ],
        }

    def _written(
        self, t: int, m: int, users: Rows, positions: Rows, draws: Rows
    ) -> tuple[Rows, Rows, Rows]:
        """What varies most in an example's length: items of source and target, words of a review.

        Returns:
            Three counts of shape (examples,).
        """
        template = self._templates[t][m]
        settings = self._prompter.settings
        told = positions
        if template.slots & RATED_SLOTS:
            told = np.round(positions * self._kept(draws)).astype(np.int64)
        kept = np.minimum(told, settings.max_history)
        if "masked" in template.slots:
            kept = np.minimum(positions + 1, settings.max_history)
            masked, spans = span_counts(kept)
            return kept - masked + spans, masked + spans, np.zeros_like(kept)
        cut, none = np.zeros_like(kept), np.zeros_like(kept)
        if template.slots & RECENT_SLOTS:
            cut = settings.cut(kept, draws)
        listed = bool(template.slots & OLDER_SLOTS)
        words = none
        if "review" in template.slots:
            rows = self._split.histories.offsets[users] + positions
            words = np.minimum(self._review_words[rows], settings.review_words)
        return (kept - cut if listed else none), cut, words

    @cached_property
    def _review_words(self) -> Rows:
        """How many words each interaction's review has, shape (interactions,)."""
        reviews = self._split.texts["review"]
        return np.array([len((review or "").split()) for review in reviews], dtype=np.int64)

    def _measure(self, t: int, m: int) -> _Lengths:
        """The tokens of a template, from a few rendered examples."""
        template = self._templates[t][m]
        generator = np.random.default_rng([self._seed, t, m])
        users, positions = self._draw_rows(generator, t, np.full(_SAMPLES_A_TEMPLATE, m))
        draws = generator.integers(0, _DRAWS, _SAMPLES_A_TEMPLATE)
        written, cut, words = self._written(t, m, users, positions, draws)
        items = len(self._prompter.catalogue)
        drawn: list[int] = generator.integers(0, items, _SAMPLES_A_TEMPLATE).tolist()
        some: dict[str, Value] = {"history": drawn}
        if template.slots & RATED_SLOTS:
            of_rows = self._split.histories.offsets[users] + positions
            given = self._split.histories.ratings[of_rows].tolist()
            usual = self._prompter.usual(drawn) if template.slots & COMPARED_SLOTS else None
            some = {"history": self._prompter.rated(drawn, given, usual)}
        separators = template.separator, " " if "spans" in template.slots else template.separator
        item, answered = (
            (len(self._fragments.encode((("", "history"),), some, separator)) + 1)
            / _SAMPLES_A_TEMPLATE
            for separator in separators
        )
        examples = list(zip(users.tolist(), positions.tolist(), draws.tolist(), strict=True))
        sides = [self._tokens(t, m, *example) for example in examples]
        source, target = (np.array([len(side[i]) for side in sides]) for i in (0, 1))
        word = 0.0
        if words.any():
            # Whatever a prompt is made of, its words are cut into about as many pieces each.
            plain = [len(self.prompt(t, m, *example).source.split()) for example in examples]
            word = float(source.sum() / sum(plain))
        return _Lengths(
            source=float((source - written * item - words * word).mean()),
            target=float((target - cut * answered).mean()),
            item=item,
            answered=answered,
            word=word,
            answers=float(np.mean([learnt.count(_ANSWER) for _, _, learnt in sides])),
        )

    def _estimate(self, plan: Mapping[str, Rows]) -> tuple[Rows, Rows]:
        """Tokens of each planned example, source and target, without rendering it."""
        source, target = np.zeros(len(plan["task"])), np.zeros(len(plan["task"]))
        for (t, m), lengths in self._lengths.items():
            own = (plan["task"] == t) & (plan["template"] == m)
            asked = (plan[name][own] for name in ("user", "position", "draw"))
            written, cut, words = self._written(t, m, *asked)
            source[own] = lengths.source + written * lengths.item + words * lengths.word
            target[own] = lengths.target + cut * lengths.answered
        return np.ceil(source).astype(np.int64), np.ceil(target).astype(np.int64)
