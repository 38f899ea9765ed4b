"""Makes the trips of the graph cut, with and without autograd.

For the backward the inputs of the forward are sent again, so the daemon needs to remember nothing. A memo number
lets it find what it still has of the forward; without it, it computes that again.

T rows of one call.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from symbiosis_adapters.recording import Recording
from symbiosis_adapters.remote import refuse_double_backward
from symbiosis_adapters.rows import Rows
from symbiosis_core.segments import SegmentSpec
from symbiosis_core.specs import Direction
from symbiosis_transports.tensors import torch_dtype

__all__ = ["SegmentRows", "Trip", "answers"]

_memos = itertools.count(1)
_MEMOS = 1 << 31


class Trip(NamedTuple):
    """A segment that the daemon knows, and how a recording feeds it."""

    rows: Rows
    spec: SegmentSpec
    inputs: tuple[int, ...]
    """Which of the recording's client tensors are its inputs."""
    wanted: tuple[int, ...]
    """The nodes whose values it gives, in order."""
    derived: dict[int, int]
    """Wanted nodes that are a cast of another wanted one, and are made here."""


def answers(trip: Trip, inputs: list[Tensor], shapes: list[torch.Size], recording: Recording) -> list[Tensor]:
    """Returns the values of `trip.wanted` in their shapes."""
    asked = [shape for node, shape in zip(trip.wanted, shapes, strict=True) if node not in trip.derived]
    if recording.mode.grad and any(x.requires_grad for x in inputs):
        # The mode may have changed since; what was recorded counts.
        with torch.enable_grad():
            values: Sequence[Tensor] = SegmentRows.apply(trip, asked, *inputs)  # type: ignore[no-untyped-call]
    else:
        values = _forward(trip, asked, inputs, 0)
    if not trip.derived:
        return list(values)
    there = dict(zip([node for node in trip.wanted if node not in trip.derived], values, strict=True))
    with torch.set_grad_enabled(recording.mode.grad):
        for node, source in trip.derived.items():
            there[node] = there[source].to(recording.handles[node]()._dtype)  # type: ignore[union-attr]
    return [there[node] for node in trip.wanted]


def _forward(trip: Trip, shapes: list[torch.Size], inputs: Sequence[Tensor], memo: int) -> list[Tensor]:
    planes = trip.spec.planes_in(Direction.FORWARD)
    given = [x.detach() if x.requires_grad else x for x in inputs]
    rows = [x.reshape(-1, plane.width) for x, plane in zip(given, planes, strict=True)]
    values = trip.rows.call(trip.spec, Direction.FORWARD, rows, memo)
    return [value.resize_(shape) for value, shape in zip(values, shapes, strict=True)]


class SegmentRows(torch.autograd.Function):
    """The outputs of a segment; saves its inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, trip: Trip, shapes: list[torch.Size], *inputs: Tensor) -> Any:
        ctx.trip = trip
        ctx.memo = next(_memos) % _MEMOS + 1
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return tuple(_forward(trip, shapes, inputs, ctx.memo))

    @staticmethod
    def backward(ctx: Any, *dys: Tensor | None) -> Any:
        trip: Trip = ctx.trip
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        if all(dy is None for dy in dys):
            return (None,) * (2 + len(inputs))
        spec = trip.spec
        rows_in = [
            x.detach().reshape(-1, plane.width) for x, plane in zip(inputs, spec.segment.inputs, strict=True)
        ]
        count = rows_in[0].shape[0]
        for dy, plane in zip(dys, spec.planes_out(Direction.FORWARD), strict=True):
            if dy is None:
                dy = torch.zeros(count, plane.width, dtype=torch_dtype(plane.dtype), device=rows_in[0].device)
            rows_in.append(dy.detach().reshape(count, plane.width))
        grads = trip.rows.call(spec, Direction.BACKWARD, rows_in, ctx.memo)
        found: list[Tensor | None] = [None] * len(inputs)
        for index, grad in zip(spec.wants, grads, strict=True):
            if ctx.needs_input_grad[2 + index]:
                found[index] = grad.resize_(inputs[index].shape)
        if torch.is_grad_enabled():  # create_graph=True
            found = [None if grad is None else refuse_double_backward(grad, spec.name, dys) for grad in found]
        return (None, None, *found)
