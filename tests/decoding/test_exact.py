"""Exact scores against teacher forcing, against the widest beam, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from p5_t5.decoding.beam_search import beam_search
from p5_t5.decoding.encoder import Encoded
from p5_t5.decoding.exact import exact_scores, missed_at, pair_scores
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors, build_trie

CLOSE, WORDS, REQUESTS = 1, 30, 3
CLOSENESS = {"atol": 1e-4, "rtol": 1e-4}
Code = tuple[int, ...]


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    """Two layers with opinions: weights large enough that tokens differ in probability."""
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=WORDS, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=10,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    model.shared.weight.data *= 3
    return model


class World:
    """A catalogue with codes of unequal length, requests, and starts of unequal length."""

    def __init__(self, seed: int, count: int) -> None:
        random = np.random.default_rng(seed)
        codes: set[Code] = set()
        while len(codes) < count:
            codes.add(tuple(random.integers(2, 7, random.integers(1, 6)).tolist()))
        self.codes = [tuple(code) for code in random.permutation(np.array([*codes], dtype=object))]
        self.trie = TrieTensors(build_trie(self.codes, CLOSE), torch.device("cpu"))
        lengths = torch.from_numpy(random.integers(1, 8, (REQUESTS, 1)))
        self.mask = (torch.arange(7) < lengths).long()
        self.ids = torch.from_numpy(random.integers(2, WORDS, (REQUESTS, 7))) * self.mask
        self.given = [random.integers(2, WORDS, n).tolist() for n in random.permutation(5)[:3]]

    @property
    def asked(self) -> tuple[TrieTensors, torch.Tensor, torch.Tensor]:
        return self.trie, self.ids, self.mask


def world_of(seed: int, count: int) -> World:
    return World(seed, count)


@torch.no_grad()
def forced(
    model: T5ForConditionalGeneration, world: World, given: list[list[int]], over_vocabulary: bool
) -> torch.Tensor:
    """Log-probabilities by Hugging Face's forward pass over every whole answer."""
    closed = [(*code, CLOSE) for code in world.codes]
    longest = max(map(len, closed))
    targets = torch.tensor([[*code, *[-1] * (longest - len(code))] for code in closed])
    next_tokens: dict[Code, set[int]] = {}
    for code in closed:
        for place, token in enumerate(code):
            next_tokens.setdefault(code[:place], set()).add(token)
    legal = torch.ones(len(closed), longest, WORDS, dtype=torch.bool)
    if not over_vocabulary:
        legal[:] = False
        for item, code in enumerate(closed):
            for place in range(len(code)):
                legal[item, place, list(next_tokens[code[:place]])] = True
    scores = torch.empty(REQUESTS, len(closed))
    for request, start in enumerate(given):
        answers = torch.tensor([[0, *start]]).expand(len(closed), -1)
        answers = torch.cat([answers, targets[:, :-1].clamp(min=0)], dim=1)
        logits = model(
            input_ids=world.ids[request].expand(len(closed), -1),
            attention_mask=world.mask[request].expand(len(closed), -1),
            decoder_input_ids=answers,
        ).logits[:, len(start) :]
        steps = logits.masked_fill(~legal, float("-inf")).log_softmax(-1)
        steps = steps.gather(2, targets.clamp(min=0)[..., None])[..., 0]
        scores[request] = steps.masked_fill(targets < 0, 0).sum(dim=1)
    return scores


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 60), st.booleans(), st.booleans())
def test_every_score_is_that_of_teacher_forcing(
    model: T5ForConditionalGeneration,
    seed: int, count: int, chunk: int, started: bool, over_vocabulary: bool,
) -> None:  # fmt: skip
    world = world_of(seed, count)
    scores = exact_scores(
        model, *world.asked, given=world.given if started else None,
        over_vocabulary=over_vocabulary, nodes_per_chunk=chunk,
    )  # fmt: skip
    starts = world.given if started else [[]] * REQUESTS
    torch.testing.assert_close(scores, forced(model, world, starts, over_vocabulary), **CLOSENESS)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(50, 200), st.integers(1, 100))
