"""Which indices give a view, and not a copy, and what they say in plain numbers."""

from __future__ import annotations

import operator
from typing import Any, Final

import torch

__all__ = ["basic_index"]

_MASKS: Final = frozenset({torch.bool, torch.uint8})


def basic_index(index: Any) -> tuple[Any, ...] | None:
    """Returns the same index of numbers, slices and the like; None where it gives a copy: with a tensor or a list.

    A number may come as one of NumPy's, or as a tensor without dimensions. An empty index is an ellipsis.
    """
    each = index if isinstance(index, tuple) else (index,)
    each = each or (Ellipsis,)
    try:
        return tuple([_basic(one) for one in each])
    except TypeError:
        return None


def _basic(one: Any) -> Any:
    """Raises TypeError for anything that gives a copy."""
    if one is None or one is Ellipsis or type(one) is slice:
        return one
    if isinstance(one, bool) or (isinstance(one, torch.Tensor) and (one.ndim or one.dtype in _MASKS)):
        raise TypeError
    return operator.index(one)
