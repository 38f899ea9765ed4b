"""A batch whose first row is padded, and what it means that gradients are equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0
LABELS = IDS.masked_fill(MASK == 0, -100)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}


def gradients(model: Any) -> dict[str, Tensor]:
    """Returns copies of all gradients, by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(mine: Any, theirs: Any) -> None:
    """The same parameters have gradients, and the same ones."""
    found, expected = gradients(mine), gradients(theirs)
    assert found.keys() == expected.keys()
    assert found
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-4 * float(grad.abs().max()), msg=name)
