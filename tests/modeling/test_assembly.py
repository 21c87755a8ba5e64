"""Tokenizer and model for a corpus: from scratch, from a T5, from a P5 that is trained further."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration, T5Tokenizer

from p5_t5.modeling.assembly import make_model, make_tokenizer
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.prompting.corpus import Corpus, read_corpus, read_tasks
from p5_t5.prompting.prompter import PromptSettings
from p5_t5.prompting.tasks import DENOISING

SHAPE = {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1}


def corpus_of(toy: Path, *tasks: str, scheme: str = "atomic") -> Corpus:
    return read_corpus(toy, read_tasks(tasks), PromptSettings(), item_ids=scheme, seed=0)


def assembled(
    corpus: Corpus, checkpoint: str | None = None, told: Corpus | None = None, **shape: int
) -> tuple[PreTrainedTokenizerBase, P5ForConditionalGeneration]:
    tokenizer = make_tokenizer(corpus, checkpoint, 300, seed=0)
    config = P5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **(SHAPE | shape))
    return tokenizer, make_model(config, tokenizer, corpus.catalogue.codes, checkpoint, told)


@pytest.mark.parametrize("scheme", ["atomic", "collaborative"])
def test_a_p5_that_is_trained_further_keeps_tokens_and_weights(
    toy: Path, tmp_path: Path, scheme: str
) -> None:
    torch.manual_seed(0)
    corpus = corpus_of(toy, "sequential", "denoising", scheme=scheme)
    tokenizer, model = assembled(corpus)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    further, loaded = assembled(corpus_of(toy, "sequential", scheme=scheme), str(tmp_path))
    assert further.get_vocab() == tokenizer.get_vocab()
    codes = corpus.catalogue.codes
    assert WordTokenizer(further).codes(codes) == WordTokenizer(tokenizer).codes(codes)
    items = tokenizer.convert_tokens_to_ids(list(codes.new_tokens))
    torch.testing.assert_close(loaded.shared.weight[items], model.shared.weight[items])
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=0, msg=name)


def test_a_p5_of_other_codes_lacks_their_tokens(toy: Path, tmp_path: Path) -> None:
    tokenizer, model = assembled(corpus_of(toy, "sequential", scheme="collaborative"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no item token '<item_0>'"):
        assembled(corpus_of(toy, "sequential"), str(tmp_path))


def test_a_t5_without_sentinels_learns_tasks_but_no_denoising(toy: Path, tmp_path: Path) -> None:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    tokenizer.save_pretrained(tmp_path)
    shape = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **SHAPE)
    T5ForConditionalGeneration(shape).save_pretrained(tmp_path)
    corpus = corpus_of(toy, "sequential", "denoising")
    with pytest.raises(ValueError, match="T5's 100 sentinels"):
        assembled(corpus, str(tmp_path))
    assert "<item_0>" in assembled(corpus_of(toy, "sequential"), str(tmp_path))[0].get_vocab()


def test_pieces_of_sentinels_are_not_learnt(toy: Path) -> None:
    tokenizer, _ = assembled(corpus_of(toy, "denoising").only(DENOISING))
    learnt = {piece for piece in tokenizer.get_vocab() if "extra" in piece}
    assert learnt == {f"<extra_id_{number}>" for number in range(100)}


def drawn_and_placed(
    corpus: Corpus, checkpoint: str | None = None, **shape: int
) -> tuple[PreTrainedTokenizerBase, torch.Tensor, torch.Tensor]:
    """The embeddings of one seed, at random and moved to where their tokens lie."""
    starts = []
    for told in (None, corpus):
        torch.manual_seed(0)
        tokenizer, model = assembled(corpus, checkpoint, told, **shape)
        starts.append(model.shared.weight.detach())
    return tokenizer, *starts


@pytest.mark.parametrize("scheme", ["atomic", "collaborative"])
@pytest.mark.parametrize("from_t5", [False, True])
def test_new_item_tokens_start_near_their_neighbours(
    toy: Path, tmp_path: Path, scheme: str, from_t5: bool
) -> None:
    corpus = corpus_of(toy, "sequential", scheme=scheme)
    checkpoint = None
    if from_t5:
        tokenizer, _ = assembled(corpus_of(toy, "sequential", scheme="random"))
        T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(
            tmp_path
        )
        tokenizer.save_pretrained(tmp_path)
        checkpoint = str(tmp_path)
    tokenizer, drawn, placed = drawn_and_placed(corpus, checkpoint)
    rows = tokenizer.convert_tokens_to_ids(list(corpus.catalogue.codes.new_tokens))
    if from_t5:
        others = torch.ones(len(drawn), dtype=torch.bool)
        others[rows] = False
        assert torch.equal(placed[others], drawn[others])
    # As long as before, and the more alike the more often they follow each other.
    assert placed[rows].norm(dim=1).mean() == pytest.approx(
        float(drawn[rows].norm(dim=1).mean()), rel=0.15
    )
    if scheme == "atomic":
        offsets, items = corpus.split.train_histories()
        pairs = [
            pair for begin, end in pairwise(offsets) for pair in pairwise(items[begin:end].tolist())
        ]
        first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
        own = torch.nn.functional.normalize(placed[rows])
        beside = (own[first] * own[second]).sum(1).mean()
        assert beside > (own @ own.T).mean() + 0.1


def test_pieces_of_words_start_near_their_neighbours_but_other_pieces_stay(toy: Path) -> None:
    corpus = corpus_of(toy, "sequential", "rating")
    tokenizer, drawn, placed = drawn_and_placed(corpus)
    others = tokenizer.convert_tokens_to_ids([*"12345", "</s>", "<extra_id_0>"])
    assert torch.equal(placed[others], drawn[others])
    words = tokenizer.convert_tokens_to_ids(["▁stars", "▁give", "▁visitor", "▁average"])
    assert tokenizer.unk_token_id not in words
    own = torch.nn.functional.normalize(placed[words])
    assert own.norm(dim=1) == pytest.approx(1)
    # "How many stars will … give": beside each other in the prompts.
    assert own[0] @ own[1] > 0.2 + drawn[words[0]] @ drawn[words[1]]


def test_numbers_of_stars_start_on_a_smooth_path(toy: Path) -> None:
    # In many dimensions vectors that are drawn at random are alike by chance no more.
    corpus = corpus_of(toy, "sequential", "rating")
    tokenizer, drawn, placed = drawn_and_placed(corpus, d_model=512)
    path = [f"▁{tenths / 10}" for tenths in range(10, 51)]
    rows = tokenizer.convert_tokens_to_ids(path)
    assert tokenizer.unk_token_id not in rows
    own = torch.nn.functional.normalize(placed[rows])
    alike = own @ own.T
    neighbours, far = alike.diagonal(1), alike.diagonal(20)
    assert neighbours.min() > 0.85 and neighbours.mean().item() == pytest.approx(0.93, abs=0.03)
    assert far.mean().item() == pytest.approx(0, abs=0.15)
    length = drawn[rows].norm(dim=1).mean().item()
    assert placed[rows].norm(dim=1).mean().item() == pytest.approx(length, rel=0.1)
    # The stars themselves lie where their numbers do.
    stars, numbers = (
        torch.nn.functional.normalize(
            placed[tokenizer.convert_tokens_to_ids([f"▁{star}{end}" for star in range(1, 6)])]
        )
        for end in ("", ".0")
    )
    assert (stars @ numbers.T).argmax(dim=1).tolist() == [0, 1, 2, 3, 4]


def test_without_stars_numbers_stay_where_they_were_drawn(tmp_path: Path) -> None:
    lines = [f"u{user},i{(user + step) % 5}" for user in range(6) for step in range(4)]
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n" + "\n".join(lines), "utf-8")
    tokenizer, drawn, placed = drawn_and_placed(corpus_of(tmp_path, "sequential"))
    numbers = [token for token in tokenizer.get_vocab() if token.removeprefix("▁").isdigit()]
    rows = tokenizer.convert_tokens_to_ids(numbers)
    assert rows and torch.equal(placed[rows], drawn[rows])


def leanings(toy: Path, *tasks: str) -> dict[str, float]:
    """For each piece of a word the cosine with the way from one star to five."""
    tokenizer, _, placed = drawn_and_placed(corpus_of(toy, *tasks), d_model=512)
    own = torch.nn.functional.normalize(placed)
    few, many = tokenizer.convert_tokens_to_ids(["▁1", "▁5"])
    found = own @ torch.nn.functional.normalize(own[many] - own[few], dim=0)
    return {
        token: float(found[id_])
        for token, id_ in tokenizer.get_vocab().items()
        if not any(letter.isdigit() for letter in token)
    }


def test_words_of_reviews_lean_to_the_stars_that_they_go_with(toy: Path) -> None:
    found = leanings(toy, "review")
    assert min(found[f"▁{word}"] for word in ("best", "joy", "worth")) > 0.15
    assert max(found[f"▁{word}"] for word in ("stiff", "halfway", "hoped")) < -0.15
    # Where no prompt shows a review, none of its words leans.
    unread = leanings(toy, "sequential", "rating")
    assert "▁the" in unread and max(map(abs, unread.values())) < 0.2 < found["▁the"]


def test_the_item_tokens_of_a_p5_stay_where_they_are(toy: Path, tmp_path: Path) -> None:
    corpus = corpus_of(toy, "sequential")
    tokenizer, model = assembled(corpus)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, further = assembled(corpus, str(tmp_path), corpus)
    assert torch.equal(further.shared.weight, model.shared.weight)
