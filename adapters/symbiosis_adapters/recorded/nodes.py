"""What rules add nodes with."""

from __future__ import annotations

from typing import Any

from symbiosis_adapters.deferred.recording import NodeKey, Recording
from symbiosis_adapters.deferred.tensor import Deferred, pending, root_of
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.operands import Operand
from symbiosis_core.specs import DType, Plane

__all__ = ["deferral_of", "is_number", "record_unary", "source_of"]


def deferral_of(recording: Recording) -> Deferral:
    """Returns who records."""
    forcing = recording.forcing
    assert isinstance(forcing, Deferral)
    return forcing


def source_of(x: Deferred) -> tuple[Recording, Operand] | None:
    """Returns the recording of a pending tensor, and `x` as an argument; None where nothing may be added now."""
    root = root_of(x)
    assert root._recording is not None  # it is pending
    recording = deferral_of(root._recording).recording_of(root)
    if recording is None:
        return None
    return recording, Operand(root._index, recording.planes[root._index], root._needs_grad)


def record_unary(
    x: Any, fn: str, *, width: int = 0, dtype: int = 0, start: int = 0, number: float | None = None
) -> Any:
    """Records a function of one pending tensor. `width` and `dtype` are the result's where they change."""
    if not pending(x) or not x._dtype.is_floating_point:
        return NotImplemented
    found = source_of(x)
    if found is None:
        return NotImplemented
    recording, operand = found
    plane = Plane(width or operand.plane.width, DType(dtype) if dtype else operand.plane.dtype)
    node = NodeKey(fn, (operand.ref,), number=number, start=start, width=width if fn == "take" else 0, dtype=dtype)
    return deferral_of(recording).add(recording, node, plane, x._shape[:-1], operand.needs_grad)


def is_number(value: Any) -> bool:
    """Whether a value is a number that a node can hold."""
    return type(value) is float or type(value) is int
