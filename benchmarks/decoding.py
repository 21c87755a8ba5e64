"""Constrained decoding, ours against Hugging Face's beam search, in one run.

python benchmarks/decoding.py           the tables
python benchmarks/decoding.py --json    and, as the last line, one JSON object

Same weights, same inputs, beam 20, 20 items, float32, each side at its own best batch size. The
histories and ids of Amazon Beauty (``--sequences``) and T5's sentencepiece model (``--spiece``)
are looked for beside the repository; without them the comparison with Hugging Face is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sentencepiece import SentencePieceProcessor
from transformers import T5Config, T5ForConditionalGeneration

from p5_t5.decoding.beam_search import NO_ITEM, beam_search
from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors, build_trie

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BEAMS = K = 20
BATCH_SIZES = (1, 16, 64)
COMPACT = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 4}
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6}
END = 1
CPU = torch.device("cpu")
Rows = list[list[int]]
Codes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Texts:
    """What is decoded.

    Attributes:
        sources: token ids of each request, sorted by length.
        codes: token ids of each item.
        vocabulary: how many tokens there are.
    """

    sources: Rows
    codes: Codes
    vocabulary: int

    def small(self, vocabulary: int) -> Texts:
        """The same pieces under consecutive numbers, for a model with a smaller vocabulary."""
        used = sorted({t for row in [*self.sources, *self.codes] for t in row} - {END})
        number = {token: i for i, token in enumerate(used, start=2)} | {END: END}
        assert len(number) + 2 <= vocabulary
        return Texts(
            [[number[t] for t in row] for row in self.sources],
            [tuple(number[t] for t in row) for row in self.codes],
            vocabulary,
        )


def main() -> None:
    """Measures everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=Path, default=SHARED / "p5_sequences" / "Beauty.txt")
    parser.add_argument("--spiece", type=Path, default=SHARED / "t5_sentencepiece" / "spiece.model")
    parser.add_argument("--users", type=int, default=512, help="requests of the compact models")
    parser.add_argument("--users_t5_small", type=int, default=64, help="requests of t5-small")
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many more is taken")
    parser.add_argument("--largest", type=int, default=1_000_000, help="the largest catalogue")
    parser.add_argument("--only", choices=["peer", "sizes", "lists"], help="one part alone")
    parser.add_argument("--lists", type=int, default=1_000_000, help="lists looked through")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--build", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build_cost(fixed_codes(*options.build))))
        return
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, float32\n"
    )
    results: dict[str, Any] = {}
    missing = [str(p) for p in (options.sequences, options.spiece) if not p.is_file()]
    if options.only in ("sizes", "lists"):
        print("Against Hugging Face: not asked for\n")
    elif missing:
        print(f"Against Hugging Face: left out, {' and '.join(missing)} is not here\n")
    else:
        results |= against_hugging_face(options)
    if options.only in (None, "sizes"):
        results |= catalogue_sizes(options)
    if options.only in (None, "lists"):
        results |= illegal_items(options.lists)
    if options.json:
        facts = {"torch": torch.__version__, "transformers": transformers.__version__}
        print(json.dumps(results | facts | {"threads": options.threads}))


def read_texts(sequences: Path, spiece: Path, users: int) -> Texts:
    """Prompts over real histories and the ids of all items, cut by T5's sentencepiece."""
    lines = [line.split() for line in sequences.read_text(encoding="utf-8").splitlines()]
    cut = SentencePieceProcessor(str(spiece)).encode
    items = sorted({item for _, *history in lines for item in history}, key=int)
    chosen = np.random.default_rng(0).permutation(len(lines))[:users]
    sources = [
        [*cut(f"user_{user} went through {' , '.join(history[-51:-1])} . What comes next?"), END]
        for user, *history in (lines[i] for i in chosen)
    ]
    return Texts(sorted(sources, key=len), [tuple(cut(item)) for item in items], 32128)


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


