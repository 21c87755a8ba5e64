"""The gradients of a step's batches, worked out side by side on the cores of a CPU.

The products of a compact model are too small to be shared out well among cores. A step has several
batches, though, and these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from p5_t5.modeling.dropout import drawing_from
from p5_t5.modeling.forked import Forked, can_fork, shared_like
from p5_t5.modeling.p5 import P5ForConditionalGeneration

Batch = Mapping[str, torch.Tensor]
# A batch, the weights of its labels, the numbers of step and batch.
_Piece = tuple[Batch, torch.Tensor, int, int]
# Of a batch: gradients, nothing where a parameter has none, and the plain sums of the examples.
_Found = tuple[Sequence[torch.Tensor | None], torch.Tensor]


class SideBySide:
    """Gradients of several batches at once, the same ones whatever is done first."""

    def __init__(self, model: P5ForConditionalGeneration, seed: int, batches: int) -> None:
        """Uses as many processes as torch has threads by now, or threads where none can be forked.

        Args:
            model: on a CPU, in float32; stays in the mode that it is in. Where processes are
                forked its parameters move to memory that these share.
            seed: of its dropout, with the numbers of step and batch, so that a run that is resumed
                draws what it would have drawn.
            batches: of a step, at most.
        """
        self.model, self._seed, self._threads = model, seed, torch.get_num_threads()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._processes: list[_Process] = []
        sides = min(self._threads, batches)
        if sides > 1 and can_fork():
            for parameter in self.parameters:
                parameter.data = shared_like(parameter).copy_(parameter.data)
            self._processes = [_Process(self, -(-batches // sides)) for _ in range(1, sides)]
        self._pool = ThreadPoolExecutor(self._threads, "side-by-side")

    def backward(
        self, batches: Sequence[Batch], weights: Sequence[torch.Tensor], step: int
    ) -> list[torch.Tensor]:
        """Puts the gradients of all batches' losses, summed, where the optimiser looks for them.

        Args:
            batches: what the model reads of each.
            weights: of each batch's labels, shape (examples, longest target) each.
            step: the number of the step.

        Returns:
            The plain sums of each batch's examples, as ``training.target_loss`` gives them.
        """
        every: list[torch.Tensor] = []
        pieces = [
            (batch, own, step, number)
            for number, (batch, own) in enumerate(zip(batches, weights, strict=True))
        ]
        found = self._by_processes(pieces) if self._processes else self._by_threads(pieces)
        for gradients, sums in found:
            # In the order of the batches: the sum of floats depends on it.
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
            every.append(sums)
        return every

    def _by_threads(self, pieces: Sequence[_Piece]) -> Iterable[_Found]:
        # What few batches leave over is shared within their products.
        with _threads(max(self._threads // len(pieces), 1)):
            yield from self._pool.map(self.gradients, pieces)

    def _by_processes(self, pieces: Sequence[_Piece]) -> Iterable[_Found]:
        sides = len(self._processes) + 1
        found: list[Any] = [None] * len(pieces)
        for number, process in enumerate(self._processes, 1):
            process.forked.start(self.model.training, pieces[number::sides])
        try:
            with _threads(1):
                found[::sides] = map(self.gradients, pieces[::sides])
        finally:
            for number, process in enumerate(self._processes, 1):
                found[number::sides] = process.results()
        return found

    def gradients(self, piece: _Piece) -> _Found:
        """The gradients of one batch's loss, and the plain sums of its examples."""
        batch, weights, *number = piece
        (seed,) = np.random.SeedSequence([self._seed, *number]).generate_state(1, np.uint64)
        with drawing_from(torch.Generator().manual_seed(int(seed))):
            loss, sums = self.model(**batch, weights=weights)
        return torch.autograd.grad(loss, self.parameters, allow_unused=True), sums


class _Process:
    """A process that works out the gradients of pieces and leaves them in shared memory."""

    def __init__(self, side: SideBySide, most: int) -> None:
        """Forks; there are at most so many pieces at a time."""
        self.rooms = [[shared_like(p) for p in side.parameters] for _ in range(most)]
        self.forked = Forked(partial(_leave, side, self.rooms))

    def results(self) -> Iterable[_Found]:
        """Waits for the pieces; the gradients are good until the next ones are begun."""
        for room, (given, sums) in zip(self.rooms, self.forked.result(), strict=False):
            yield [own if has else None for own, has in zip(room, given, strict=True)], sums


def _leave(
    side: SideBySide,
    rooms: Sequence[Sequence[torch.Tensor]],
    training: bool,
    pieces: Sequence[_Piece],
) -> list[tuple[list[bool], torch.Tensor]]:
    """Puts gradients where the parent finds them; gives which there are, and the sums."""
    side.model.train(training)
    found = []
    for piece, room in zip(pieces, rooms, strict=False):
        gradients, sums = side.gradients(piece)
        for own, gradient in zip(room, gradients, strict=True):
            if gradient is not None:
                own.copy_(gradient)
        found.append(([gradient is not None for gradient in gradients], sums))
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
