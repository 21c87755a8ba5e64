from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from p5_t5.modeling.assembly import make_tokenizer
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.loader import Loader
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.prompting.corpus import read_corpus, read_tasks
from p5_t5.prompting.mixture import Mixture
from p5_t5.prompting.prompter import PromptSettings

Steps = list[list[dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def made(toy: Path) -> tuple[Mixture, Collator]:
    corpus = read_corpus(toy, read_tasks(["sequential=2", "rating"]), PromptSettings())
    words = WordTokenizer(make_tokenizer(corpus, None, 300, 0))
    mixture = Mixture(
        corpus, words.cut, words.eos, tokens_per_batch=20_000, batches_per_step=4, seed=0
    )
    return mixture, Collator(words)


def same(first: Steps, second: Steps) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[name], b[name])
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
        for name in a
    )


def test_steps_from_the_middle_are_those_of_the_whole(made: tuple[Mixture, Collator]) -> None:
    """Over the end of an epoch, and without touching the generator that dropout draws from."""
    epoch = len(made[0].epoch(0).steps)
    before = torch.random.get_rng_state()
    whole = list(islice(Loader(*made).steps(), epoch + 3))
    assert torch.equal(torch.random.get_rng_state(), before)
    for begin in (1, epoch - 1, epoch, epoch + 1):
        rest = list(islice(Loader(*made).steps(begin), epoch + 3 - begin))
        assert same(rest, whole[begin:])


def test_processes_share_the_batches_of_a_step(made: tuple[Mixture, Collator]) -> None:
    whole = list(islice(Loader(*made).steps(), 3))
    parts = [list(islice(Loader(*made, index=i, processes=2).steps(), 3)) for i in range(2)]
    joined = [
        [batch for pair in zip(*step, strict=True) for batch in pair]
        for step in zip(*parts, strict=True)
    ]
    assert same(joined, whole)


def test_an_error_while_rendering_reaches_the_loop(
    made: tuple[Mixture, Collator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> dict[str, torch.Tensor]:
        raise ValueError("no such thing")

    monkeypatch.setattr(made[1], "encode", fails)
    with pytest.raises(ValueError, match="no such thing"):
        next(Loader(*made).steps())