def against_hugging_face(options: argparse.Namespace) -> dict[str, float]:
    """Users a second of both, for three models."""
    texts = read_texts(options.sequences, options.spiece, options.users)
    few = read_texts(options.sequences, options.spiece, options.users_t5_small)
    cases = [
        ("compact_32k", COMPACT, texts),
        ("compact_4k", COMPACT, texts.small(4096)),
        ("t5_small", T5_SMALL, few),
    ]
    speed = matmul_speed()
    print(f"Matrix products of 2048 x 2048: {speed / 1e9:.0f} GFLOP/s\n")
    print(
        "| model | users | ours, ms a user (batch) | Hugging Face | times | of the matrix speed |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    results = {}
    for name, shape, asked in cases:
        model = make_model(shape, asked.vocabulary)
        ours, theirs = our_search(model, asked), hugging_face(model, asked)
        sides = fastest(options.repeats, (ours, theirs), asked.sources)
        (mine, my_batch), (other, their_batch) = sides
        share = necessary_operations(model, asked, ours) / mine / speed
        results[f"speedup_{name}"] = other / mine
        results[f"matmul_share_{name}"] = share
        ms = 1e3 / len(asked.sources)
        print(
            f"| {name} | {len(asked.sources)} | {mine * ms:.2f} ({my_batch}) | "
            f"{other * ms:.2f} ({their_batch}) | {other / mine:.1f} | {share:.0%} |",
            flush=True,
        )
    results["matmul_share_compact"] = results.pop("matmul_share_compact_32k")
    print()
    return results


def fastest(
    repeats: int, searches: Sequence[Callable[[Rows], object]], sources: Rows
) -> list[tuple[float, int]]:
    """For each side the seconds for all requests at its best batch size, and that size.

    The sides take turns, so that neither has the quieter minutes.
    """

    def seconds(search: Callable[[Rows], object], size: int) -> float:
        batches = [sources[begin : begin + size] for begin in range(0, len(sources), size)]
        return best_of(1, lambda: [search(batch) for batch in batches])

    for search in searches:
        search(sources[:16])  # warm
    tried = [[seconds(search, size) for search in searches] for size in BATCH_SIZES]
    best = [min(zip(times, BATCH_SIZES, strict=True)) for times in zip(*tried, strict=True)]
    for _ in range(repeats):
        again = [seconds(search, size) for search, (_, size) in zip(searches, best, strict=True)]
        best = [(min(old, new), size) for (old, size), new in zip(best, again, strict=True)]
    return best


def our_search(model: T5ForConditionalGeneration, texts: Texts) -> Callable[[Rows], object]:
    """Our search over the trie."""
    trie = TrieTensors(build_trie(texts.codes, END), CPU)
    return lambda rows: beam_search(model, trie, *padded(rows), k=K, beams=BEAMS)


def hugging_face(model: T5ForConditionalGeneration, texts: Texts) -> Callable[[Rows], object]:
    """``generate`` with ``prefix_allowed_tokens_fn``, which looks a beginning up in one step."""
    following: dict[tuple[int, ...], list[int]] = {}
    for code in texts.codes:
        for i, token in enumerate((*code, END)):
            following.setdefault((*code, END)[:i], []).append(token)
    following = {beginning: sorted(set(tokens)) for beginning, tokens in following.items()}

    def allowed(_: int, sentence: torch.Tensor) -> list[int]:
        return following.get(tuple(sentence.tolist()[1:]), [END])

    def search(rows: Rows) -> object:
        ids, mask = padded(rows)
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=BEAMS,
            num_return_sequences=K,
            max_new_tokens=max(map(len, texts.codes)) + 1,
            early_stopping=True,
            prefix_allowed_tokens_fn=allowed,
        )

    return search


