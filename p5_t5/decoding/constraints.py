"""Which items an answer may name: per-request allow and deny lists as leaf masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch


def deny(lists: Sequence[npt.NDArray[np.int32]], num_items: int) -> torch.Tensor:
    """A mask that allows everything but the given items.

    Args:
        lists: for each request the items that its answer must not name.
        num_items: the size of the catalogue.

    Returns:
        True where an item is allowed, shape (requests, items).
    """
    mask = torch.ones(len(lists), num_items, dtype=torch.bool)
    counts = torch.tensor([len(row) for row in lists])
    rows = torch.repeat_interleave(torch.arange(len(lists)), counts)
    if len(rows):
        mask[rows, torch.from_numpy(np.concatenate(lists).astype(np.int64))] = False
    return mask
