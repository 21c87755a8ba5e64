"""The search against teacher-forced scores of every item, and against Hugging Face's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration
from transformers.generation import GenerateBeamEncoderDecoderOutput

from p5_t5.decoding.beam_search import NO_ITEM, Ranking, beam_search
from p5_t5.decoding.tree_decoder import TreeDecoder
from p5_t5.decoding.trie import TrieTensors, build_trie

END, VOCABULARY = 1, 40
Codes = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_heads=2,
        num_layers=2,
        decoder_start_token_id=0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
    )
    model = T5ForConditionalGeneration(config).eval()
    # T5's scaling leaves a model this small nearly indifferent between tokens.
    model.shared.weight.data *= 4
    return model


def codes_of(seed: int, count: int, longest: int = 4, equal: bool = False) -> Codes:
    generator = np.random.default_rng(seed)
    codes: set[tuple[int, ...]] = set()
    while len(codes) < count:
        length = longest if equal else int(generator.integers(1, longest + 1))
        codes.add(tuple(generator.integers(2, 9, length).tolist()))
    return sorted(codes)


def inputs_of(seed: int, requests: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (requests, 9), generator=generator)
    lengths = torch.randint(2, 10, (requests, 1), generator=generator)
    mask = (torch.arange(9) < lengths).long()
    return ids * mask, mask


def search(
    model: T5ForConditionalGeneration, codes: Codes, ids: torch.Tensor, mask: torch.Tensor,
    **options: object,
) -> Ranking:  # fmt: skip
    trie = TrieTensors(build_trie(codes, END), torch.device("cpu"))
    return beam_search(model, trie, ids, mask, **options)  # type: ignore[arg-type]


@torch.no_grad()
def exact(
    model: T5ForConditionalGeneration,
    codes: Codes,
    ids: torch.Tensor,
    mask: torch.Tensor,
    over_vocabulary: bool = False,
    given: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """Each item's log-probability by teacher forcing, shape (requests, items)."""
    legal: dict[tuple[int, ...], set[int]] = {}
    for code in codes:
        closed = (*code, END)
        for i, token in enumerate(closed):
            legal.setdefault(closed[:i], set()).add(token)
    scores = torch.zeros(len(ids), len(codes))
    for request in range(len(ids)):
        start = list(given[request]) if given else []
        for item, code in enumerate(codes):
            closed = (*code, END)
            decoder = torch.tensor([[0, *start, *closed[:-1]]])
            logits = model(
                input_ids=ids[request : request + 1],
                attention_mask=mask[request : request + 1],
                decoder_input_ids=decoder,
            ).logits[0, len(start) :]
            if not over_vocabulary:
                allowed = torch.full_like(logits, float("-inf"))
                for i in range(len(closed)):
                    allowed[i, list(legal[closed[:i]])] = 0
                logits = logits + allowed
            steps = logits.log_softmax(-1)
            scores[request, item] = steps[torch.arange(len(closed)), torch.tensor(closed)].sum()
    return scores


def hugging_face(
    model: T5ForConditionalGeneration,
    codes: Codes,
    ids: torch.Tensor,
    mask: torch.Tensor,
    beams: int,
) -> GenerateBeamEncoderDecoderOutput:
    """Hugging Face's own beam search with ``prefix_allowed_tokens_fn``."""
    following: dict[tuple[int, ...], set[int]] = {}
    for code in codes:
        for i, token in enumerate((*code, END)):
            following.setdefault((*code, END)[:i], set()).add(token)
    found: GenerateBeamEncoderDecoderOutput = model.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=6,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        prefix_allowed_tokens_fn=lambda _, sent: sorted(
            following.get(tuple(sent.tolist()[1:]), {END})
        ),
    )
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 25), st.booleans())
def test_a_beam_as_wide_as_the_catalogue_is_the_exact_ranking(
    model: T5ForConditionalGeneration, seed: int, count: int, over_vocabulary: bool
) -> None:
    codes = codes_of(seed, count)
    ids, mask = inputs_of(seed, 3)
    found = search(model, codes, ids, mask, k=count, beams=count, over_vocabulary=over_vocabulary)
    reference = exact(model, codes, ids, mask, over_vocabulary)
    torch.testing.assert_close(
        found.scores, reference.sort(dim=1, descending=True).values, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found.scores, reference.gather(1, found.items), atol=1e-4, rtol=1e-4)
    assert (found.items.sort(dim=1).values == torch.arange(count)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 25))
def test_the_probabilities_of_all_items_sum_to_one(
    model: T5ForConditionalGeneration, seed: int, count: int
) -> None:
    ids, mask = inputs_of(seed, 4)
    found = search(model, codes_of(seed, count), ids, mask, k=count, beams=count)
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_codes_of_one_length_over_the_vocabulary_are_hugging_faces_beams(
    model: T5ForConditionalGeneration, seed: int, beams: int
) -> None:
    codes = codes_of(seed, 30, longest=3, equal=True)
    ids, mask = inputs_of(seed, 3)
    found = search(model, codes, ids, mask, k=beams, beams=beams, over_vocabulary=True)
    number = {code: i for i, code in enumerate(codes)}
    theirs = hugging_face(model, codes, ids, mask, beams)
    items = [number[tuple(row[1:4])] for row in theirs.sequences.tolist()]
    torch.testing.assert_close(found.scores.flatten(), theirs.sequences_scores, atol=1e-4, rtol=0)
    assert found.items.flatten().tolist() == items


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_with_unequal_lengths_no_score_is_below_hugging_faces_at_the_same_rank(
    model: T5ForConditionalGeneration, seed: int, beams: int
) -> None:
    codes = codes_of(seed, 30, longest=4)
    ids, mask = inputs_of(seed, 3)
    found = search(model, codes, ids, mask, k=beams, beams=beams, over_vocabulary=True)
    theirs = hugging_face(model, codes, ids, mask, beams)
    scores = theirs.sequences_scores.view(3, beams)
    # Below -1e8 stand beams that were never legal.
    assert (found.scores >= scores - 1e-4).logical_or(scores < -1e8).all()


