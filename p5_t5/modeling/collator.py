"""Examples to one padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from p5_t5.modeling.tokenizer import WordTokenizer

# What cross-entropy leaves out.
IGNORED = -100


class Collator:
    """Pads tokenised examples."""

    def __init__(self, tokenizer: WordTokenizer, longest: int | None = None) -> None:
        """Pads as the tokenizer does.

        Args:
            tokenizer: whose padding it is.
            longest: sources of more tokens are cut on the right, the end kept; ``None``: never.
        """
        self._tokenizer, self._longest = tokenizer, longest

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Gives ``input_ids``, ``attention_mask``, ``labels``, ``task`` and ``weights``.

        ``task`` has the shape (batch,), the others (batch, longest). Labels are -100 at padding,
        the weights of their tokens 0 there, and elsewhere 1 where the examples have none.
        """
        batch = self.encode([example["input_ids"] for example in examples])
        labels = [example["labels"] for example in examples]
        batch["labels"] = self._tokenizer.pad_batch(labels, IGNORED)
        batch["task"] = torch.tensor([example["task"] for example in examples])
        weights = [example.get("weights", [1.0] * len(example["labels"])) for example in examples]
        rows = [torch.tensor(row, dtype=torch.float32) for row in weights]
        batch["weights"] = pad_sequence(rows, batch_first=True)
        return batch

    def encode(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Gives ``input_ids`` and ``attention_mask``, shape (rows, longest)."""
        if (most := self._longest) is not None:
            rows = [r if len(r) <= most else [*r[: most - 1], self._tokenizer.eos] for r in rows]
        input_ids = self._tokenizer.pad_batch(rows, self._tokenizer.pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return {"input_ids": input_ids, "attention_mask": mask.long()}
