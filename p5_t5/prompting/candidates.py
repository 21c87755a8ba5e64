"""What is drawn for a prompt: other items, another star, the masked spans of a history.

Negatives are drawn evenly from the items outside the user's history. While training that is what
training shows of it, so that a held-out item is as often wrong as any other, and they follow from
the number that each example draws. When a model is judged it is the whole history, and they follow
from the user alone, so that every template that chooses, ranks or says yes and no is judged by the
same candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from p5_t5.data.splits import Split
from p5_t5.prompting.prompter import Asked, PromptSettings
from p5_t5.prompting.rating_jitter import jittered
from p5_t5.prompting.span_corruption import span_mask
from p5_t5.prompting.tasks import Task
from p5_t5.prompting.templates import AnswerKind

Rows = npt.NDArray[np.int64]


class Candidates:
    """Draws candidates and proposals for the interactions of one data set."""

    def __init__(
        self,
        split: Split,
        num_items: int,
        ratings: Sequence[float],
        settings: PromptSettings,
        *,
        jitter: bool = False,
        spared: bool = False,
    ) -> None:
        """Keeps what is drawn from.

        Args:
            split: the data.
            num_items: the size of the catalogue.
            ratings: the stars that a question may put forward.
            settings: how many candidates there are.
            jitter: whether stars to learn are drawn around the true ones.
            spared: whether a held-out item is never a negative of its user while training either.
        """
        self.num_items, self.settings = num_items, settings
        self._jitter, self._spared = jitter, spared
        self._split, self._ratings = split, np.array(ratings, dtype=np.float64)

    def asked(
        self, task: Task, kind: AnswerKind, user: int, position: int, draw: int | None = None
    ) -> Asked:
        """What is asked about one interaction, answer included.

        Args:
            task: whose prompt it is.
            kind: of the answer that the prompt asks for.
            user: the user's number.
            position: of the interaction in the user's order.
            draw: the example's random number while training, ``None`` when judging.
        """
        asked = task.asked(self._split, user, position)
        assert asked.item is not None
        if self._jitter and kind.form == "stars" and draw is not None and asked.rating is not None:
            return replace(asked, rating=jittered(asked.rating, draw))
        if kind.form == "choice" and (kind.listed or draw is None):
            return replace(asked, candidates=self.among(user, asked.item, draw))
        generator = _generator(user, draw)
        if kind.corrupts:
            length = min(position + 1, self.settings.max_history)
            return replace(asked, mask=span_mask(length, generator))
        if kind.proposes is None:
            return asked
        agreed = bool(generator.random() < 0.5)
        if kind.proposes == "item":
            others = self._negatives(user, asked.item, 1, generator, draw is not None)
            agreed |= not len(others)
            # What is told of the item must not differ by whether it is the true one.
            item = asked.item if agreed else int(others[0])
            return replace(asked, item=item, agreed=agreed, usual=None)
        stars = self._ratings[self._ratings != asked.rating]
        agreed |= not len(stars)
        star = asked.rating if agreed else float(generator.choice(stars))
        return replace(asked, star=star, agreed=agreed)

    def among(self, user: int, item: int, draw: int | None = None) -> Rows:
        """The candidates of a user, one item that was taken among them, in a drawn order.

        Args:
            user: the user's number.
            item: the right answer.
            draw: see ``asked``.

        Returns:
            Rows of the catalogue, each once, shape (candidates,); fewer than the setting says
            where the catalogue has too few other items.
        """
        generator = _generator(user, draw)
        count = self.settings.candidates - 1
        negatives = self._negatives(user, item, count, generator, draw is not None)
        return generator.permutation(np.append(negatives, item))

    def _negatives(
        self, user: int, item: int, count: int, generator: np.random.Generator, training: bool
    ) -> Rows:
        """Items but this one that the user doesn't have, at most ``count``, each once."""
        begin, end = self._split.histories.offsets[user : user + 2]
        if training and not self._spared:
            # What is never wrong would be known to be right one day.
            end = begin + self._split.train_lengths[user]
        own = {item, *self._split.histories.items[begin:end].tolist()}
        # Of so many different items enough are left when the user's own ones are taken out.
        drawn = generator.choice(self.num_items, min(count + len(own), self.num_items), False)
        # Lists are this short that numpy's own set functions take five times as long.
        return np.array(
            [item for item in drawn.tolist() if item not in own][:count], dtype=np.int64
        )


def _generator(user: int, draw: int | None) -> np.random.Generator:
    return np.random.default_rng([0, user] if draw is None else [1, draw])
