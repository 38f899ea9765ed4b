"""Whether a client trains the base's own layers, instead of adapters on them.

LoRA-GA begins with gradients of the base's own weights, in all layers but the head. A segment's gradients differ
in their last bit from those of the model's own steps, which a decomposition may answer with another sign. What is
left to bring together there are the head and the loss: so nothing is deferred, and the logits cross, as under the
other cuts.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["Body"]


class _Linear(Protocol):
    """A remote linear."""

    taken: bool
    weight: torch.Tensor


class Body:
    """The linears of one model's base, held weakly. A copy of it is empty: the copies of the layers join that."""

    def __init__(self) -> None:
        self._linears: list[weakref.ref[Any]] = []

    def __reduce__(self) -> tuple[type[Body], tuple[()]]:
        return Body, ()

    def join(self, layer: nn.Module) -> None:
        """Counts a layer from now on, if it is a linear."""
        if not isinstance(layer, nn.Embedding):
            self._linears.append(weakref.ref(layer))

    @property
    def is_trained(self) -> bool:
        """Whether all of these linears but one were taken, and gradients of some are wanted now.

        Asked at every op: where two were not taken, as nearly always, it looks no further.
        """
        if not torch.is_grad_enabled():
            return False
        left, trained = 0, False
        for known in self._linears:
            layer: _Linear | None = known()
            if layer is None:
                continue
            if not layer.taken:
                left += 1
                if left > 1:
                    return False
            trained = trained or layer.weight.requires_grad
        return trained
