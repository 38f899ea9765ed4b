"""Functions that change no number: the same rows under another shape, some of them, some of their columns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import Deferred, pending, read_size, root_of, rows_of, view_of
from symbiosis_adapters.recorded.nodes import record_unary
from symbiosis_adapters.recorded.rules import Rules

__all__ = ["RECORDED"]

RECORDED = Rules()


@RECORDED.of(Tensor.contiguous)
def _contiguous(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if len(args) == 1 and not kwargs and pending(args[0]) else NotImplemented


@RECORDED.of(F.dropout)
def _dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dropout that drops nothing."""
    said = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    idle = not said.get("training", True) or said.get("p", 0.5) == 0
    return said["input"] if idle and pending(said["input"]) else NotImplemented


@RECORDED.of(Tensor.view, Tensor.reshape)
def _view(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new leading shape over the same rows; anything that touches the columns needs the value."""
    x = args[0]
    if kwargs or not pending(x) or not _may_view(x):
        return NotImplemented
    sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if not sizes or not all(type(size) is int for size in sizes) or sizes[-1] != x._shape[-1]:
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        shape = Tensor.view(x, *sizes).shape
    return x if shape == x._shape else view_of(x, shape)


@RECORDED.of(Tensor.__getitem__)
def _getitem(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """All rows, or the last of one, which are the tensor itself; or some, of all columns, which stay undecided."""
    x, index = args
    if not pending(x) or not _may_view(x):
        return NotImplemented
    slices = _slices(index if isinstance(index, tuple) else (index,), len(x._shape))
    if slices is None:
        return NotImplemented
    if not all(each in (slice(None), slice(0, None)) for each in slices):
        read_size()  # whether these are all may be another matter for another length
    whole = [each.indices(size) == (0, size, 1) for each, size in zip(slices, x._shape, strict=True)]
    if all(whole):
        return x
    return rows_of(x, slices) if whole[-1] else NotImplemented


def _slices(index: tuple[Any, ...], rank: int) -> tuple[slice, ...] | None:
    """Returns a slice for every size; None where the index has anything else."""
    at = next((place for place, each in enumerate(index) if each is Ellipsis), len(index))
    before, after = index[:at], index[at + 1 :]
    slices = (*before, *[slice(None)] * (rank - len(before) - len(after)), *after)
    fit = len(slices) == rank and all(type(each) is slice and each.step in (None, 1) for each in slices)
    return slices if fit else None


@RECORDED.of(torch.chunk, Tensor.chunk)
def _chunk(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "chunks", "dim"), args, strict=False)) | kwargs
    x, chunks = said["input"], said["chunks"]
    if not pending(x) or not _may_view(x) or chunks < 1 or said.get("dim", 0) not in (-1, len(x._shape) - 1):
        return NotImplemented
    size = math.ceil(x._shape[-1] / chunks)
    starts = range(0, x._shape[-1], size)
    parts = [record_unary(x, "take", start=start, width=min(size, x._shape[-1] - start)) for start in starts]
    return NotImplemented if any(part is NotImplemented for part in parts) else tuple(parts)


def _may_view(x: Deferred) -> bool:
    """Whether a view made now would have the gradient that `x` has."""
    recording = root_of(x)._recording
    return recording is not None and recording.mode.grad == torch.is_grad_enabled()
