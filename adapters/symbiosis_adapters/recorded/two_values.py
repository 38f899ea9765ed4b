"""Functions of two values that meet column by column: sums, products, and sums in place."""

from __future__ import annotations

import weakref
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import NodeKey
from symbiosis_adapters.deferred.tensor import Deferred, Rule, pending, read_size, root_of
from symbiosis_adapters.recorded.nodes import deferral_of, is_number, record_unary, source_of
from symbiosis_adapters.recorded.operands import operand_of
from symbiosis_adapters.recorded.rules import Rules
from symbiosis_core.specs import DType, Plane

__all__ = ["RECORDED"]

RECORDED = Rules()


def _binary(fn: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or len(args) != 2:
            return NotImplemented
        return _record(fn, args[0], args[1])

    return rule


_BINARY: Final[dict[str, tuple[Any, ...]]] = {
    "add": (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    "sub": (torch.sub, Tensor.sub, Tensor.__sub__),
    "mul": (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    "div": (torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide),
}
for _fn, _functions in _BINARY.items():
    RECORDED.of(*_functions)(_binary(_fn))


@RECORDED.of(Tensor.__iadd__, Tensor.add_)
def _add_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor stands for the sum from now on, for everybody who has it."""
    x = args[0]
    if kwargs or len(args) != 2 or not pending(x) or x._viewed is not None or args[1] is x:
        return NotImplemented
    summed = _record("add", x, args[1])
    return x if summed is not NotImplemented and _replace(x, summed) else NotImplemented


def _replace(x: Deferred, other: Deferred) -> bool:
    """Lets `x` stand for what `other`, which nobody else has, stands for.

    Returns False, and leaves it, where that would not look as it does with a tensor that has a value.
    """
    recording = other._recording
    if recording is None or x._recording is not recording or x._needs_grad != other._needs_grad:
        return False
    same = (x._shape, x._dtype) == (other._shape, other._dtype)
    if not same or recording.shares_columns(x._index):
        return False
    recording.handles[x._index] = None
    recording.handles[other._index] = weakref.ref(x)
    x._index, x._changes = other._index, x._changes + 1
    return True


def _record(fn: str, a: Any, b: Any) -> Any:
    a, b = _number(a, beside=b), _number(b, beside=a)
    if is_number(b):
        return record_unary(a, fn, number=b)
    if is_number(a):
        return record_unary(b, fn, number=a) if fn in ("add", "mul") else NotImplemented
    first = a if pending(a) else b
    if not pending(first) or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return NotImplemented
    found = source_of(first)
    if found is None:
        return NotImplemented
    recording, known = found
    deferral, lead = deferral_of(recording), first._shape[:-1]
    operands = []
    for each in (a, b):
        operand = known if each is first else operand_of(deferral, recording, each, lead)
        if operand is None:
            return NotImplemented
        operands.append(operand)
    plane = _meet(operands[0].plane, operands[1].plane)
    if plane is None:
        return NotImplemented
    node = NodeKey(fn, (operands[0].ref, operands[1].ref))
    return deferral.add(recording, node, plane, lead, operands[0].needs_grad or operands[1].needs_grad)


def _number(x: Any, beside: Any) -> Any:
    """Returns what a tensor without dimensions holds, such as the factor of some embeddings; else `x` itself.

    It meets every column and changes no type, as a number does. It may be changed later, so no passage keeps it.
    """
    scalar = type(x) is Tensor and not x.ndim and x.is_cpu and x.dtype.is_floating_point and not x.requires_grad
    recording = root_of(beside)._recording if scalar and pending(beside) else None
    if recording is None or deferral_of(recording).trips.is_observed:
        return x
    read_size()
    return x.item()


def _meet(a: Plane, b: Plane) -> Plane | None:
    """Returns the plane of two that meet column by column, as torch promotes them."""
    if a.width != b.width and 1 not in (a.width, b.width):
        return None
    if a.dtype == b.dtype:
        dtype = a.dtype
    else:
        dtype = DType.FLOAT64 if DType.FLOAT64 in (a.dtype, b.dtype) else DType.FLOAT32
    return Plane(max(a.width, b.width), dtype)
