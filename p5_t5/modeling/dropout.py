"""Dropout that doesn't hold a CPU up.

torch draws one Bernoulli number for each element; that takes a third of a small T5's training step.
Eight elements can share one 64-bit draw when the rate is a multiple of 1/256.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_STEPS = 256


class _Drawing(threading.local):
    """Which generator this thread draws from; torch's own if none."""

    generator: torch.Generator | None = None


_DRAWING = _Drawing()


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """This thread's dropout on a CPU draws from a generator of its own."""
    before, _DRAWING.generator = _DRAWING.generator, generator
    try:
        yield
    finally:
        _DRAWING.generator = before


class ByteDropout(nn.Dropout):
    """``nn.Dropout`` whose rate is rounded to a multiple of 1/256 on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zeroes elements at random while training and scales the others up, any shape."""
        cut = round(self.p * _STEPS)
        if not self.training or cut in (0, _STEPS) or input.device.type != "cpu":
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 8), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=_DRAWING.generator)
        values = draws.view(torch.uint8)[: input.numel()].view(input.shape).to(input.dtype)
        # 1 from cut on, else 0: comparing bytes takes torch five times as long.
        kept = values.sub_(cut - 1).clamp_(0, 1)
        return input * kept.mul_(_STEPS / (_STEPS - cut))


def use_byte_dropout(module: nn.Module) -> None:
    """Replaces every ``nn.Dropout`` below a module."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, ByteDropout(child.p))
