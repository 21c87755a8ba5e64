"""``generate`` inside the catalogue: against the search itself, and against a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from p5_t5.decoding.beam_search import NO_ITEM, beam_search
from p5_t5.decoding.generation import ItemOutput, TrieLogitsProcessor, items_of, trie_generate
from p5_t5.decoding.trie import TrieTensors, build_trie
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration

PAD, END, VOCABULARY = 0, 1, 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 2,
    "decoder_start_token_id": PAD,
}
Codes = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**SHAPE)).eval()
    # T5's scaling leaves a model this small nearly indifferent between tokens.
    model.shared.weight.data *= 4
    return model


@pytest.fixture(scope="module")
def p5(tmp_path_factory: pytest.TempPathFactory) -> P5ForConditionalGeneration:
    """Saved and loaded, with word embeddings that matter."""
    torch.manual_seed(1)
    model = P5ForConditionalGeneration(P5Config(**SHAPE, embedding_std=1.0))
    model.set_word_starts(np.arange(VOCABULARY) % 2 == 1)
    torch.nn.init.normal_(model.encoder.whole_words.embedding.weight)
    folder = tmp_path_factory.mktemp("p5")
    model.save_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def bart() -> BartForConditionalGeneration:
    torch.manual_seed(2)
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=32, pad_token_id=PAD, bos_token_id=2,
        eos_token_id=END, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


@pytest.fixture(scope="module", params=["t5", "p5"])
def model(request: pytest.FixtureRequest) -> T5ForConditionalGeneration:
    return request.getfixturevalue(request.param)


def codes_of(seed: int, count: int, longest: int = 4, equal: bool = False) -> Codes:
    generator = np.random.default_rng(seed)
    codes: dict[tuple[int, ...], None] = {}
    while len(codes) < count:
        length = longest if equal else int(generator.integers(1, longest + 1))
        codes[tuple(generator.integers(2, 9, length).tolist())] = None
    return list(codes)


def trie_of(codes: Codes) -> TrieTensors:
    return TrieTensors(build_trie(codes, END), torch.device("cpu"))


def inputs_of(seed: int, requests: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (requests, 9), generator=generator)
    lengths = torch.randint(2, 10, (requests, 1), generator=generator)
    mask = (torch.arange(9) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def mask_of(seed: int, requests: int, items: int) -> torch.Tensor:
    """Allows about half of the items of each request, and at least one."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(requests, items, generator=generator) < 0.5
    mask[:, seed % items] = True
    return mask


def dictionary(codes: Codes) -> dict[tuple[int, ...], list[int]]:
    following: dict[tuple[int, ...], set[int]] = {}
    for code in codes:
        closed = (*code, END)
        for i, token in enumerate(closed):
            following.setdefault(closed[:i], set()).add(token)
    return {beginning: sorted(tokens) for beginning, tokens in following.items()}


