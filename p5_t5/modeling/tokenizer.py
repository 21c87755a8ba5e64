"""The tokenizer: T5's own, or one learnt from the rendered prompts, plus the item tokens.

Text is cut word by word: a T5 tokenizer never joins two words, so the pieces of a text are the
pieces of its words one after the other, and each word has to be cut only once.
"""

from __future__ import annotations

import io
import string
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Tokenizer
from transformers.tokenization_utils_base import AddedToken

from p5_t5.data.item_ids import ItemCodes
from p5_t5.prompting.span_corruption import SENTINELS

# Pieces are at most so long, and are sought among so many candidates from so many words.
_LONGEST_PIECE, _SEEDS, _SEED_WORDS = 16, 200_000, 100_000


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, whole: Iterable[str] = ()
) -> PreTrainedTokenizerBase:
    """Learns a sentencepiece unigram model from texts and gives it as a T5 tokenizer.

    Every printable ASCII character is in the vocabulary, so that numbers and new titles can always
    be written.

    Args:
        texts: training text without sentinels; words of item tokens are best left out of it.
        vocab_size: at most so many pieces, before T5's 100 sentinels and ``whole``.
        whole: words that are one piece each, however rare they are.
    """
    alphabet = [" ".join(string.digits + string.ascii_letters + string.punctuation)] * 3
    lines = [*texts, *alphabet]
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds.tsv"
        seeds.write_text(_seeds(lines), encoding="utf-8")
        _train(lines, str(seeds), vocab_size, model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    # No cut is more probable than a piece that costs nothing.
    found = {f"▁{word}" for word in whole}
    vocabulary = [(piece, 0.0 if piece in found else score) for piece, score in vocabulary]
    vocabulary += [(piece, 0.0) for piece in sorted(found - {piece for piece, _ in vocabulary})]
    vocabulary += [(sentinel, 0.0) for sentinel in reversed(SENTINELS)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=len(SENTINELS))


def _seeds(lines: Sequence[str]) -> str:
    """Candidates for pieces, one a line with its weight.

    Left alone, sentencepiece takes only what occurs in two different words, however often: "is"
    would be two pieces in a corpus of few words, and so would most words of a prompt.
    """
    words = Counter(word for line in lines for word in line.split())
    counts: Counter[str] = Counter()
    for word, count in words.most_common(_SEED_WORDS):
        marked = f"▁{word}"
        for begin in range(len(marked)):
            for end in range(begin + 1, min(len(marked), begin + _LONGEST_PIECE) + 1):
                counts[marked[begin:end]] += count
    weighted = [(piece, count * len(piece)) for piece, count in counts.items() if count > 1]
    weighted.sort(key=lambda pair: (-pair[1], pair[0]))
    return "".join(f"{piece}\t{weight}\n" for piece, weight in weighted[:_SEEDS])


def _train(lines: Sequence[str], seeds: str, vocab_size: int, model: io.BytesIO) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        seed_sentencepieces_file=seeds,
        max_sentencepiece_length=_LONGEST_PIECE,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a T5 checkpoint, local or from the Hub."""
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def add_item_tokens(tokenizer: PreTrainedTokenizerBase, codes: ItemCodes) -> None:
    """Adds the tokens of the item codes; numbers need none.

    Raises:
        ValueError: a token is in the vocabulary already, so that text could be taken for an item.
    """
    known = set(tokenizer.get_vocab()).intersection(codes.new_tokens)
    if known:
        raise ValueError(f"the tokenizer already has the item token {min(known)!r}")
    tokens = [AddedToken(token, normalized=False, special=False) for token in codes.new_tokens]
    tokenizer.add_tokens(tokens)


def check_item_tokens(tokenizer: PreTrainedTokenizerBase, codes: ItemCodes) -> None:
    """Makes sure that the tokenizer of a trained P5 has the tokens of its item codes.

    Raises:
        ValueError: one of them is missing.
    """
    missing = set(codes.new_tokens) - set(tokenizer.get_vocab())
    if missing:
        raise ValueError(f"the tokenizer has no item token {min(missing)!r}, as its codes want")


def check_sentinels(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes sure that masked spans can be written.

    Raises:
        ValueError: one of T5's sentinels is not a token of its own.
    """
    known = tokenizer.get_vocab()
    for sentinel in SENTINELS:
        if tokenizer(sentinel, add_special_tokens=False)["input_ids"] != [known.get(sentinel)]:
            raise ValueError(
                f"the tokenizer has no token {sentinel!r}: masking spans of a history needs T5's "
                f"{len(SENTINELS)} sentinels"
            )


def word_starts(tokenizer: PreTrainedTokenizerBase, codes: ItemCodes) -> npt.NDArray[np.bool_]:
    """Which tokens start a word, by P5's whole-word rule, shape (vocabulary,).

    All pieces of one item code count as one word, and so does a sentinel, which stands for items.
    Other special tokens start none.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    first = set(codes.new_tokens) - codes.continuation_tokens | set(SENTINELS)
    return np.array([piece.startswith("▁") or piece in first for piece in pieces], dtype=bool)


class WordTokenizer:
    """Cuts texts into token ids, remembering every word it has seen.

    Gives exactly the ids of ``tokenizer(text)``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Wraps a T5 tokenizer."""
        assert isinstance(tokenizer.eos_token_id, int)
        assert isinstance(tokenizer.pad_token_id, int)
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, *, end: bool = True) -> list[int]:
        """Token ids of a text, closed with ``</s>`` unless ``end`` is false."""
        ids = self.cut(text)
        if end:
            ids.append(self.eos)
        return ids

    def cut(self, text: str) -> list[int]:
        """Token ids of a text, not closed."""
        ids: list[int] = []
        for word in text.split():
            pieces = self._words.get(word)
            if pieces is None:
                pieces = self._words[word] = self._pieces(word)
            ids.extend(pieces)
        return ids

    def _pieces(self, word: str) -> tuple[int, ...]:
        if len(self._words) > 1_000_000:
            self._words.clear()
        return tuple(self.tokenizer(word, add_special_tokens=False)["input_ids"])

    def codes(self, codes: ItemCodes) -> list[tuple[int, ...]]:
        """The tokens of every item code.

        Raises:
            ValueError: two items have the same tokens, or a code holds an unknown character.
        """
        tokens = [tuple(self.encode(text, end=False)) for text in codes.texts]
        unknown = self.tokenizer.unk_token_id
        seen: dict[tuple[int, ...], int] = {}
        for item, code in enumerate(tokens):
            if unknown in code:
                raise ValueError(f"the tokenizer can't write the item code {codes.texts[item]!r}")
            if seen.setdefault(code, item) != item:
                other = codes.texts[seen[code]]
                raise ValueError(
                    f"the codes {other!r} and {codes.texts[item]!r} are cut into the same tokens"
                )
        return tokens

    def pad_batch(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        """Rows of unequal length as one tensor, padded on the right, shape (rows, longest)."""
        batch = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
        for i, row in enumerate(rows):
            batch[i, : len(row)] = row
        return torch.from_numpy(batch)
