"""Plain beam search over the whole vocabulary, and the items among what it writes.

P5's program decodes like this. It is here to be compared with; the search over the trie is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, T5ForConditionalGeneration

from p5_t5.data.item_ids import ItemCodes
from p5_t5.modeling.tokenizer import WordTokenizer

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


class FreeSearch:
    """Writes texts with ``model.generate`` and looks for items among them."""

    def __init__(self, words: WordTokenizer, codes: ItemCodes) -> None:
        """Keeps how each item is written.

        Args:
            words: the tokenizer.
            codes: the catalogue's codes.

        Raises:
            ValueError: a code can't be written.
        """
        self._words = words
        tokens = words.codes(codes)
        texts = words.tokenizer.batch_decode([list(code) for code in tokens])
        self._items = {text.strip(): item for item, text in enumerate(texts)}
        # A longer text is no item; the end is one token more.
        self._longest = max(map(len, tokens)) + 1

    def request_bytes(self, model: T5ForConditionalGeneration, beams: int) -> int:
        """What ``generate`` keeps for one request: the scores of all tokens at every step."""
        vocabulary: int = model.config.vocab_size
        return 4 * beams * self._longest * vocabulary

    @torch.no_grad()
    def search(
        self,
        model: T5ForConditionalGeneration,
        batch: Mapping[str, torch.Tensor],
        given: Sequence[Sequence[int]],
        beams: int,
    ) -> list[Found]:
        """The items that each request's beams name, each once, in the order of the beams.

        Args:
            model: any T5.
            batch: ``input_ids`` and ``attention_mask``, shape (requests, length).
            given: the start of each answer, all of the same number of tokens.
            beams: how many texts are written.

        Returns:
            For each request catalogue rows and log-probabilities, both (named items,).
        """
        start = model.config.decoder_start_token_id
        prefix = torch.tensor([[start, *row] for row in given], device=model.device)
        config = GenerationConfig(
            num_beams=beams,
            num_return_sequences=beams,
            early_stopping=True,
            max_new_tokens=self._longest,
            return_dict_in_generate=True,
            output_scores=True,
            decoder_start_token_id=start,
            pad_token_id=self._words.pad,
            eos_token_id=self._words.eos,
        )
        written = model.generate(**batch, decoder_input_ids=prefix, generation_config=config)
        tokens = written.sequences[:, prefix.shape[1] :]
        ended = (tokens == self._words.eos).any(dim=1)
        # The search compares means over the tokens.
        lengths = (tokens != self._words.pad).sum(dim=1)
        scores = (written.sequences_scores.double() * lengths).cpu().numpy()
        texts = self._words.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        rows = [
            self._items.get(text.strip(), -1) if end else -1
            for text, end in zip(texts, ended.tolist(), strict=True)
        ]
        named = np.array(rows, dtype=np.int64).reshape(-1, beams)
        return [_each_once(*one) for one in zip(named, scores.reshape(-1, beams), strict=True)]


def _each_once(rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> Found:
    """What is an item (not -1), where it stands first."""
    _, first = np.unique(rows, return_index=True)
    first = np.sort(first)
    first = first[rows[first] >= 0]
    return rows[first], scores[first]
