"""What every cell computes on: two rows of token ids, the first padded on the left."""

from __future__ import annotations

import torch

from symbiosis_bench.compat.families import VOCABULARY

__all__ = ["batch"]

_TOKENS = 12
_PADDED = 4


def batch() -> dict[str, torch.Tensor]:
    """Returns the batch, always the same, and fresh."""
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCABULARY, (2, _TOKENS), generator=draw)
    ids[:, _PADDED] = 6  # where one method's invocation begins
    mask = torch.ones_like(ids)
    mask[0, :_PADDED] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
