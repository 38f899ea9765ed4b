"""The remote layer as one operation of a captured graph.

Where a forward is captured (see `capture`), torch.compile's tracer must not walk into a remote layer: sessions and
recordings are none of its business. It sees this operation, which says what shape comes out and can compute
nothing; `cutting` puts the layer itself in its place.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Final

import torch
from torch import Tensor, nn

from symbiosis_adapters.captured.turns import pause

__all__ = ["OPERATION", "enroll", "is_of", "layer_of"]

_numbers = itertools.count()
_layers: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()


def enroll(layer: nn.Module) -> int:
    """Returns the number by which a captured graph names `layer`."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def layer_of(number: int) -> nn.Module:
    """Returns the layer of that number, as long as it lives."""
    return _layers[number]


def is_of(number: int, layer: nn.Module) -> bool:
    """Whether that is the layer's number."""
    return _layers.get(number) is layer


@torch.library.custom_op("symbiosis::frozen_layer", mutates_args=())
def _frozen_layer(x: Tensor, number: int, width: int, dtype: torch.dtype) -> Tensor:
    # `cutting` puts the layer in its place, so this is never run; a custom operator must have a body.
    raise NotImplementedError("a captured graph was run without being cut")


@_frozen_layer.register_fake
def _(x: Tensor, number: int, width: int, dtype: torch.dtype) -> Tensor:
    pause()
    lead = x.shape if x.dtype is torch.int64 else x.shape[:-1]
    return x.new_empty((*lead, width), dtype=dtype)


OPERATION: Final[Any] = torch.ops.symbiosis.frozen_layer.default
"""Takes the input, the layer's number, and the width and type of what comes out."""
