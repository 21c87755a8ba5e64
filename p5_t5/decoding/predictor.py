"""From rendered prompts to answers: items, stars or sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, T5ForConditionalGeneration

from p5_t5.data.item_ids import ItemCodes
from p5_t5.decoding.batching import batches, request_bytes
from p5_t5.decoding.beam_search import Ranking, beam_search
from p5_t5.decoding.calibration import StarCalibration, calibration_of
from p5_t5.decoding.constraints import allow
from p5_t5.decoding.exact import pair_scores
from p5_t5.decoding.legal import LegalLeaves
from p5_t5.decoding.repeats import rank_again
from p5_t5.decoding.texts import likeness, text_scores
from p5_t5.decoding.trie import Trie, TrieTensors, build_trie
from p5_t5.decoding.unconstrained import FreeSearch
from p5_t5.modeling.collator import Collator
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.prompting.prompter import Prompt, stars
from p5_t5.prompting.reasons import Reason
from p5_t5.protocol import CORRECTED, Protocol

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
# Prompts at a time that have several texts to choose from: each text takes room of its own.
_MOST_TEXTS = 16


class Predictor:
    """Answers prompts with one model; prompts of any length, in any order."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        codes: ItemCodes,
        ratings: Sequence[float],
        *,
        beams: int = 20,
        batch_size: int = 64,
        memory_budget: int = 2**30,
        trie: Trie | None = None,
        protocol: Protocol = CORRECTED,
        calibrations: Mapping[str, StarCalibration] | None = None,
        repeats: float = 0.0,
    ) -> None:
        """Builds the tries of items and of ratings.

        Args:
            model: any T5; put into evaluation mode by each call.
            tokenizer: with the item tokens.
            codes: the catalogue's codes.
            ratings: the stars that an answer may name; empty where the data has none.
            beams: beginnings of codes kept at each level.
            batch_size: prompts a forward pass at most.
            memory_budget: bytes that a forward pass may hold, about; long prompts are answered in
                smaller batches.
            trie: of the codes, where it is known.
            protocol: where prediction follows P5's program.
            calibrations: of the probabilities that stars are expected by, see ``calibration_of``.
            repeats: is added to the log-probability of what a user already has, see ``rank``.
        """
        self.model = model
        self.words = WordTokenizer(tokenizer)
        self.ratings = np.array(ratings, dtype=np.float64)
        self.beams, self.batch_size, self.memory_budget = beams, batch_size, memory_budget
        self.calibrations, self.repeats = calibrations or {}, repeats
        self._collate = Collator(self.words, protocol.longest_source)
        self.trie = trie or build_trie(self.words.codes(codes), self.words.eos)
        self._free = FreeSearch(self.words, codes) if protocol.unconstrained_decoding else None
        self._items = TrieTensors(self.trie, model.device)
        self._stars = None
        if len(ratings):
            answers = [self.words.encode(stars(value), end=False) for value in ratings]
            self._stars = TrieTensors(build_trie(answers, self.words.eos), model.device)

    def rank(
        self,
        prompts: Sequence[Prompt],
        k: int,
        excluded: Sequence[npt.NDArray[np.int32]] | None = None,
        allowed: torch.Tensor | None = None,
        had: Sequence[npt.NDArray[np.int32]] | None = None,
    ) -> tuple[Rows, Floats]:
        """The k most probable items of each prompt, best first.

        Args:
            prompts: prompts whose answer is an item.
            k: how many.
            excluded: for each prompt the catalogue rows that must not be named.
            allowed: True where an item may be named unless it is excluded, shape (items,) or
                (prompts, items).
            had: for each prompt the catalogue rows that the user has. Where nothing is excluded
                ``repeats`` says how probable these are; unconstrained, the model alone does.

        Returns:
            Catalogue rows, -1 past the last legal item, and log-probabilities, both (prompts, k).
            Unconstrained, at most as many as beams.

        Raises:
            ValueError: a prompt may name no item at all, or ``allowed`` has another shape.
        """
        if self._free is not None:
            return self._rank_freely(prompts, k, excluded, allowed)
        legal = None
        if allowed is not None:
            legal = LegalLeaves.allow(self._items, allowed)
            legal.check(len(prompts))
        if had is not None and excluded is None and self.repeats:
            return rank_again(self, prompts, k, had, allowed)
        if excluded is not None:
            legal = (legal or LegalLeaves(self._items)).deny(excluded)
        items = np.full((len(prompts), k), -1, dtype=np.int64)
        scores = np.full((len(prompts), k), -np.inf)
        for index in self._batches(prompts):
            own = legal.select(torch.from_numpy(index)) if legal is not None else None
            found = self._search(self._items, [prompts[i] for i in index], k, own)
            items[index] = found.items.cpu().numpy()
            scores[index] = found.scores.cpu().numpy()
        return items, scores

    def rank_where_possible(
        self,
        prompts: Sequence[Prompt],
        k: int,
        excluded: Sequence[npt.NDArray[np.int32]] | None,
        had: Sequence[npt.NDArray[np.int32]],
    ) -> tuple[Rows, Floats]:
        """Like ``rank``, with no item for those who have all that there are."""
        items = np.full((len(prompts), k), -1, dtype=np.int64)
        scores = np.full((len(prompts), k), -np.inf)
        every = len(self.trie)
        own = range(len(prompts))
        left = [i for i in own if excluded is None or len(np.unique(excluded[i])) < every]
        if left:
            items[left], scores[left] = self.rank(
                [prompts[i] for i in left],
                k,
                None if excluded is None else [excluded[i] for i in left],
                had=[had[i] for i in left],
            )
        return items, scores

    def choose(
        self, prompts: Sequence[Prompt], candidates: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[Rows, Floats]:
        """All candidates of each prompt, the most probable first.

        The search keeps as many beginnings of codes as there are candidates, so it loses none.
        Unconstrained, any item of the catalogue may be named, and at most as many as beams.

        Args:
            prompts: prompts whose answer is one of their candidates.
            candidates: for each prompt the catalogue rows that it chooses among.

        Returns:
            Catalogue rows and log-probabilities among the whole catalogue, both (prompts, most
            candidates); -1 and -inf where a prompt has fewer.
        """
        longest = max(map(len, candidates))
        if self._free is not None:
            return self._rank_freely(prompts, longest)
        items = np.full((len(prompts), longest), -1, dtype=np.int64)
        scores = np.full((len(prompts), longest), -np.inf)
        for index in self._batches(prompts):
            lists = [candidates[i].astype(np.int32) for i in index]
            mask = LegalLeaves.allow(self._items, allow(lists, len(self._items)))
            found = self._search(self._items, [prompts[i] for i in index], longest, mask)
            items[index] = found.items.cpu().numpy()
            scores[index] = found.scores.cpu().numpy()
        return items, scores

    def _rank_freely(
        self,
        prompts: Sequence[Prompt],
        k: int,
        excluded: Sequence[npt.NDArray[np.int32]] | None = None,
        allowed: torch.Tensor | None = None,
    ) -> tuple[Rows, Floats]:
        """Like ``rank``, but what is not legal is dropped after the search."""
        assert self._free is not None
        self.model.eval()
        items = np.full((len(prompts), k), -1, dtype=np.int64)
        scores = np.full((len(prompts), k), -np.inf)
        most = max(self.memory_budget // self._free.request_bytes(self.model, self.beams), 1)
        alike = self._batches(prompts, same_given=True)
        for index in (b[i : i + most] for b in alike for i in range(0, len(b), most)):
            given = [self.words.encode(prompts[i].given, end=False) for i in index]
            batch = self._encode([prompts[i] for i in index])
            found = self._free.search(self.model, batch, given, self.beams)
            for i, (rows, values) in zip(index.tolist(), found, strict=True):
                keep = np.ones(len(rows), dtype=bool)
                if excluded is not None:
                    keep &= ~np.isin(rows, excluded[i])
                if allowed is not None:
                    keep &= allowed.broadcast_to(len(prompts), -1)[i].cpu().numpy()[rows]
                count = min(int(keep.sum()), k)
                items[i, :count], scores[i, :count] = rows[keep][:k], values[keep][:k]
        return items, scores

    @torch.no_grad()
    def word_probabilities(self, prompts: Sequence[Prompt], words: tuple[str, str]) -> Floats:
        """The probability of the first of two words, against the second, shape (prompts,)."""
        self.model.eval()
        answers = [self.words.encode(word, end=False) for word in words]
        trie = TrieTensors(build_trie(answers, self.words.eos), self.model.device)
        probabilities = np.zeros(len(prompts))
        for index in self._batches(prompts):
            batch = [prompts[i] for i in index]
            given = [self.words.encode(prompt.given, end=False) for prompt in batch]
            scores = pair_scores(
                self.model,
                trie,
                **self._encode(batch),
                items=torch.zeros(len(batch), dtype=torch.long),
                given=given if any(given) else None,
            )
            probabilities[index] = scores.double().exp().cpu().numpy()
        return probabilities

    def rate(self, prompts: Sequence[Prompt]) -> tuple[Floats, Floats]:
        """The stars of each prompt: expected over calibrated probabilities, and decoded without.

        Returns:
            Expected and most probable stars, each of shape (prompts,).

        Raises:
            ValueError: the model was trained without ratings.
        """
        found = self.star_probabilities(prompts)
        decoded = self.ratings[found.argmax(axis=1)]
        wordings = np.array([prompt.template for prompt in prompts])
        for wording in dict.fromkeys(wordings.tolist()):
            calibration = calibration_of(self.calibrations, wording)
            if calibration:
                found[wordings == wording] = calibration.apply(found[wordings == wording])
        return found @ self.ratings, decoded

    def star_probabilities(self, prompts: Sequence[Prompt]) -> Floats:
        """The probability of each number of stars, shape (prompts, stars), fewest stars first.

        Raises:
            ValueError: the model was trained without ratings.
        """
        if self._stars is None:
            raise ValueError("this model was trained on data without ratings")
        probabilities = np.zeros((len(prompts), len(self.ratings)))
        for index in self._batches(prompts):
            found = self._search(self._stars, [prompts[i] for i in index], len(self.ratings), None)
            scores = found.scores.double().exp().cpu().numpy()
            probabilities[index[:, None], found.items.cpu().numpy()] = scores
        return probabilities

    @torch.no_grad()
    def write(self, prompts: Sequence[Prompt], max_new_tokens: int = 48) -> list[str]:
        """The most probable text of each prompt, greedily decoded, given start included."""
        self.model.eval()
        texts = [""] * len(prompts)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
            pad_token_id=self.words.pad,
            eos_token_id=self.words.eos,
        )
        for index in self._batches(prompts, same_given=True):
            start = self.model.config.decoder_start_token_id
            given = [self.words.encode(prompts[i].given, end=False) for i in index]
            written = self.model.generate(
                **self._encode([prompts[i] for i in index]),
                decoder_input_ids=torch.tensor(
                    [[start, *row] for row in given], device=self.model.device
                ),
                generation_config=config,
            )
            decoded = self.words.tokenizer.batch_decode(written, skip_special_tokens=True)
            for i, text in zip(index, decoded, strict=True):
                texts[i] = text.strip()
        return texts

    def explain(
        self,
        prompts: Sequence[Prompt],
        known: Sequence[Sequence[Reason]],
        length_penalty: float = 1.0,
        commonness: float = 0.0,
    ) -> list[Reason]:
        """For each prompt the best of its known reasons; where it has none, one is written.

        Args:
            prompts: prompts whose answer is a text.
            known: for each prompt the reasons to choose from.
            length_penalty: of the choice, as ``pick`` has it.
            commonness: of the choice, as ``pick`` has it.
        """
        asked = [i for i, own in enumerate(known) if own]
        rest = [i for i, own in enumerate(known) if not own]
        picked = self.pick(
            [prompts[i] for i in asked], [known[i] for i in asked], length_penalty, commonness
        )
        written = [Reason(text, "model") for text in self.write([prompts[i] for i in rest])]
        found = dict(zip([*asked, *rest], [*picked, *written], strict=True))
        return [found[i] for i in range(len(prompts))]

    @torch.no_grad()
    def pick(
        self,
        prompts: Sequence[Prompt],
        known: Sequence[Sequence[Reason]],
        length_penalty: float = 1.0,
        commonness: float = 0.0,
    ) -> list[Reason]:
        """For each prompt the most probable of some reasons, or one that is like the others too.

        Args:
            prompts: prompts whose answer is a text.
            known: for each prompt at least one reason to choose from.
            length_penalty: 1 compares by the mean over the tokens, more favours long texts.
            commonness: how much a text's likeness to the others counts beside its log-probability.
        """
        self.model.eval()
        picked: dict[int, Reason] = {}
        for index in self._batches(prompts, most=_MOST_TEXTS):
            batch = [prompts[i] for i in index]
            given = [self.words.encode(prompt.given, end=False) for prompt in batch]
            scores = text_scores(
                self.model,
                **self._encode(batch),
                texts=[[self.words.encode(reason.text) for reason in known[i]] for i in index],
                given=given if any(given) else None,
                length_penalty=length_penalty,
            )
            for i, own in zip(index.tolist(), scores, strict=True):
                texts = [reason.text for reason in known[i]]
                common = commonness * likeness(texts) if commonness else 0.0
                picked[i] = known[i][int(np.argmax(np.array(own) + common))]
        return [picked[i] for i in range(len(prompts))]

    def _search(
        self, trie: TrieTensors, prompts: Sequence[Prompt], k: int, allowed: LegalLeaves | None
    ) -> Ranking:
        self.model.eval()
        given = [self.words.encode(prompt.given, end=False) for prompt in prompts]
        batch = self._encode(prompts)
        return beam_search(
            self.model,
            trie,
            batch["input_ids"],
            batch["attention_mask"],
            k=k,
            beams=self.beams,
            given=given if any(given) else None,
            allowed=allowed,
        )

    def _encode(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        batch = self._collate.encode([self.words.encode(prompt.source) for prompt in prompts])
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def _batches(
        self, prompts: Sequence[Prompt], same_given: bool = False, most: int | None = None
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Prompts of like length together; with ``same_given`` only equally long given starts."""
        most = min(most or self.batch_size, self.batch_size)
        source = np.array([len(self.words.encode(prompt.source)) for prompt in prompts])
        given = np.array([len(self.words.encode(prompt.given, end=False)) for prompt in prompts])
        order = np.lexsort((source, given) if same_given else (given, source))
        edges = np.flatnonzero(np.diff(given[order])) + 1
        needs = request_bytes(self.model.config, self._items, self.beams, source, given)
        for group in np.split(order, edges) if same_given else [order]:
            yield from batches(group, needs[group], most=most, budget=self.memory_budget)
