"""Decoding for catalogues up to a million items: time a user, with masks, and building the trie.

A part of ``benchmarks/decoding.py``. Alone, with a number of items and of tokens a level, it
prints what building one trie costs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import BEAMS, COMPACT, CPU, END, Codes, K, best_of, make_model, padded
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.beam_search import beam_search
from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.trie import TrieTensors, build_trie

SIZES = (1_000, 10_000, 100_000, 1_000_000)
USERS = 64


def catalogue_sizes(options: argparse.Namespace) -> dict[str, float]:
    """Time a user and with masks, for catalogues up to a million items."""
    model = make_model(COMPACT, 2 + 4 * 256)
    sizes = [size for size in SIZES if size <= options.largest]
    # A full tree needs all four tokens whatever its size. Among 256 tokens a level two tell 10,000
    # items apart and the rest costs nothing, so few items are faster for that reason.
    cases = [(size, math.ceil(size**0.25)) for size in sizes]
    cases += [(size, 256) for size in sizes[1::2]]
    searches = [search for case in cases for search in free_and_masked(model, fixed_codes(*case))]
    # Turn about, so that no case has the quieter minutes.
    rounds = [[best_of(1, search) for search in searches] for _ in range(12 * options.repeats)]
    times = np.array(rounds).reshape(len(rounds), len(cases), 2)
    free, slower = times[..., 0], np.median(times[..., 1] / times[..., 0], axis=0)
    least = dict(zip(cases, free.min(axis=0) * 1e3 / USERS, strict=True))
    print("| items | tokens a level | ms a user | with masks | build, s | build, MB | trie, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for case, ratio in zip(cases, slower, strict=True):
        cost = build_cost_apart(*case)
        print(
            f"| {case[0]:,} | {case[1]} | {least[case]:.2f} | {ratio - 1:+.1%} | "
            f"{cost['seconds']:.1f} | {cost['mb']:.0f} | {cost['trie_mb']:.0f} |",
            flush=True,
        )
    print()
    if options.largest < SIZES[-1]:
        return {"mask_slowdown": float(slower[: len(sizes)].max())}
    whole, sparse = (
        float(np.median(free[:, cases.index(large)] / free[:, cases.index(small)]))
        for small, large in ((cases[1], cases[3]), (cases[4], cases[5]))
    )
    results = {
        "mask_slowdown": float(slower[:4].max()),
        "mask_slowdown_256_wide": float(slower[4:].max()),
        "time_ratio_1m_over_10k": whole,
        "time_ratio_1m_over_10k_256_wide": sparse,
        "build_1m_seconds": cost["seconds"],
        "build_1m_mb": cost["mb"],
    }
    print(
        f"1M over 10k items: {whole:.2f} times the time a user, {sparse:.2f} times with 256 "
        "tokens a level; 1,000 seen items and a 10% allow list: at most "
        f"{results['mask_slowdown'] - 1:+.1%}, {results['mask_slowdown_256_wide'] - 1:+.1%}\n"
    )
    return results


def fixed_codes(items: int, width: int) -> Codes:
    """Different codes of four tokens, drawn at random from so many tokens a level."""
    numbers = np.random.default_rng(0).choice(width**4, items, replace=False)
    levels = [2 + level * 256 + numbers // width**level % width for level in range(4)]
    return [tuple(row) for row in np.stack(levels, axis=1).tolist()]


def free_and_masked(
    model: T5ForConditionalGeneration, codes: Codes
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A search without masks, and one with 1,000 seen items a user and a tenth in stock."""
    generator = np.random.default_rng(0)
    batch, size = padded(generator.integers(2, 1024, (USERS, 40)).tolist()), len(codes)
    trie = TrieTensors(build_trie(codes, END), CPU)
    seen = [generator.choice(size, min(1000, size // 4)).astype(np.int32) for _ in range(USERS)]
    # What is in stock is one condition for all, worked out once; what was seen is not.
    stock = LegalLeaves.allow(trie, torch.from_numpy(generator.random(size) < 0.1))

    def free() -> object:
        return beam_search(model, trie, *batch, k=K, beams=BEAMS)

    def masked() -> object:
        return beam_search(model, trie, *batch, k=K, beams=BEAMS, allowed=stock.deny(seen))

    free()  # warm
    return free, masked


def build_cost_apart(items: int, width: int) -> dict[str, float]:
    """What building a trie costs, in a process of its own."""
    command = [sys.executable, __file__, str(items), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def build_cost(codes: Codes) -> dict[str, float]:
    """Seconds and the most memory that building a trie adds to its codes, and what it holds."""
    TrieTensors(build_trie(codes[:1000], END), CPU)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    began = time.perf_counter()
    trie = TrieTensors(build_trie(codes, END), CPU)
    seconds = time.perf_counter() - began
    peak = memory("VmHWM") - before
    arrays = [tensor for tensor in vars(trie).values() if isinstance(tensor, torch.Tensor)]
    held = sum(array.numel() * array.element_size() for array in arrays)
    return {"seconds": seconds, "mb": peak / 1024, "trie_mb": held / 2**20}


def memory(name: str) -> int:
    """A line of this process's memory, in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    print(json.dumps(build_cost(fixed_codes(int(sys.argv[1]), int(sys.argv[2])))))
