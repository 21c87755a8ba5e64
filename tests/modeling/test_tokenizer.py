from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from p5_t5.data.item_ids import SCHEMES, ItemCodes, assign_item_ids
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.tokenizer import (
    WordTokenizer,
    add_item_tokens,
    check_item_tokens,
    check_sentinels,
    train_tokenizer,
    word_starts,
)
from p5_t5.prompting.corpus import read_corpus, read_tasks
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.span_corruption import SENTINELS

MOVIELENS_ITEMS = 1682


def made_codes(scheme: str) -> ItemCodes:
    """Codes for as many items as MovieLens-100K has, from made histories."""
    items = np.random.default_rng(0).integers(0, MOVIELENS_ITEMS, 20_000).astype(np.int32)
    offsets = np.arange(0, 20_001, 100, dtype=np.int64)
    return assign_item_ids(scheme, offsets, items, MOVIELENS_ITEMS, seed=1)


def compact() -> PreTrainedTokenizerBase:
    numbers = np.random.default_rng(1).integers(1, MOVIELENS_ITEMS, (400, 6)).tolist()
    texts = [f"user_{i} chose {' , '.join(map(str, row))} ." for i, row in enumerate(numbers)]
    return train_tokenizer(texts, 400)


def t5s(shared: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = T5Tokenizer.from_pretrained(shared / "t5_sentencepiece")
    return tokenizer


@pytest.fixture(params=["compact", "t5"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """A tokenizer that we learn, and T5's own."""
    return compact() if request.param == "compact" else t5s(request.getfixturevalue("shared"))


def check_every_item(tokenizer: PreTrainedTokenizerBase, codes: ItemCodes) -> None:
    """Inside a sentence, each code is cut into exactly its own tokens."""
    add_item_tokens(tokenizer, codes)
    words = WordTokenizer(tokenizer)
    tokens = words.codes(codes)
    assert len(set(tokens)) == len(codes.texts)
    before = tokenizer("They chose", add_special_tokens=False)["input_ids"]
    after = tokenizer(", and then ?")["input_ids"]
    for text, own, pieces in zip(codes.texts, tokens, codes.pieces, strict=True):
        whole = tokenizer(f"They chose {text} , and then ?")["input_ids"]
        assert whole == [*before, *own, *after]
        if codes.new_tokens:
            assert tuple(tokenizer.convert_ids_to_tokens(list(own))) == pieces


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_turns_back_into_exactly_each_items_tokens(
    tokenizer: PreTrainedTokenizerBase, scheme: str
) -> None:
    check_every_item(tokenizer, made_codes(scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_on_movielens_100k_itself(scheme: str) -> None:
    folder = Path(__file__).resolve().parents[2] / "data" / "movielens-100k"
    if not folder.is_dir():
        pytest.skip("data/movielens-100k is not prepared; python data/movielens_100k.py does it")
    corpus = read_corpus(folder, read_tasks(["sequential"]), PromptSettings(), item_ids=scheme)
    assert len(corpus.catalogue) == MOVIELENS_ITEMS
    check_every_item(compact(), corpus.catalogue.codes)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.from_regex(r"[a-zA-Z0-9,.!?'_()-]{1,12}", fullmatch=True),
            st.sampled_from(["<a_1>", "<b_2>", "<a_1><b_2>", "user_<a_0>", "</s>", "12", "→"]),
            st.sampled_from(["<extra_id_0>", "<extra_id_99>"]),
        )
    )
)
def test_word_by_word_is_the_same_as_whole(words: list[str]) -> None:
    text = " ".join(words)
    assert _word_tokenizer().encode(text) == _word_tokenizer().tokenizer(text)["input_ids"]


_CACHE: list[WordTokenizer] = []


def _word_tokenizer() -> WordTokenizer:
    if not _CACHE:
        tokenizer = compact()
        add_item_tokens(tokenizer, made_codes("collaborative"))
        _CACHE.append(WordTokenizer(tokenizer))
    return _CACHE[0]


def test_every_printable_character_can_be_written() -> None:
    tokenizer = train_tokenizer(["only a few words"], 120)
    text = "".join(chr(c) for c in range(33, 127))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_saved_tokenizer_loads_as_itself(tmp_path: Path) -> None:
    tokenizer = compact()
    add_item_tokens(tokenizer, made_codes("collaborative"))
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, T5Tokenizer)
    text = "user_7 chose <a_1><b_2> , 12 and <a_0><b_0> ."
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_pieces_of_one_code_are_one_word() -> None:
    tokenizer = compact()
    codes = made_codes("collaborative")
    add_item_tokens(tokenizer, codes)
    starts = word_starts(tokenizer, codes)
    ids = tokenizer("user_7 chose <a_1><b_2> <a_3><b_4> .")["input_ids"]
    numbers = np.cumsum(starts[ids])
    pieces = tokenizer.convert_ids_to_tokens(ids)
    place = pieces.index("<a_1>")
    assert np.diff(numbers[place - 1 : place + 5]).tolist() == [1, 0, 1, 0, 1]


def test_plain_words_follow_the_tokenizers_own_word_numbers() -> None:
    tokenizer = compact()
    starts = word_starts(tokenizer, made_codes("random"))
    encoded = tokenizer("user_7 chose 12 , 345 and something never seen !")
    ours = np.cumsum(starts[encoded["input_ids"]])[:-1]
    assert ours.tolist() == [w + 1 for w in encoded.word_ids()[:-1]]


def test_an_item_token_that_is_text_already_is_refused() -> None:
    tokenizer = compact()
    add_item_tokens(tokenizer, made_codes("atomic"))
    with pytest.raises(ValueError, match="already has the item token"):
        add_item_tokens(tokenizer, made_codes("atomic"))


def test_sentinels_are_tokens_and_words_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    codes = made_codes("collaborative")
    add_item_tokens(tokenizer, codes)
    check_sentinels(tokenizer)
    assert len(set(tokenizer.convert_tokens_to_ids(list(SENTINELS)))) == len(SENTINELS) == 100
    ids = WordTokenizer(tokenizer).encode("<a_1><b_2> <extra_id_0> <extra_id_99> <a_3><b_4>")
    pieces = ["<a_1>", "<b_2>", "<extra_id_0>", "<extra_id_99>", "<a_3>", "<b_4>", "</s>"]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    assert np.cumsum(word_starts(tokenizer, codes)[ids])[:-1].tolist() == [1, 1, 2, 3, 4, 4]


def test_a_tokenizer_without_sentinels_is_refused() -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("a", -1.0)]
    with pytest.raises(ValueError, match="has no token '<extra_id_0>'.*T5's 100 sentinels"):
        check_sentinels(T5Tokenizer(vocab=pieces, extra_ids=0))