def test_the_size_of_a_chunk_never_matters(
    model: T5ForConditionalGeneration, seed: int, count: int, chunk: int
) -> None:
    world = world_of(seed, count)
    whole = exact_scores(model, *world.asked, given=world.given, nodes_per_chunk=10**6)
    parts = exact_scores(model, *world.asked, given=world.given, nodes_per_chunk=chunk)
    torch.testing.assert_close(parts, whole, **CLOSENESS)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 300))
def test_probabilities_sum_to_one(model: T5ForConditionalGeneration, seed: int, count: int) -> None:
    world = world_of(seed, count)
    total = exact_scores(model, *world.asked, given=world.given).double().exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(REQUESTS).double(), atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 60), st.booleans())
def test_a_pair_has_the_score_of_its_column(
    model: T5ForConditionalGeneration, seed: int, count: int, started: bool
) -> None:
    world = world_of(seed, count)
    start = world.given if started else None
    scores = exact_scores(model, *world.asked, given=start)
    items = torch.from_numpy(np.random.default_rng(seed).integers(0, count, REQUESTS))
    pairs = pair_scores(model, *world.asked, items, given=start)
    torch.testing.assert_close(pairs, scores.gather(1, items[:, None])[:, 0], **CLOSENESS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 60), st.booleans())
