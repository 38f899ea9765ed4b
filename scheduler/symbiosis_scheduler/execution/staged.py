"""Brings rows from the slots to where they are computed, and back.

A CPU computes in the clients' memory. For any other device rows travel through pages in between:

    slots --copy--> pinned host rows --queued copy--> device --op--> device --queued copy--> pinned host rows
    ... the event is done ...                                        pinned host rows --copy--> slots

Slots that are on the device already (`cuda_ipc`) are read and written there, on the same stream, and never staged.

Other slots are pageable memory, which CUDA does not copy asynchronously, whatever `non_blocking` says: a copy to
it returns only when everything queued before it is done, so a launch would block for as long as its plan takes.
With pinned rows a launch only queues. What is gained besides: however many parts a plan has, it is one copy each
way; and the device never touches a client's host memory, so a client may leave, and its memory go, while its
rows are computed.

All is queued on the stream that is current, so the memory of rows on the device may be used again by whatever is
queued there next, without `record_stream`; and torch keeps pinned memory from being used again before its queued
copies are done. Forced on a CPU (for tests) the same steps are made with ordinary memory.

    T  rows of one part      R  rows of the whole batch      D  width in      O  width out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from symbiosis_core.specs import Op
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.execution.rows import RowViews

__all__ = ["Aside", "InPlace", "Landing", "Staged"]


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
        """Writes the answers now, all with one call of torch."""
        outs = [out for part in parts for out in self._views.outputs(part, op)]
        if len(parts) > 1:
            counts = [part.rows for part in parts]
            ys = [piece for pieces in zip(*[y_RO.split(counts) for y_RO in ys], strict=True) for piece in pieces]
        torch._foreach_copy_(outs, list(ys))


class Aside:
    """Copies rows out of the slots, and answers into them, for a thread of the CPU that must not touch slots."""

    def __init__(self, views: RowViews) -> None:
        self._views = views

    def send(self, pieces: list[Tensor]) -> Tensor:
        """Returns a copy of the rows of all pieces, one under the other."""
        return torch.cat(pieces)

    def land(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op) -> Landing:
        """Returns what is to be landed by the thread that may."""
        return Landing(ys, parts, op, self._views)


def _on_device(rows: Tensor) -> bool:
    return rows.device.type != "cpu"


class Staged:
    """Queues copies to and from the device on the current stream."""

    def __init__(
        self, device: torch.device, views: RowViews, resident: Callable[[Tensor], bool] = _on_device
    ) -> None:
        """`resident` says which rows are on the device already; a test says it of a CPU's."""
        self._device = device
        self._views = views
        self._resident = resident
        self._pinned = device.type != "cpu"

    def send(self, pieces: list[Tensor]) -> Tensor:
        """Returns the rows of all pieces on the device, one under the other. Host slots are read at once."""
        staged = [piece for piece in pieces if not self._resident(piece)]
        if len(staged) == len(pieces):
            return self._stage(pieces)
        arriving = iter(self._stage(staged).split(list(map(len, staged)))) if staged else iter(())
        there = [piece if self._resident(piece) else next(arriving) for piece in pieces]
        return there[0] if len(there) == 1 else torch.cat(there)

    def land(self, ys: Sequence[Tensor], parts: Sequence[Part], op: Op) -> Landing | None:
        """Writes into slots on the device, and returns what is to be landed in others when all of this is done."""
        outs = [self._views.outputs(part, op) for part in parts]
        here = [self._resident(planes[0]) for planes in outs]
        if not any(here):
            return Landing([self._fetch(y_RO) for y_RO in ys], parts, op, self._views)
        pieces = list(zip(*[y_RO.split([part.rows for part in parts]) for y_RO in ys], strict=True))
        for is_here, planes, rows in zip(here, outs, pieces, strict=True):
            if is_here:
                torch._foreach_copy_(planes, list(rows))
        if all(here):
            return None
        far = [index for index, is_here in enumerate(here) if not is_here]
        fetched = [self._fetch(torch.cat([pieces[index][plane] for index in far])) for plane in range(len(ys))]
        return Landing(fetched, [parts[index] for index in far], op, self._views)

    def _stage(self, pieces: list[Tensor]) -> Tensor:
        rows, first = sum(map(len, pieces)), pieces[0]
        host_RD = torch.empty((rows, first.shape[1]), dtype=first.dtype, pin_memory=self._pinned)
        torch.cat(pieces, out=host_RD)
        return host_RD.to(self._device, non_blocking=True)

    def _fetch(self, y_RO: Tensor) -> Tensor:
        host_RO = torch.empty(y_RO.shape, dtype=y_RO.dtype, pin_memory=self._pinned)
        return host_RO.copy_(y_RO, non_blocking=True)
