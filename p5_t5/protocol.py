"""How P5's program trains and judges, and how this one does: each difference is one switch.

A switch that is on does as the program of the paper does, Geng et al., RecSys 2022. All are off by
default, which is the corrected protocol; ``--protocol paper`` turns all on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


def _switch(meaning: str) -> Any:
    return field(default=False, metadata={"help": f"as P5's program: {meaning}"})


@dataclass(frozen=True)
class Protocol:
    """The switches of a run, in which True is the program of the paper."""

    heldout_item_order: bool = _switch(
        "item codes are made from all interactions, held-out ones included, so that neighbouring "
        "numbers give the answer away (only where codes follow the histories: --item_ids "
        "sequential or collaborative)"
    )
    file_user_order: bool = _switch(
        "users are numbered in the order of the file, which in data made from reviews sorted by "
        "item puts users with a held-out item in common side by side"
    )
    random_row_split: bool = _switch(
        "the rows of rating, explanation and review are split at random, 80/10/10, whatever is "
        "held out of the histories"
    )
    sampling_counts: bool = _switch(
        "an epoch holds fixed numbers of examples a source row, with templates drawn evenly, "
        "instead of the shares of --tasks and the weights of the templates"
    )
    late_targets: bool = _switch(
        "the sequential task trains on each user's last three training items alone, with "
        "histories that start at the first, second or third item"
    )
    spared_negatives: bool = _switch(
        "the user's held-out items are never among the wrong candidates that training shows, so "
        "that what is never wrong gives them away"
    )
    rating_jitter: bool = _switch("stars to learn are drawn around the true ones, in tenths")
    right_truncation: bool = _switch(
        "the whole history is written and the text is cut after 512 tokens, which drops the newest "
        "items, instead of writing the newest --max_history items"
    )
    unconstrained_decoding: bool = _switch(
        "items are decoded by plain beam search; what is no item is dropped afterwards"
    )
    whole_words_in_training_only: bool = _switch(
        "whole-word embeddings are added while training and left out when predicting"
    )
    single_target_prompts: bool = _switch(
        "a target is the answer alone; templates that are given the start of the answer are left "
        "out"
    )
    uncalibrated_stars: bool = _switch(
        "probabilities of stars are the model's own, instead of calibrated on validation"
    )
    uncalibrated_repeats: bool = _switch(
        "items that a user already has, where they are not excluded, are as probable as the model "
        "says, instead of as often the next one as on validation"
    )
    free_explanations: bool = _switch(
        "explanations are written word by word, instead of choosing the most probable of what "
        "users said of the item, or of the facts that hold for it"
    )

    @classmethod
    def paper(cls) -> Protocol:
        """All switches on."""
        return cls(**dict.fromkeys(asdict(cls()), True))

    @property
    def longest_source(self) -> int | None:
        """The tokens after which a source is cut, ``None`` for no limit."""
        return 512 if self.right_truncation else None

    def facts(self) -> dict[str, Any]:
        """What a report says: a name, what split and ranking are, and every switch."""
        named = {"corrected": CORRECTED, "paper": Protocol.paper()}
        split = "leave one out per user: last item test, second last validation"
        if self.random_row_split:
            split += "; rating, explanation and review rows at random, 80/10/10, apart from it"
        ranking = "whole catalogue, beam search constrained to it"
        if self.unconstrained_decoding:
            ranking = "unconstrained beam search; what is no item is dropped afterwards"
        return {
            "protocol": next((name for name, each in named.items() if each == self), "mixed"),
            "split": split,
            "ranking": ranking,
            "as_in_the_paper": asdict(self),
        }


CORRECTED = Protocol()


def defaults(name: str) -> dict[str, Any]:
    """What ``--protocol NAME`` puts in the place of the command line's own defaults.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "corrected":
        return {}
    if name == "paper":
        return {"item_ids": "sequential", **asdict(Protocol.paper())}
    raise ValueError(f"--protocol must be corrected or paper, not {name!r}")