def by_dictionary(codes: Codes) -> Callable[[int, torch.Tensor], list[int]]:
    following = dictionary(codes)
    return lambda _, sent: following.get(tuple(sent.tolist()[1:]), [END])


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """How many rows each call of the module read."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda _, args, output: calls.append(len(output[0])))
    try:
        yield calls
    finally:
        hook.remove()


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.booleans(), st.booleans())
def test_generate_gives_what_the_search_finds(
    model: T5ForConditionalGeneration, seed: int, count: int, k: int, masked: bool, vocabulary: bool
) -> None:
    codes = codes_of(seed, count)
    trie, inputs = trie_of(codes), inputs_of(seed, 3)
    starts = [np.random.default_rng(seed + i).integers(2, 40, 2 * i).tolist() for i in range(3)]
    options = {
        "given": starts,
        "allowed": mask_of(seed, 3, count) if masked else None,
        "over_vocabulary": vocabulary,
    }
    out = model.generate(
        **inputs, custom_generate=trie_generate, trie=trie, num_beams=4, num_return_sequences=k,
        return_dict_in_generate=True, **options,
    )  # fmt: skip
    found = beam_search(model, trie, **inputs, k=k, beams=4, **options)
    assert isinstance(out, ItemOutput)
    assert out.item_rows.view(3, k).equal(found.items)
    torch.testing.assert_close(out.sequences_scores.view(3, k), found.scores, atol=1e-5, rtol=1e-6)
    closed = {item: [*code, END] for item, code in enumerate(codes)} | {NO_ITEM: []}
    expected = [
        [PAD, *start, *closed[item]]
        for start, items in zip(starts, found.items.tolist(), strict=True)
        for item in items
    ]
    longest = max(map(len, expected))
    assert out.sequences.tolist() == [row + [PAD] * (longest - len(row)) for row in expected]


def test_a_plain_call_needs_no_width_and_runs_the_encoder_once(
    model: T5ForConditionalGeneration,
) -> None:
    trie, inputs = trie_of(codes_of(3, 300)), inputs_of(3, 40)
    with counted(model.get_encoder()) as calls:
        sequences = model.generate(
            **inputs, custom_generate=trie_generate, trie=trie, num_return_sequences=2
        )
    assert calls == [40]
    wide, narrow = (beam_search(model, trie, **inputs, k=2, beams=beams) for beams in (20, 2))
    assert items_of(sequences, trie).equal(wide.items.flatten())
    assert not wide.items.equal(narrow.items)


def test_requests_with_too_few_legal_items_are_filled_up(t5: T5ForConditionalGeneration) -> None:
    trie, inputs = trie_of([(5, 6), (7,), (8, 9, 3)]), inputs_of(0, 2)
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    out = t5.generate(
        **inputs, custom_generate=trie_generate, trie=trie, allowed=allowed,
        num_return_sequences=4, return_dict_in_generate=True,
    )  # fmt: skip
    items = out.item_rows.view(2, 4)
    assert (items == NO_ITEM).tolist() == [[False, False, True, True], [False] * 3 + [True]]
    assert items_of(out.sequences, trie).equal(out.item_rows)
    empty = out.item_rows == NO_ITEM
    assert (out.sequences[empty] == PAD).all()
    assert out.sequences_scores[empty].isneginf().all()
    assert out.sequences_scores[~empty].isfinite().all()


def test_widths_may_stand_in_the_configuration(t5: T5ForConditionalGeneration) -> None:
    trie, inputs = trie_of(codes_of(4, 30)), inputs_of(4, 3)
    config = GenerationConfig(num_beams=6, num_return_sequences=5, max_new_tokens=5)
    starts = [[9, 12], [30, 7], [7, 30]]
    theirs = t5.generate(
        **inputs, custom_generate=trie_generate, trie=trie, generation_config=config,
        decoder_input_ids=torch.tensor([[PAD, *start] for start in starts]),
    )  # fmt: skip
    ours = t5.generate(
        **inputs, custom_generate=trie_generate, trie=trie, num_beams=6, num_return_sequences=5,
        given=starts,
    )  # fmt: skip
    assert theirs.equal(ours)
    assert (items_of(ours, trie, prefix_length=3) != NO_ITEM).all()


def test_states_and_no_mask_do_as_well(t5: T5ForConditionalGeneration) -> None:
    trie, ids = trie_of(codes_of(5, 30)), inputs_of(5, 2)["input_ids"]
    with counted(t5.encoder) as calls:
        states = t5.encoder(input_ids=ids)
        out = t5.generate(encoder_outputs=states, custom_generate=trie_generate, trie=trie)
    assert len(calls) == 1
    assert out.equal(t5.generate(input_ids=ids, custom_generate=trie_generate, trie=trie))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "no do_sample"),
        ({"repetition_penalty": 1.5}, "no RepetitionPenaltyLogitsProcessor"),
        ({"max_time": 3.0}, "no MaxTimeCriteria"),
        ({"decoder_attention_mask": torch.ones(2, 1)}, "unequal length go into given="),
        ({"decoder_input_ids": torch.tensor([[0, 3]] * 2), "given": [[], []]}, "not both"),
        ({"given": [[3]]}, "1 starts for 2 requests"),
        ({"decoder_start_token_id": 7}, "start token 0"),
        ({"num_return_sequences": 0}, "at least 1"),
        ({"allowed": torch.zeros(2, 6, dtype=torch.bool)}, "request 0"),
        ({"alowed": torch.ones(2, 6, dtype=torch.bool)}, "alowed"),
    ],
)
def test_what_the_search_does_not_do_is_refused(
    t5: T5ForConditionalGeneration, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        t5.generate(
            **inputs_of(0, 2), custom_generate=trie_generate, trie=trie_of(codes_of(0, 6)),
            **options,
        )  # fmt: skip


def test_other_models_are_sent_to_the_processor(bart: BartForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="not BartForConditionalGeneration"):
        bart.generate(
            **inputs_of(0, 2), custom_generate=trie_generate, trie=trie_of(codes_of(0, 6))
        )


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_the_processor_decodes_as_a_dictionary_does(
    model: T5ForConditionalGeneration, seed: int, beams: int, equal: bool
) -> None:
    codes = codes_of(seed, 30, longest=3, equal=equal)
    options = {
        **inputs_of(seed, 3), "num_beams": beams, "num_return_sequences": beams,
        "max_new_tokens": 5, "length_penalty": 0.0, "return_dict_in_generate": True,
        "output_scores": True, "do_sample": False,
    }  # fmt: skip
    processor = TrieLogitsProcessor(trie_of(codes))
    ours = model.generate(**options, logits_processor=LogitsProcessorList([processor]))
    theirs = model.generate(**options, prefix_allowed_tokens_fn=by_dictionary(codes))
    if beams == 1:
        assert ours.sequences.equal(theirs.sequences)
        return
    # What Hugging Face makes up where it finds no more items.
    real = theirs.sequences_scores > -1e8
    assert real.all() or not equal
    assert (ours.sequences_scores > -1e8).equal(real)
    torch.testing.assert_close(ours.sequences_scores[real], theirs.sequences_scores[real])
    width = min(ours.sequences.shape[1], theirs.sequences.shape[1])
    assert ours.sequences[real, :width].equal(theirs.sequences[real, :width])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_processors_beams_respect_each_requests_mask(
    t5: T5ForConditionalGeneration, seed: int, beams: int
) -> None:
    codes = codes_of(seed, 40, longest=3, equal=True)
    trie, inputs, allowed = trie_of(codes), inputs_of(seed, 3), mask_of(seed, 3, 40)
    processor = TrieLogitsProcessor(trie, allowed=allowed)
    out = t5.generate(
        **inputs, num_beams=beams, num_return_sequences=beams, max_new_tokens=5,
        length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
        logits_processor=LogitsProcessorList([processor]),
    )  # fmt: skip
    found = beam_search(
        t5, trie, **inputs, k=beams, beams=beams, allowed=allowed, over_vocabulary=True
    )
    assert items_of(out.sequences, trie).equal(found.items.flatten())
    torch.testing.assert_close(out.sequences_scores, found.scores.flatten(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["t5", "p5", "bart"])
def test_sampling_never_leaves_the_catalogue(name: str, request: pytest.FixtureRequest) -> None:
    model: PreTrainedModel = request.getfixturevalue(name)
    torch.manual_seed(7)
    for seed in range(8):
        codes = codes_of(seed, 40)
        trie, allowed = trie_of(codes), mask_of(seed, 3, 40) if seed % 2 else None
        start = [model.config.decoder_start_token_id, *range(10, 10 + seed % 3)]
        processor = TrieLogitsProcessor(trie, prefix_length=len(start), allowed=allowed)
        sequences = model.generate(
            **inputs_of(seed, 3), decoder_input_ids=torch.tensor([start] * 3), do_sample=True,
            num_return_sequences=300, max_new_tokens=8, temperature=3.0,
            logits_processor=LogitsProcessorList([processor]),
        )  # fmt: skip
        items = items_of(sequences, trie, prefix_length=len(start)).view(3, 300)
        assert (items != NO_ITEM).all()
        assert allowed is None or allowed.gather(1, items).all()
        for row, item in zip(sequences.tolist()[::50], items.flatten().tolist()[::50], strict=True):
            answer = [*start, *codes[item], END]
            assert row == answer + [PAD] * (len(row) - len(answer))


def test_samples_follow_the_searchs_probabilities(t5: T5ForConditionalGeneration) -> None:
    trie, inputs = trie_of(codes_of(11, 12)), inputs_of(11, 1)
    torch.manual_seed(0)
    sequences = t5.generate(
        **inputs, do_sample=True, top_k=0, num_return_sequences=4000, max_new_tokens=5,
        logits_processor=LogitsProcessorList([TrieLogitsProcessor(trie)]),
    )  # fmt: skip
    share = items_of(sequences, trie).bincount(minlength=12) / 4000
    found = beam_search(t5, trie, **inputs, k=12, beams=12)
    expected = torch.zeros(12).scatter(0, found.items[0], found.scores[0].exp())
    torch.testing.assert_close(share, expected, atol=0.04, rtol=0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans(), st.data())
def test_the_legal_tokens_are_the_dictionarys(
    seed: int, count: int, masked: bool, data: st.DataObject
) -> None:
    codes = codes_of(seed, count)
    allowed = mask_of(seed, 2, count) if masked else None
    processor = TrieLogitsProcessor(trie_of(codes), prefix_length=2, allowed=allowed)
    length = data.draw(st.integers(0, 6))
    answers = []
    for _ in range(6):
        # Beginnings of codes, closed codes, and what no code begins with.
        closed = (*data.draw(st.sampled_from(codes)), END)
        noise = data.draw(st.lists(st.integers(0, 12), min_size=length, max_size=length))
        keep = data.draw(st.integers(0, length))
        padded = (*closed, *[PAD] * length)[:keep]
        answers.append((*padded, *([PAD] * length if keep == length else noise))[:length])
    ids = torch.tensor([(0, 33, *answer) for answer in answers], dtype=torch.long)
    scores = torch.randn(6, VOCABULARY)
    masked_scores = processor(ids, scores)
    for row, answer in enumerate(answers):
        known = [c for i, c in enumerate(codes) if allowed is None or allowed[row // 3, i]]
        code = next(
            (c for c in codes if (*c, END) == answer[: len(c) + 1]), None
        )  # closed, whatever follows
        legal = {END, PAD} if code is not None else set(dictionary(known).get(answer, [END]))
        assert set(masked_scores[row].isfinite().nonzero().flatten().tolist()) == legal
        tokens = sorted(legal)
        assert masked_scores[row, tokens].equal(scores[row, tokens])


def test_every_code_of_a_wide_catalogue_is_found_again() -> None:
    generator = np.random.default_rng(0)
    codes = np.unique(generator.integers(2, 300, (5000, 3)), axis=0)
    codes = generator.permutation(codes)
    trie = trie_of([tuple(row) for row in codes.tolist()])
    head, tail = torch.zeros(len(codes), 1), torch.ones(len(codes), 1)
    sequences = torch.cat([head, torch.from_numpy(codes), tail, head], dim=1).long()
    assert items_of(sequences, trie).equal(torch.arange(len(codes)))
    assert (items_of(sequences[:, :-2], trie) == NO_ITEM).all()
    sequences[:, 2] += 1000
    assert (items_of(sequences, trie) == NO_ITEM).all()


def test_a_neighbours_children_are_not_ones_own() -> None:
    trie = trie_of([(2, 3, 7), (4, 5)])
    sequences = torch.tensor([[PAD, 4, 3, 7, END], [PAD, 2, 5, END, PAD], [PAD, 4, 5, END, PAD]])
    assert items_of(sequences, trie).tolist() == [NO_ITEM, NO_ITEM, 1]
    legal = TrieLogitsProcessor(trie)(sequences[:, :3], torch.zeros(3, VOCABULARY)).isfinite()
    assert legal.nonzero().tolist() == [[0, END], [1, END], [2, END]]


def test_sequences_that_belong_to_no_request_are_refused() -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    processor = TrieLogitsProcessor(trie_of(codes_of(0, 6)), allowed=mask)
    with pytest.raises(ValueError, match="3 sequences can't belong to 2 requests"):
        processor(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, VOCABULARY))
