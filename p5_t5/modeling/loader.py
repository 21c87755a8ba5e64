"""The batches of each step, made ready while the step before is still at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from p5_t5.modeling.collator import Collator
from p5_t5.modeling.forked import Forked, can_fork
from p5_t5.prompting.mixture import Mixture

Batch = dict[str, torch.Tensor]


class Loader:
    """Renders, tokenises and pads the batches of a mixture, endlessly."""

    def __init__(
        self, mixture: Mixture, collate: Collator, *, index: int = 0, processes: int = 1
    ) -> None:
        """Nothing is rendered yet.

        Args:
            mixture: plans the epochs.
            collate: pads the examples of a batch.
            index: of this process.
            processes: that share each step's batches.
        """
        self._mixture, self._collate = mixture, collate
        self._index, self._processes = index, processes

    def steps(self, begin: int = 0) -> Iterator[list[Batch]]:
        """This process's batches of each step, from a step on, each made one step ahead.

        A process of its own makes them where one can be forked, a thread elsewhere. Nothing that
        it does draws from a generator that the model uses.
        """
        batches = self._batches(begin)
        coming: Forked | _Thread = (Forked if can_fork() else _Thread)(partial(next, batches))
        coming.start()
        while True:
            step = coming.result()
            coming.start()
            yield list(step)

    def _batches(self, begin: int) -> Iterator[list[Batch]]:
        skip, number = begin, 0
        while True:
            epoch = self._mixture.epoch(number)
            number += 1
            if skip >= len(epoch.steps):
                skip -= len(epoch.steps)
                continue
            own = [step[self._index :: self._processes] for step in epoch.steps[skip:]]
            skip = 0
            examples: Any = epoch.examples
            # A loader draws a seed when it starts; from the global generator that would shift all
            # dropout after a resumption.
            loader = iter(
                DataLoader(
                    examples,
                    batch_sampler=[batch for step in own for batch in step],
                    collate_fn=self._collate,
                    generator=torch.Generator(),
                )
            )
            for step in own:
                yield [next(loader) for _ in step]


class _Thread:
    """What ``Forked`` is, as a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._pool = work, ThreadPoolExecutor(1, "loader")

    def start(self) -> None:
        self._coming = self._pool.submit(self._work)

    def result(self) -> Any:
        return self._coming.result()
