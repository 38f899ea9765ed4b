"""Brings rows from the slots to where they are computed, and back.

A CPU computes in the clients' memory. For any other device rows travel through pages in between:

    slots --copy--> pinned host rows --queued copy--> device --op--> device --queued copy--> pinned host rows
    ... the event is done ...                                        pinned host rows --copy--> slots

Slots are pageable memory, which CUDA does not copy asynchronously, whatever `non_blocking` says: a copy to it
returns only when everything queued before it is done, so a launch would block for as long as its plan takes. With
pinned rows a launch only queues. What is gained besides: however many parts a plan has, it is one copy each way;
and the device never touches a client's memory, so a client may leave, and its memory go, while its rows are
computed.

All is queued on the stream that is current, so the memory of rows on the device may be used again by whatever is
queued there next, without `record_stream`; and torch keeps pinned memory from being used again before its queued
copies are done. Forced on a CPU (for tests) the same steps are made with ordinary memory.

    T  rows of one part      R  rows of the whole batch      D  width in      O  width out
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symbiosis_core.specs import Op
from symbiosis_scheduler.plan import Part
from symbiosis_scheduler.rows import RowViews

__all__ = ["InPlace", "Landing", "Staged"]


class Landing:
    """Answers of a plan on their way to the slots."""

    __slots__ = ("_op", "_parts", "_views", "_ys")

    def __init__(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op, views: RowViews) -> None:
        self._ys = ys
        self._parts = parts
        self._op = op
        self._views = views

    def land(self) -> None:
        """Writes the rows into the slots of those who are still there. Only once the plan's event is done."""
        counts = [part.rows for part in self._parts]
        pieces = zip(*[y_RO.split(counts) for y_RO in self._ys], strict=True)
        for part, ys in zip(self._parts, pieces, strict=True):
            if part.request.client in self._views:
                for out, y_TO in zip(self._views.outputs(part, self._op), ys, strict=True):
                    out.copy_(y_TO)


class InPlace:
    """Reads and writes the slots themselves: what a CPU does."""

    def __init__(self, views: RowViews) -> None:
        self._views = views

    def send(self, pieces: list[Tensor]) -> Tensor:
        """Returns the rows of all pieces, one under the other; a single one is not copied."""
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def land(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op) -> None:
        """Writes the answers now."""
        counts = [part.rows for part in parts]
        outs = [self._views.outputs(part, op) for part in parts]
        for plane, y_RO in enumerate(ys):
            torch._foreach_copy_([out[plane] for out in outs], list(y_RO.split(counts)))


class Staged:
    """Queues copies to and from the device on the current stream."""

    def __init__(self, device: torch.device, views: RowViews) -> None:
        self._device = device
        self._views = views
        self._pinned = device.type != "cpu"

    def send(self, pieces: list[Tensor]) -> Tensor:
        """Returns the rows of all pieces on the device, one under the other. The slots are read at once."""
        rows, first = sum(map(len, pieces)), pieces[0]
        host_RD = torch.empty((rows, first.shape[1]), dtype=first.dtype, pin_memory=self._pinned)
        torch.cat(pieces, out=host_RD)
        return host_RD.to(self._device, non_blocking=True)

    def land(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op) -> Landing:
        """Returns what is to be landed when the work queued here is done."""
        return Landing([self._fetch(y_RO) for y_RO in ys], parts, op, self._views)

    def _fetch(self, y_RO: Tensor) -> Tensor:
        host_RO = torch.empty(y_RO.shape, dtype=y_RO.dtype, pin_memory=self._pinned)
        return host_RO.copy_(y_RO, non_blocking=True)