def test_the_widest_beam_gives_the_exact_ranking(
    model: T5ForConditionalGeneration, seed: int, count: int, over_vocabulary: bool
) -> None:
    world = world_of(seed, count)
    scores = exact_scores(model, *world.asked, given=world.given, over_vocabulary=over_vocabulary)
    found = beam_search(
        model, *world.asked, k=count, beams=count, given=world.given,
        over_vocabulary=over_vocabulary,
    )  # fmt: skip
    torch.testing.assert_close(found.scores, scores.gather(1, found.items), **CLOSENESS)
    torch.testing.assert_close(
        found.scores, scores.sort(dim=1, descending=True).values, **CLOSENESS
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8))
def test_missed_is_what_a_narrow_beam_lost(
    model: T5ForConditionalGeneration, seed: int, k: int, beams: int
) -> None:
    world = world_of(seed, 80)
    scores = exact_scores(model, *world.asked)
    allowed = torch.from_numpy(np.random.default_rng(seed).random((REQUESTS, 80)) < 0.5)
    allowed[:, :k] = True
    found = beam_search(model, *world.asked, k=k, beams=beams, allowed=allowed).items
    true = scores.masked_fill(~allowed, float("-inf")).topk(k, dim=1).indices
    common = sum(
        len({*ours} & {*theirs}) for ours, theirs in zip(found.tolist(), true.tolist(), strict=True)
    )
    assert missed_at(k, found, scores, allowed) == pytest.approx(1 - common / (k * REQUESTS))
    wide = beam_search(model, *world.asked, k=k, beams=80, allowed=allowed).items
    assert missed_at(k, wide, scores, allowed) == 0


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_each_node_is_read_once_and_a_chunk_at_a_time(
    model: T5ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    world = world_of(8, 400)
    reads: list[tuple[int, int]] = []
    first = model.encoder.block[0].layer[1].DenseReluDense.wo
    read, encode = TreeDecoder.read, first.forward
    encoded = 0

    def counted(
        self: TreeDecoder, tokens: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        reads.append((tokens.shape[1], visible.shape[2]))
        return read(self, tokens, positions, visible)

    def counted_encoder(*args: object, **options: object) -> object:
        nonlocal encoded
        encoded += 1
        return encode(*args, **options)

    monkeypatch.setattr(TreeDecoder, "read", counted)
    monkeypatch.setattr(first, "forward", counted_encoder)
    exact_scores(model, *world.asked, nodes_per_chunk=chunk)
    assert encoded == 1
    assert reads.pop(0) == (1, 1)
    width = max(1, chunk // REQUESTS)
    trie = world.trie.trie
    shared = int((trie.leaves[1:, 1] - trie.leaves[1:, 0] > 1).sum())
    assert sum(new for new, _ in reads) == shared
    assert max(new for new, _ in reads) <= width
    # A node has fewer ancestors than a code has tokens, however many nodes were read before.
    assert all(held <= 1 + new * trie.depth for new, held in reads)


def test_a_pair_reads_one_path_in_one_pass(
    model: T5ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(8, 400)
    reads: list[int] = []
    read = TreeDecoder.read

    def counted(self: TreeDecoder, tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        reads.append(tokens.shape[1])
        return read(self, tokens, *others)

    monkeypatch.setattr(TreeDecoder, "read", counted)
    pair_scores(model, *world.asked, torch.tensor([0, 200, 399]))
    assert len(reads) == 2
    assert reads[1] < world.trie.trie.depth


def test_a_branch_leaves_its_decoder_alone(model: T5ForConditionalGeneration) -> None:
    states = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    decoder = TreeDecoder(model, Encoded.of(states, torch.ones(2, 3)))
    tokens, places = torch.tensor([[0, 4, 5], [0, 6, 7]]), torch.arange(3).expand(2, -1)
    causal = torch.ones(3, 3, dtype=torch.bool).tril().expand(2, -1, -1)
    new = torch.tensor([[8], [9]]), torch.full((2, 1), 2)
    with torch.no_grad():
        decoder.read(tokens, places, causal)
        branch = decoder.branch(torch.tensor([0, 2]))
        short = branch.read(*new, torch.ones(2, 1, 3, dtype=torch.bool))
        assert decoder.positions.shape == (2, 3)
        hidden = torch.tensor([[[True, False, True, True]]]).expand(2, -1, -1)
        full = decoder.read(*new, hidden)
    torch.testing.assert_close(short, full)


SCORES = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-4.0, -3.0, -2.0, -1.0]])


@pytest.mark.parametrize(
    ("k", "found", "missed"),
    [
        (2, [[0, 1], [3, 2]], 0.0),
        (2, [[1, 0], [2, 3]], 0.0),  # the order is no matter of this number
        (2, [[0, 2], [3, 2]], 0.25),
        (2, [[2, 3], [1, 0]], 1.0),
        (1, [[0, 1], [2, 3]], 0.5),  # what stands behind the k-th place is not looked at
        (2, [[0, -1], [3, 2]], 0.25),
        (4, [[0, 1, 2, 3], [0, 1, 2, -1]], 0.125),
        (5, [[0, 1, 2, 3, -1], [0, 1, 2, 3, -1]], 0.0),
    ],
)
def test_missed_items_are_counted(k: int, found: list[list[int]], missed: float) -> None:
    assert missed_at(k, torch.tensor(found), SCORES) == pytest.approx(missed)


def test_only_allowed_items_can_be_missed() -> None:
    allowed = torch.tensor([[False, True, True, True], [False, False, False, True]])
    assert missed_at(2, torch.tensor([[1, 2], [3, -1]]), SCORES, allowed) == 0
    assert missed_at(2, torch.tensor([[1, 0], [3, -1]]), SCORES, allowed) == pytest.approx(1 / 3)
    assert missed_at(2, torch.tensor([[1, 2], [3, 2]]), SCORES, allowed[0]) == 0


@pytest.mark.parametrize(
    ("found", "missed"),
    [([0, 1], 0.0), ([0, 2], 0.0), ([0, 3], 0.5), ([1, 2], 0.5), ([1, 3], 0.5)],
)
def test_equal_scores_stand_in_for_each_other(found: list[int], missed: float) -> None:
    scores = torch.tensor([[-1.0, -2.0, -2.0, -3.0]])
    assert missed_at(2, torch.tensor([found]), scores) == pytest.approx(missed)


@pytest.mark.parametrize(
    ("k", "allowed", "message"),
    [
        (0, None, "k is 0, expected 1 to 2"),
        (3, None, "k is 3, expected 1 to 2"),
        (1, torch.zeros(4, dtype=torch.bool), "no request allows any item"),
    ],
)
def test_nothing_to_miss_is_refused(k: int, allowed: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        missed_at(k, torch.tensor([[0, 1], [0, 1]]), SCORES, allowed)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([0, 1], r"shape \(2,\), expected \(3,\)"),
        ([0, 9, 1], "request 1 asks for item 9, expected 0 to 8"),
        ([0, 1, -1], "request 2 asks for item -1"),
    ],
)
def test_pairs_without_an_item_are_refused(
    model: T5ForConditionalGeneration, items: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pair_scores(model, *world_of(0, 9).asked, torch.tensor(items))


def test_an_empty_chunk_is_refused(model: T5ForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="nodes_per_chunk must be at least 1, not 0"):
        exact_scores(model, *world_of(0, 9).asked, nodes_per_chunk=0)
