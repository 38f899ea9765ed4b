"""Whether a client trains the base's own layers, instead of adapters on them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import nn

from symbiosis_adapters.layers.modules import RemoteConv1D, RemoteLinear

__all__ = ["trained_here"]


def trained_here(layers: Iterable[nn.Module]) -> Callable[[], bool]:
    """Returns what tells whether all of these linears but one were taken, and some are being trained.

    Holds none of them. Asked for every op: where two were not taken, as nearly always, it looks no further.
    """
    linears = [weakref.ref(layer) for layer in layers if isinstance(layer, RemoteLinear | RemoteConv1D)]

    def tell() -> bool:
        left, trained = 0, False
        for known in linears:
            if (layer := known()) is None:
                continue
            if not layer.taken:
                left += 1
                if left > 1:
                    return False
            trained = trained or layer.weight.requires_grad
        return trained and torch.is_grad_enabled()

    return tell
