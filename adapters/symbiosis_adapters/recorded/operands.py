"""What the arguments of a recorded function are to its recording: pending, frozen, made of frozen, or sent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import DTYPES, NodeKey, Recording
from symbiosis_adapters.deferred.tensor import Deferred, pending, root_of, value_of
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.derived import Derived, derivation_of
from symbiosis_adapters.recorded.vectors import FrozenVector
from symbiosis_core.specs import DType, Plane

__all__ = ["Operand", "operand_of"]


class Operand(NamedTuple):
    """One argument of a node: a reference, and what its rows are."""

    ref: int
    plane: Plane
    needs_grad: bool
    frozen: bool = False
    """Whether it is a frozen vector: the same for every row."""


def operand_of(deferral: Deferral, recording: Recording, x: Tensor, lead: torch.Size) -> Operand | None:
    """Returns `x` as an argument beside rows of the leading sizes `lead`; None if no row can meet it."""
    if type(x) is Deferred:
        if pending(x):
            return _pending(deferral, recording, x, lead)
        x = value_of(x)
    if type(x) is FrozenVector:
        return _frozen(deferral, recording, x)
    if (derived := derivation_of(x)) is not None:
        return _derived(deferral, recording, derived)
    dtype = DTYPES.get(x.dtype)
    shape = x.shape
    if dtype is None or not dtype.is_floating or len(shape) != len(lead) + 1 or shape[:-1] != lead:
        return None
    if type(x) is not Tensor or not shape[-1] or x.device != recording.device:
        return None
    needs_grad = recording.mode.grad and x.requires_grad
    return Operand(recording.input(x), Plane(shape[-1], dtype), needs_grad)


def _pending(deferral: Deferral, recording: Recording, x: Deferred, lead: torch.Size) -> Operand | None:
    """Joins the recording of `x` to this one, where it is another."""
    root = root_of(x)
    assert root._recording is not None  # it is pending
    if x._shape[:-1] != lead:
        return None
    if root._recording is not recording:
        other = root._recording
        if other.rows != recording.rows or other.device != recording.device:
            return None
        if not deferral.grows(other) or not recording.has_room_for(other):
            return None
        recording.absorb(other)
    plane = recording.planes[root._index]
    return Operand(root._index, plane, root._needs_grad)


def _frozen(deferral: Deferral, recording: Recording, x: Tensor) -> Operand | None:
    known = deferral.vectors.of(x)
    if known is None or x.requires_grad or x.device != recording.device or not known.still():
        return None
    operand = Operand(recording.vector(known.name), known.plane, needs_grad=False, frozen=True)
    dtype = DTYPES[x.dtype]
    if dtype is known.plane.dtype:
        return operand
    return _made(recording, operand, NodeKey("cast", (), dtype=int(dtype)))  # it was widened here


def _derived(deferral: Deferral, recording: Recording, derived: Derived) -> Operand | None:
    """Has the daemon make what was made here of a frozen vector."""
    operand = _frozen(deferral, recording, derived.vector)
    if operand is None:
        return None
    for node in derived.nodes:
        operand = _made(recording, operand, node)
    return operand


def _made(recording: Recording, operand: Operand, node: NodeKey) -> Operand:
    """Records what is made of a frozen vector, or of what was made of it."""
    plane = Plane(operand.plane.width, DType(node.dtype) if node.dtype else operand.plane.dtype)
    recording.add(node._replace(args=(operand.ref,)), plane, None)
    return operand._replace(ref=len(recording.nodes) - 1, plane=plane)
