"""Casts and moves of a placeholder: it stands for the same values in another type, or on another device.

Which casts there are says `widening`. All others need the values, and give them.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any, Final, TypeGuard

import torch

from symbiosis_adapters.trips.widening import widens
from symbiosis_adapters.weights.lenders import Lending, in_own_type
from symbiosis_adapters.weights.products import factor_of
from symbiosis_adapters.weights.refusals import RETYPE, refusal
from symbiosis_adapters.weights.valueless import Valueless, root_of, same_layout
from symbiosis_adapters.weights.values import lent, read, withheld

__all__ = ["moved", "set_data"]

_STAYS: Final = (
    "The base stays in {held} in the daemon, for all its clients: rows for its layers are rounded to that, and "
    "their answers come as {wide}. For more precision attach to a daemon that was started with --dtype float32"
)
_told: Final[weakref.WeakSet[Lending]] = weakref.WeakSet()
"""Of whose weights it was said that they stay what they are."""


def moved(func: Any, weight: Valueless, args: Any, kwargs: dict[str, Any]) -> Any:
    """Does to the one element what is asked of the whole: `to`, `clone` and the like. Torch functions are off."""
    with torch.inference_mode(False):
        element = func(weight.as_strided((), ()), *args, **kwargs)
    if not isinstance(element, torch.Tensor):  # type() without an argument
        return element
    data = element.expand(weight.shape)
    if element.dtype != weight.dtype:
        if withheld(weight) and factor_of(weight) is not None:  # whoever multiplies by it casts it before
            return weight._view(lambda whole: func(whole, *args, **kwargs), data)
        if _castable(weight, element.dtype):
            cast = weight._copy(element.dtype)
            cast._is_param = False
            device = element.device
            return cast if device == weight.device else cast._view(lambda whole: whole.to(device), data)
        attempt = f"converting it to {element.dtype}"
        return lent(weight, attempt, RETYPE, lambda: func(read(weight), *args, **kwargs))
    if element.device == weight.device:
        if func not in (torch.Tensor.clone, torch.clone) and not _asks_for_a_copy(func, args, kwargs):
            return weight
        copied = weight._copy()
        copied._is_param = root_of(copied)._is_param = False
        return copied
    return weight._view(lambda whole: func(whole, *args, **kwargs), data)


def set_data(target: Valueless, value: Any) -> bool:
    """Sets `target.data`, if `value` stands for the same values; else returns False. Torch functions are off.

    Raises:
        UsageError: the values would have to be had in another type.
        RuntimeError: as torch does, where the device's tensors cannot stand there.
    """
    if isinstance(value, torch.Tensor) and value.dtype != target.dtype:
        if not _is_cast_of(value, target):
            raise refusal(target.label, f"converting it to {value.dtype}", RETYPE)
        lender = in_own_type(target.lending)
        if widens(target.dtype, value.dtype) and lender not in _told:
            _told.add(lender)
            warnings.warn(_STAYS.format(held=target.dtype, wide=value.dtype), UserWarning, stacklevel=4)
        target._turn_into(value)
        return True
    if not isinstance(value, Valueless) or root_of(value) is not root_of(target):
        return False
    if not same_layout(value, target):
        return False
    if value.device != target.device:
        target._turn_into(value)
    return True


def _asks_for_a_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether this `to` is to give memory of its own even where nothing changes: `copy`, the last it takes."""
    last = bool(args) and args[-1] is True and sum([type(each) is bool for each in args]) == 2
    return func is torch.Tensor.to and bool(kwargs.get("copy", last))


def _castable(weight: Valueless, dtype: torch.dtype) -> bool:
    """Whether there may be a placeholder for the values in that type: wider, or the daemon's own again."""
    return dtype is weight.held or widens(weight.dtype, dtype)


def _is_cast_of(value: torch.Tensor, target: Valueless) -> TypeGuard[Valueless]:
    """Whether `value` stands for the values of `target` in another type."""
    if not isinstance(value, Valueless) or target._origin is not None or not _castable(target, value.dtype):
        return False
    root = root_of(value)
    same = root.label == target.label and in_own_type(root.lending) is in_own_type(target.lending)
    return same and same_layout(value, target)
