"""Makes the trips of the graph cut, with and without autograd.

For the backward the inputs of the forward are sent again, so the daemon needs to remember nothing. A memo number
lets it find what it still has of the forward; without it, it computes that again.

T rows of one call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import NodeKey, Recording, StandIn
from symbiosis_adapters.trips.remote import refuse_double_backward
from symbiosis_adapters.trips.rows import Rows
from symbiosis_core.segments import SegmentSpec, inputs_behind
from symbiosis_core.specs import Direction, DType
from symbiosis_transports.tensors import torch_dtype

__all__ = ["SegmentRows", "Trip", "answers", "replayed"]

_memos = itertools.count()
_MEMOS: Final = 1 << 31
"""After so many forwards numbers come again. Not 0, which asks for no memo."""


class Trip(NamedTuple):
    """A segment that the daemon knows, and how a recording feeds it."""

    rows: Rows
    spec: SegmentSpec
    inputs: tuple[int, ...]
    """Which of the recording's client tensors are its inputs."""
    read: frozenset[int]
    """The nodes that other nodes of it are computed from."""
    derived: dict[int, NodeKey]
    """Wanted nodes that are a cast or some columns of another wanted one, and are made here."""
    needed: str = ""
    """What needed a value when the trip was made first; for `explain`."""


def answers(trip: Trip, recording: Recording, wanted: Sequence[StandIn]) -> list[Tensor]:
    """Returns the values of `wanted`, as the mode was when they were recorded."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return answers(trip, recording, wanted)
    asked = [each for each in wanted if each._index not in trip.derived] if trip.derived else wanted
    inputs = [recording.inputs[index] for index in trip.inputs]
    if any(each._needs_grad for each in asked):
        with torch.enable_grad():
            # torch leaves `apply` untyped
            values: Sequence[Tensor] = SegmentRows.apply(trip, asked, *inputs)  # type: ignore[no-untyped-call]
    else:
        values = _forward(trip, asked, inputs, 0)
    if not trip.derived:
        return list(values)
    there = {each._index: value for each, value in zip(asked, values, strict=True)}
    shapes = {each._index: each._shape for each in wanted}
    with torch.set_grad_enabled(recording.mode.grad):
        for index, node in trip.derived.items():
            there[index] = _derive(node, there[node.args[0]], shapes[index])
    return [there[each._index] for each in wanted]


def _derive(node: NodeKey, source: Tensor, shape: torch.Size) -> Tensor:
    """Returns a cast, or columns, of the source or of a view of it: a view of their source, as torch has it."""
    if source.shape[:-1] != shape[:-1]:
        source = source.view(*shape[:-1], source.shape[-1])
    if node.fn == "take":
        return source.narrow(-1, node.start, node.width)
    return source.to(torch_dtype(DType(node.dtype)))


def _forward(trip: Trip, asked: Sequence[StandIn], inputs: Sequence[Tensor], memo: int) -> list[Tensor]:
    planes = trip.spec.planes_in(Direction.FORWARD)
    given = [x.detach() if x.requires_grad else x for x in inputs]
    rows = [x.reshape(-1, plane.width) for x, plane in zip(given, planes, strict=True)]
    values = trip.rows.call(trip.spec, Direction.FORWARD, rows, memo)
    return [value.resize_(each._shape) for value, each in zip(values, asked, strict=True)]


def replayed(trip: Trip, shapes: Sequence[torch.Size], count: int) -> Callable[..., list[Tensor]]:
    """Returns what makes `trip` again over other inputs of `count` rows, without autograd."""
    call, spec = trip.rows.call, trip.spec
    widths = [plane.width for plane in spec.planes_in(Direction.FORWARD)]

    def again(*inputs: Tensor) -> list[Tensor]:
        rows = [x.reshape(-1, width) for x, width in zip(inputs, widths, strict=True)]
        assert len(rows[0]) == count  # `capture` keeps another graph for every batch size
        return [
            value.resize_(shape) for value, shape in zip(call(spec, Direction.FORWARD, rows), shapes, strict=True)
        ]

    return again


class SegmentRows(torch.autograd.Function):
    """The outputs of a segment; saves its inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, trip: Trip, asked: Sequence[StandIn], *inputs: Tensor) -> Any:
        ctx.trip = trip
        ctx.memo = 1 + next(_memos) % _MEMOS
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        values = _forward(trip, asked, inputs, ctx.memo)
        ctx.mark_non_differentiable(
            *[value for value, each in zip(values, asked, strict=True) if not each._needs_grad]
        )
        return tuple(values)

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
        reached = _reached(spec, dys)
        for index, grad in zip(spec.wants, grads, strict=True):
            if ctx.needs_input_grad[2 + index] and index in reached:
                found[index] = grad.resize_(inputs[index].shape)
        if torch.is_grad_enabled():  # create_graph=True; the gradients depend on the inputs, too
            why = (*dys, *inputs)
            found = [None if grad is None else refuse_double_backward(grad, spec.name, why) for grad in found]
        return (None, None, *found)


def _reached(spec: SegmentSpec, dys: Sequence[Tensor | None]) -> Container[int]:
    """Returns which inputs have a gradient: as in torch, none at all where only outputs without one read them.

    Zeros are another thing: an optimizer decays a weight whose gradient is zero, and leaves one that has none.
    """
    if all(dy is not None for dy in dys):
        return spec.wants
    outputs = zip(spec.segment.outputs, dys, strict=True)
    return inputs_behind(spec.segment, [value for value, dy in outputs if dy is not None])