def test_levels_without_a_choice_cost_no_pass(
    model: T5ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30, 31 start every code; 32, 33 follow each first choice.
    codes = [(30, 31, a, 32, 33, b) for a in range(2, 6) for b in range(2, 7)]
    ids, mask = inputs_of(3, 3)
    given = [[], [7], [8, 9]]
    reads: list[int] = []
    read = TreeDecoder.read

    def counted(self: TreeDecoder, tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        reads.append(tokens.shape[1])
        return read(self, tokens, *others)

    monkeypatch.setattr(TreeDecoder, "read", counted)
    found = search(model, codes, ids, mask, k=20, beams=20, given=given)
    # Start token, at most two given and the two of all codes; then four beams of three tokens.
    assert reads == [5, 12]
    reference = exact(model, codes, ids, mask, given=given)
    torch.testing.assert_close(
        found.scores, reference.sort(dim=1, descending=True).values, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found.scores, reference.gather(1, found.items), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.data())
def test_exactly_k_different_allowed_items_come_back_wherever_they_exist(
    model: T5ForConditionalGeneration, seed: int, k: int, beams: int, data: st.DataObject
) -> None:
    codes = codes_of(seed, 20)
    ids, mask = inputs_of(seed, 3)
    rows = st.lists(st.booleans(), min_size=20, max_size=20).filter(any)
    allowed = torch.tensor(data.draw(st.lists(rows, min_size=3, max_size=3)))
    found = search(model, codes, ids, mask, k=k, beams=beams, allowed=allowed)
    for items, scores, legal in zip(found.items.tolist(), found.scores, allowed, strict=True):
        named = [item for item in items if item != NO_ITEM]
        assert len(named) == len(set(named)) == min(k, int(legal.sum()))
        assert all(legal[item] for item in named)
        assert (scores.diff() <= 0).all() or NO_ITEM in items


def test_an_excluded_item_leaves_the_scores_of_the_others(
    model: T5ForConditionalGeneration,
) -> None:
    codes = codes_of(5, 20)
    ids, mask = inputs_of(5, 1)
    free = search(model, codes, ids, mask, k=20, beams=20)
    allowed = torch.ones(1, 20, dtype=torch.bool)
    allowed[0, free.items[0, 0]] = False
    held = search(model, codes, ids, mask, k=19, beams=20, allowed=allowed)
    assert held.items[0].tolist() == free.items[0, 1:].tolist()
    torch.testing.assert_close(held.scores, free.scores[:, 1:])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_company_of_a_request_never_changes_its_list(
    model: T5ForConditionalGeneration, seed: int, order: list[int]
) -> None:
    codes = codes_of(seed, 25)
    ids, mask = inputs_of(seed, 5)
    given = [np.random.default_rng(seed + i).integers(2, 9, i).tolist() for i in range(5)]
    together = search(model, codes, ids, mask, k=5, beams=6, given=given)
    shuffled = search(
        model, codes, ids[order], mask[order], k=5, beams=6, given=[given[i] for i in order]
    )
    torch.testing.assert_close(shuffled.scores, together.scores[order], atol=1e-4, rtol=1e-4)
    for i in range(5):
        length = int(mask[i].sum())
        alone = search(
            model, codes, ids[i : i + 1, :length], mask[i : i + 1, :length],
            k=5, beams=6, given=[given[i]],
        )  # fmt: skip
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_a_given_start_is_read_before_the_search(
    model: T5ForConditionalGeneration, seed: int
) -> None:
    codes = codes_of(seed, 12)
    ids, mask = inputs_of(seed, 3)
    given = [np.random.default_rng(seed + i).integers(2, 40, 4 * i).tolist() for i in range(3)]
    found = search(model, codes, ids, mask, k=12, beams=12, given=given)
    reference = exact(model, codes, ids, mask, given=given)
    torch.testing.assert_close(
        found.scores, reference.sort(dim=1, descending=True).values, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0, "beams": 3}, "k must be at least 1"),
        ({"k": 1, "beams": 3, "allowed": torch.tensor([[True] * 6, [False] * 6])}, "request 1"),
        ({"k": 1, "beams": 3, "allowed": torch.ones(2, 5, dtype=torch.bool)}, r"\(requests, 6\)"),
    ],
)
def test_impossible_requests_are_refused(
    model: T5ForConditionalGeneration, options: dict[str, object], message: str
) -> None:
    ids, mask = inputs_of(0, 2)
    with pytest.raises(ValueError, match=message):
        search(model, codes_of(0, 6), ids, mask, **options)