def necessary_operations(
    model: T5ForConditionalGeneration, texts: Texts, search: Callable[[Rows], object]
) -> float:
    """Multiplications and additions that the answers need: no padding, no dead beam, no copy.

    Each request alone, so that its own live beams are counted and no others.
    """
    config = model.config
    width, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    total = 0.0
    read = TreeDecoder.read

    def counted(
        self: TreeDecoder, tokens: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        nonlocal total
        new = tokens.shape[1]
        sees = int(visible.sum())
        keys = self.cross[0][0].shape[1]
        layer = new * (6 * width * inner + 2 * width * ff) + 2 * inner * (sees + new * keys)
        total += 2 * config.num_decoder_layers * layer
        return read(self, tokens, positions, visible)

    trie = TrieTensors(build_trie(texts.codes, END), CPU)
    TreeDecoder.read = counted  # type: ignore[method-assign]
    try:
        for row in texts.sources:
            search([row])
            length = len(row)
            layer = length * (4 * width * inner + 2 * width * ff) + 2 * inner * length**2
            total += 2 * config.num_layers * layer
            total += 2 * config.num_decoder_layers * length * 2 * width * inner
            total += 2 * width * (len(trie.level_tokens[0]) + BEAMS * len(trie.level_tokens[1]))
    finally:
        TreeDecoder.read = read  # type: ignore[method-assign]
    return total


def fixed_codes(items: int, width: int) -> Codes:
    """Different codes of four tokens, drawn at random from so many tokens a level."""
    numbers = np.random.default_rng(0).choice(width**4, items, replace=False)
    levels = [2 + level * 256 + numbers // width**level % width for level in range(4)]
    return [tuple(row) for row in np.stack(levels, axis=1).tolist()]


def catalogue_sizes(options: argparse.Namespace) -> dict[str, float]:
    """Time a user and with masks, for catalogues up to a million items."""
    model = make_model(COMPACT, 2 + 4 * 256)
    sizes = [s for s in (1_000, 10_000, 100_000, 1_000_000) if s <= options.largest]
    print("| items | tokens a level | ms a user | with masks | build, s | build, MB | trie, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    times: dict[tuple[int, bool], float] = {}
    slowdown: dict[bool, float] = {}
    for full in (True, False):
        # A full tree needs all four tokens whatever its size. Among 256 tokens a level two tell
        # 10,000 items apart and the rest costs nothing, so few items are faster for that reason.
        for size in sizes if full else sizes[1::2]:
            width = math.ceil(size**0.25) if full else 256
            cost = build_cost_apart(size, width)
            plain, ratio = with_and_without_masks(model, fixed_codes(size, width), options.repeats)
            times[size, full] = plain
            slowdown[full] = max(slowdown.get(full, 1.0), ratio)
            print(
                f"| {size:,} | {width} | {plain:.2f} | {ratio - 1:+.1%} | "
                f"{cost['seconds']:.1f} | {cost['mb']:.0f} | {cost['trie_mb']:.0f} |",
                flush=True,
            )
    print()
    results = {
        "mask_slowdown": slowdown[True],
        "mask_slowdown_256_wide": slowdown.get(False, slowdown[True]),
    }
    if options.largest >= 1_000_000:
        whole, sparse = (times[1_000_000, w] / times[10_000, w] for w in (True, False))
        results |= {"time_ratio_1m_over_10k": whole, "time_ratio_1m_over_10k_256_wide": sparse}
        results |= {"build_1m_seconds": cost["seconds"], "build_1m_mb": cost["mb"]}
        print(
            f"1M over 10k items: {whole:.2f} times the time a user, {sparse:.2f} times with 256 "
            f"tokens a level; 1,000 seen items and a 10% allow list: at most "
            f"{slowdown[True] - 1:+.1%}, {slowdown[False] - 1:+.1%}\n"
        )
    return results


def with_and_without_masks(
    model: T5ForConditionalGeneration, codes: Codes, repeats: int
) -> tuple[float, float]:
    """What a user costs without masks, and how much more with them.

    Returns:
        Milliseconds a user, the least of all runs; and the median ratio of a run with 1,000 seen
        items for each user and a tenth in stock to the run just before it.
    """
    generator = np.random.default_rng(0)
    sources = generator.integers(2, 1024, (64, 40)).tolist()
    batch, size = padded(sources), len(codes)
    trie = TrieTensors(build_trie(codes, END), CPU)
    seen = [generator.choice(size, min(1000, size // 4)).astype(np.int32) for _ in sources]
    # What is in stock is one condition for all, worked out once; what was seen is not.
    stock = LegalLeaves.allow(trie, torch.from_numpy(generator.random(size) < 0.1))

    def free() -> None:
        beam_search(model, trie, *batch, k=K, beams=BEAMS)

    def masked() -> None:
        beam_search(model, trie, *batch, k=K, beams=BEAMS, allowed=stock.deny(seen))

    free()
    # Turn about, so that neither side has the quieter minute.
    pairs = np.array([(best_of(1, free), best_of(1, masked)) for _ in range(12 * repeats)])
    least = float(pairs[:, 0].min()) * 1e3 / len(sources)
    return least, float(np.median(pairs[:, 1] / pairs[:, 0]))


def build_cost_apart(items: int, width: int) -> dict[str, float]:
    """What building a trie costs, in a process of its own."""
    command = [sys.executable, __file__, "--build", str(items), str(width)]
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


def illegal_items(lists: int) -> dict[str, int]:
    """Decodes many lists with tiny models, codes and masks by chance, and looks at every item."""
    generator = np.random.default_rng(1)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1}
    illegal = twice = short = done = 0
    began = time.perf_counter()
    while done < lists:
        model = make_model(shape, 40)
        count, requests = int(generator.integers(2, 200)), min(8192, lists - done)
        codes = {
            tuple(generator.integers(2, 12, generator.integers(1, 5)).tolist())
            for _ in range(count)
        }
        trie = TrieTensors(build_trie(sorted(codes), END), CPU)
        legal = torch.from_numpy(generator.random((requests, len(codes))) < generator.random())
        some = torch.from_numpy(generator.integers(len(codes), size=requests))
        legal[torch.arange(requests), some] = True
        k = int(generator.integers(1, 12))
        ids = torch.from_numpy(generator.integers(2, 40, (requests, 4)))
        found = beam_search(
            model, trie, ids, torch.ones_like(ids), k=k, beams=int(generator.integers(1, 12)),
            allowed=legal, over_vocabulary=bool(generator.integers(2)),
        ).items  # fmt: skip
        named = found != NO_ITEM
        illegal += int((named & ~legal.gather(1, found.clamp(min=0))).sum())
        ordered = found.masked_fill(~named, -2).sort(dim=1).values
        twice += int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum())
        short += int((named.sum(1) != legal.sum(1).clamp(max=k)).sum())
        done += requests
    print(
        f"{done:,} lists in {time.perf_counter() - began:.0f} s: {illegal} illegal items, {twice} "
        f"named twice, {short} lists shorter than they could be"
    )
    return {"illegal_items": illegal, "items_named_twice": twice, "short_lists": short}


if __name__ == "__main__":
    main()
