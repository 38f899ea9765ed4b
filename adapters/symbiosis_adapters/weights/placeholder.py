"""What stands where a frozen weight would: its shape, dtype and device, and its values only where they are lent.

PEFT, accelerate and transformers ask a base weight for `shape`, `dtype`, `device` and `numel()`, and put adapters
where it is; on the meta device they would put them there too, which fails in backward. So a placeholder is on a
real device: one element, expanded with stride 0. It answers questions about itself, and can be moved, viewed and
copied. That of a module is a parameter, and a view or a copy of it is a tensor, as with torch's own. What needs
its values is one of two things:

- A function that only computes something new of them (`questions.READS`: DoRA's norm, PiSSA's decomposition) gets
  the lent values for this once. The placeholder stays one, and the daemon goes on computing the layer.
- Anything else may write to them, keep them or train them. Then the placeholder is *taken*: it becomes an ordinary
  parameter over memory of this process's own, and so do the views of it that led there. A layer with a taken
  weight is computed here (`RemoteLayer`), for nobody can know what its weight holds now.

Where the daemon does not lend, either is refused, naming the layer, the operation and whose code it is; but rows
times a weight are what the daemon computes anyway (`factors`), and a bias is what its op makes of zeros. What gets
around all that (C++ code that never asks Python) finds a NaN: silently wrong numbers are the worst of outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from symbiosis_adapters.weights.casts import moved, set_data
from symbiosis_adapters.weights.indexing import basic_index
from symbiosis_adapters.weights.products import PRODUCTS, product
from symbiosis_adapters.weights.questions import (
    ADDRESSES,
    MOVES,
    PATTERNS,
    QUESTIONS,
    READS,
    SHOWS,
    STRIDES,
    VIEWS,
    WRITES_FIRST,
)
from symbiosis_adapters.weights.refusals import LEND, described
from symbiosis_adapters.weights.taking import take
from symbiosis_adapters.weights.valueless import Valueless, unbound, viewed
from symbiosis_adapters.weights.values import lasting, placeholders_in, values_of, with_values

__all__ = ["FrozenWeight"]


class FrozenWeight(Valueless):
    """A parameter without values, that answers torch's functions."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if id(self) not in memo:
            with torch._C.DisableTorchFunctionSubclass():
                memo[id(self)] = self._copy()
                memo[id(self)]._is_param = self._is_param
        copied: Self = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        values = with_values(self, "saving or pickling it", LEND)
        return nn.Parameter(values, requires_grad=False).__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # as Tensor's
        return f"FrozenWeight({self.label}, {tuple(self.shape)}, {self.dtype}, device={self.device})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = getattr(func, "__name__", str(func))
        first = args[0] if args else None
        with torch._C.DisableTorchFunctionSubclass():
            if name == "__get__" and (found := _got(func, *args)) is not NotImplemented:
                return found
            if name == "__set__" and _set(func, *args):
                return None
            if name in STRIDES and isinstance(first, FrozenWeight):
                return func(first._layout(), *args[1:], **named)
            if name in QUESTIONS or (name in PATTERNS and not isinstance(first, FrozenWeight)):
                return func(*args, **named)
            if name == "unbind" and isinstance(first, FrozenWeight):
                return unbound(first, *args[1:], **named)
            if name in VIEWS and isinstance(first, FrozenWeight):
                return viewed(first, lambda whole: func(whole, *args[1:], **named))
            if name == "__getitem__" and isinstance(first, FrozenWeight) and (at := basic_index(args[1])):
                return viewed(first, lambda whole: func(whole, at))
            if name == "contiguous" and isinstance(first, FrozenWeight) and first._layout().is_contiguous():
                return first
            if name in MOVES and isinstance(first, FrozenWeight):
                return moved(func, first, args[1:], named)
            if name == "requires_grad_" and False in (*args[1:], *named.values()):
                return first
        reads = _only_reads(name, first, named)
        whole = not isinstance(first, FrozenWeight) or first._origin is None
        attempt, remedy = described(func, name, reads, whole)
        if reads:
            if name in PRODUCTS and (computed := product(name, args, named, attempt)) is not NotImplemented:
                return computed
            if name in ADDRESSES and isinstance(first, FrozenWeight):
                return func(values_of(first, attempt, remedy, lasting))
            args, named = with_values(args, attempt, remedy), with_values(named, attempt, remedy)
            return _unwritable(func(*args, **named)) if name in SHOWS else func(*args, **named)
        for weight in placeholders_in(first if name in WRITES_FIRST else (args, named)):
            if isinstance(weight, FrozenWeight):  # one before may have been a view of it
                take(weight, attempt, remedy)
        if name in WRITES_FIRST:
            args, named = with_values(args, attempt, remedy), with_values(named, attempt, remedy)
        return func(*args, **named)  # with nothing but ordinary tensors, or with others that have a say


def _got(func: Any, weight: FrozenWeight, *_: Any) -> Any:
    """Reads a property. Whatever tensor it gives (`data`, `T`) is a placeholder again."""
    if func.__self__.__name__.startswith("__"):  # the array interfaces
        return NotImplemented
    value = func(weight)
    return weight._view(func) if isinstance(value, torch.Tensor) else value


def _set(func: Any, target: Any, value: Any) -> bool:
    """Sets a property, if that changes no value and asks for no gradient."""
    attribute = func.__self__.__name__
    if not isinstance(target, FrozenWeight):
        return False
    if attribute == "data":
        return set_data(target, value)
    if not (value is None or (attribute == "requires_grad" and not value)):
        return False
    func(target, value)
    return True


def _unwritable(shown: Any) -> Any:
    """Returns what shows lent values; an array of them may not be written to."""
    if isinstance(shown, np.ndarray):
        shown.flags.writeable = False
    return shown


def _only_reads(name: str, first: Any, kwargs: dict[str, Any]) -> bool:
    if any(True for _ in placeholders_in(kwargs.get("out"))):
        return False
    if name in WRITES_FIRST:
        return not any(True for _ in placeholders_in(first))
    return name in READS or name in SHOWS
