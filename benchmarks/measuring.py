"""What the benchmarks share: where data is, models with random weights, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BEAMS = K = 20
COMPACT = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 4}
END = 1
CPU = torch.device("cpu")
Rows = list[list[int]]
Codes = list[tuple[int, ...]]


def make_model(shape: dict[str, int], vocabulary: int) -> T5ForConditionalGeneration:
    """A T5 with random weights."""
    config = T5Config(
        vocab_size=vocabulary, decoder_start_token_id=0, pad_token_id=0, eos_token_id=END, **shape
    )
    return T5ForConditionalGeneration(config).eval()


def padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of a batch."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, (ids != 0).long()


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def matmul_speed() -> float:
    """The machine's speed in large matrix products, in operations a second."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / best_of(10, lambda: a @ a)