def test_a_tokenizer_without_the_item_tokens_is_no_p5s() -> None:
    tokenizer = compact()
    codes = made_codes("atomic")
    with pytest.raises(ValueError, match="has no item token '<item_0>'"):
        check_item_tokens(tokenizer, codes)
    add_item_tokens(tokenizer, codes)
    check_item_tokens(tokenizer, codes)


def test_the_collator_pads_each_side_with_its_own_value() -> None:
    collate = Collator(_word_tokenizer())
    batch = collate(
        [
            {"input_ids": [5, 6, 1], "labels": [7, 1], "task": 0},
            {"input_ids": [8, 1], "labels": [9, 9, 9, 1], "task": 2, "weights": [0.5, 0, 0, 0.5]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 1], [8, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 1, -100, -100], [9, 9, 9, 1]]
    assert batch["task"].tolist() == [0, 2]
    assert batch["weights"].tolist() == [[1, 1, 0, 0], [0.5, 0, 0, 0.5]]


def test_the_collator_cuts_long_sources_on_the_right_and_ends_them() -> None:
    batch = Collator(_word_tokenizer(), longest=4).encode([[5, 6, 7, 8, 9, 1], [5, 6, 7, 1]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [5, 6, 7, 1]]


def test_a_frequent_word_is_one_piece_in_a_corpus_of_few_words() -> None:
    """Sentencepiece alone would cut "is": no other word begins like it."""
    tokenizer = train_tokenizer(["this is a film , and so is that"] * 200, 300)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("that is a film , and this")["input_ids"])
    assert pieces == ["▁that", "▁is", "▁a", "▁film", "▁,", "▁and", "▁this", "</s>"]


def test_a_word_that_is_asked_for_is_one_piece() -> None:
    """Whether the texts never hold it, hold its pieces more often, or hold it often."""
    whole = ["4.6", "0.1", "5.0", "film"]
    tokenizer = train_tokenizer(["a film has 4 . 6 4.0 4 or 4.6 stars"] * 200, 300, whole)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("5.0 films , 4.6 0.1 4.65")["input_ids"])
    assert pieces[0] == "▁5.0" and pieces[1] == "▁film"
    assert pieces[3:-1] == ["▁,", "▁4.6", "▁0.1", "▁4.6", "5"]
    vocabulary = tokenizer.get_vocab()
    assert len(set(vocabulary.values())) == len(vocabulary) == len(tokenizer)


def test_the_same_texts_give_the_same_pieces() -> None:
    assert compact().get_vocab() == compact().get_vocab()
