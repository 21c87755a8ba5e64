"""The gradients of a step's batches, worked out side by side on the cores of a CPU.

The products of a compact model are too small to be shared out well among cores. A step has several
batches, though, and these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from p5_t5.modeling.dropout import drawing_from
from p5_t5.modeling.p5 import P5ForConditionalGeneration

Batch = Mapping[str, torch.Tensor]


class SideBySide:
    """Gradients of several batches at once, the same ones whatever thread is done first."""

    def __init__(self, model: P5ForConditionalGeneration, seed: int) -> None:
        """Uses the threads that torch has by now.

        Args:
            model: on a CPU; stays in the mode that it is in.
            seed: of its dropout, with the numbers of step and batch, so that a run that is resumed
                draws what it would have drawn.
        """
        self._model, self._seed, self._threads = model, seed, torch.get_num_threads()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
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
        # What few batches leave over is shared within their products.
        torch.set_num_threads(max(self._threads // len(batches), 1))
        try:
            numbers = [(step, batch) for batch in range(len(batches))]
            for gradients, sums in self._pool.map(self._gradients, batches, weights, numbers):
                # In the order of the batches: the sum of floats depends on it.
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if gradient is None:
                        continue
                    if parameter.grad is None:
                        parameter.grad = gradient
                    else:
                        parameter.grad += gradient
                every.append(sums)
        finally:
            torch.set_num_threads(self._threads)
        return every

    def _gradients(
        self, batch: Batch, weights: torch.Tensor, number: tuple[int, int]
    ) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor]:
        """The gradients of one batch's loss, and the plain sums of its examples."""
        (seed,) = np.random.SeedSequence([self._seed, *number]).generate_state(1, np.uint64)
        with drawing_from(torch.Generator().manual_seed(int(seed))):
            loss, sums = self._model(**batch, weights=weights)
        return torch.autograd.grad(loss, self._parameters, allow_unused=True), sums
