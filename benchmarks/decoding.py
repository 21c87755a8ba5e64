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
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from catalogue_sizes import catalogue_sizes
from measuring import (
    BEAMS,
    COMPACT,
    CPU,
    END,
    SHARED,
    Codes,
    K,
    Rows,
    best_of,
    make_model,
    matmul_speed,
    padded,
)
from sentencepiece import SentencePieceProcessor
from transformers import T5ForConditionalGeneration

from p5_t5.decoding.beam_search import NO_ITEM, beam_search
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors, build_trie

BATCH_SIZES = (1, 16, 64)
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6}


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
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
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
