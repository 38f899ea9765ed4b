"""Rows of a wider type than the base's: rounded on their way to a frozen op, and its answer widened again.

Siblings are told by the very tensor that they read, so all who read the same rows get the same rounded ones.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from symbiosis_adapters.deferred.tensor import Deferred, changes_of, unmodified
from symbiosis_adapters.trips.widening import WIDE

__all__ = ["computed_narrow"]


class _Rounded(weakref.ref[Tensor]):
    """Rows after rounding, for as long as those before it live, to which this is a weak reference."""

    __slots__ = ("mode", "rows", "version")

    rows: Tensor | None
    mode: tuple[bool, bool]
    version: int


class _Latest(threading.local):
    rounded: _Rounded | None = None


_latest = _Latest()


def computed_narrow(op: Callable[[Tensor], Tensor], x: Tensor, held: torch.dtype) -> Tensor:
    """Returns what a frozen op, held in that type, makes of wide rows: as wide, or in the type of autocast."""
    if not x.is_floating_point():  # token ids
        return op(x).to(WIDE)
    if torch.is_autocast_enabled(x.device.type):
        return op(x)
    return op(_rounded(x, held)).to(WIDE)


def _rounded(x: Tensor, held: torch.dtype) -> Tensor:
    if x.dtype is held:
        return x
    mode = (torch.is_grad_enabled() and x.requires_grad, torch.is_inference_mode_enabled())
    latest = _latest.rounded
    kept = latest.rows if latest is not None and latest() is x and latest.mode == mode else None
    if latest is not None and kept is not None and _version(x) == latest.version >= 0:
        return kept
    rows = x.to(held)
    if kept is not None and type(x) is not Deferred and x.is_inference() and torch.equal(rows, kept):
        return kept  # nobody counts, but nobody changed them either
    if not (mode[0] and type(x) is Tensor and x.is_leaf):  # whose graph would itself keep the rows before it
        rounded = _Rounded(x, _forget)
        rounded.rows, rounded.mode, rounded.version = rows, mode, _version(x)
        _latest.rounded = rounded
    return rows


def _version(x: Tensor) -> int:
    """Returns a number that is another once `x` was modified; -1 where nobody counts."""
    if type(x) is Deferred:
        return changes_of(x) if unmodified(x) else -1
    return -1 if x.is_inference() else x._version


def _forget(rounded: weakref.ref[Tensor]) -> None:
    assert isinstance(rounded, _Rounded)
    rounded.rows = None
