"""Moves the rows of one call through a channel's slots: whole where they fit, else in chunks, several in flight.

    T  rows of the call      t  rows of one chunk      W  width in      O  width out

A prepared slot use (views and call) is kept, because the same few shapes come again and again and making two
views costs more than a doorbell. The rows are written once, into shared memory, and read out once.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from symbiosis_adapters.connection.cores import after_wait, before_wait
from symbiosis_core.errors import RefusedError, UsageError
from symbiosis_core.ids import SlotIndex
from symbiosis_core.specs import PLANE_ALIGNMENT, Direction, Op, plane_starts
from symbiosis_core.thread_trial import ThreadTrial
from symbiosis_transports.ports import Call, ClientChannel, HearsOfPlace
from symbiosis_transports.tensors import slot_memory, torch_dtype, view_rows

__all__ = ["Pipeline"]

_KEPT: Final = 2048
_ALONE: Final = 64
"""So many calls in a row are of one thread before it counts as the only one."""
_MEMO_NUMBERS: Final = 1 << 32
"""A call has 32 bits for its memo."""
_MEMO_STEP: Final = 1 << 20
"""Between the memo numbers of a request's chunks; a client counts up by one from request to request."""


class _Prepared(NamedTuple):
    """A slot made ready for one op, direction and number of rows."""

    inputs: list[torch.Tensor]
    """Per plane (t, W)."""
    outputs: list[torch.Tensor]
    """Per plane (t, O)."""
    call: Call


class Pipeline:
    """The use of one channel by one thread at a time."""

    def __init__(
        self, channel: ClientChannel, answer_timeout_s: float, max_rows: int, *, steady: bool = False
    ) -> None:
        """`steady`: what is computed between two calls has the same number of threads every time."""
        self._channel = channel
        self._timeout_s = answer_timeout_s
        self._max_rows = max_rows
        self._hears = channel if isinstance(channel, HearsOfPlace) else None
        self._stays = False
        self._caller, self._alone = 0, 0
        """The thread that called last, and how often in a row."""
        self._trial = None if steady else ThreadTrial()
        self._prepared: dict[tuple[SlotIndex, int, Direction, int], _Prepared] = {}
        self._chunks: dict[int, int] = {}

    def run(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int = 0
    ) -> list[torch.Tensor]:
        """Returns the op's rows for `planes`, (T, W) each: (T, O) per plane, fresh and the caller's.

        Raises as `ClientChannel.wait` says. After anything but a `RefusedError` the channel's slots are in an
        unknown state and the caller closes it.
        """
        rows = planes[0].shape[0]
        chunk = self._chunks.get(op.id) or self._chunk_rows(op)
        if rows > chunk:
            return self._run_chunked(op, direction, planes, chunk, memo)
        slot, prepared = self._send(op, direction, planes, memo)
        before_wait(rows, (op.id, direction, rows), self._trial)
        self._wait(slot, rows)
        answers = [view.clone() for view in prepared.outputs]
        self._channel.release(slot)
        return answers

    def _run_chunked(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], chunk: int, memo: int
    ) -> list[torch.Tensor]:
        rows = planes[0].shape[0]
        device = planes[0].device
        answers = [
            torch.empty(rows, width, dtype=torch_dtype(dtype), device=device)
            for width, dtype in op.planes_out(direction)
        ]
        flying: deque[tuple[SlotIndex, list[torch.Tensor], list[torch.Tensor]]] = deque()
        try:
            for index, start in enumerate(range(0, rows, chunk)):
                if len(flying) == self._channel.slots:
                    before_wait(rows)
                    self._receive(*flying.popleft(), rows)
                part = slice(start, min(start + chunk, rows))
                chunk_memo = memo and (memo + index * _MEMO_STEP) % _MEMO_NUMBERS
                slot, prepared = self._send(op, direction, [plane[part] for plane in planes], chunk_memo)
                flying.append((slot, prepared.outputs, [answer[part] for answer in answers]))
            while flying:
                self._receive(*flying.popleft(), rows)
        except RefusedError:
            for landing in flying:  # theirs is the daemon's until it is answered
                with contextlib.suppress(RefusedError):
                    self._receive(*landing, rows)
            raise
        return answers

    def _send(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int
    ) -> tuple[SlotIndex, _Prepared]:
        slot = self._channel.lease_nowait()
        rows = planes[0].shape[0]
        key = (slot, op.id, direction, rows)
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) >= _KEPT:
                self._prepared.clear()
            prepared = self._prepared[key] = self._prepare(slot, op, direction, rows)
        for view, plane in zip(prepared.inputs, planes, strict=True):
            view.copy_(plane)
        self._channel.publish(slot, prepared.call._replace(memo=memo) if memo else prepared.call)
        return slot, prepared

    def _receive(self, slot: SlotIndex, theirs: list[torch.Tensor], ours: list[torch.Tensor], rows: int) -> None:
        self._wait(slot, rows)
        for mine, view in zip(ours, theirs, strict=True):
            mine.copy_(view)
        self._channel.release(slot)

    def _wait(self, slot: SlotIndex, rows: int) -> None:
        """Blocks until the slot of a call of `rows` rows is answered.

        A refusal gives it back; after others it may be the daemon's.
        """
        try:
            self._channel.wait(slot, self._timeout_s)
        except RefusedError:
            self._channel.release(slot)
            raise
        if self._hears is not None:
            self._take_place(self._hears, rows)

    def _take_place(self, channel: HearsOfPlace, rows: int) -> None:
        """Goes where the daemon asks this thread to be. Several that take turns here do not stay on one core."""
        caller = threading.get_ident()
        self._alone = self._alone + 1 if caller == self._caller else 0
        self._caller = caller
        place = channel.place()
        if place is not None and not place.leave and self._alone < _ALONE:
            place = None
        stays = after_wait(place, rows)
        if stays is not self._stays:
            self._stays = stays
            channel.shares_core(stays)

    def _prepare(self, slot: SlotIndex, op: Op, direction: Direction, rows: int) -> _Prepared:
        planes_in, planes_out = op.planes_in(direction), op.planes_out(direction)
        starts_in, out_at = plane_starts(planes_in, rows)
        starts_out, out_bytes = plane_starts(planes_out, rows)
        buffer = slot_memory(self._channel, slot)
        with torch.inference_mode(False):  # or the views could never again be written outside of that mode
            return _Prepared(
                [view_rows(buffer, at, rows, *plane) for at, plane in zip(starts_in, planes_in, strict=True)],
                [
                    view_rows(buffer, out_at + at, rows, *plane)
                    for at, plane in zip(starts_out, planes_out, strict=True)
                ],
                Call(op.id, direction, rows, 0, out_at, in_bytes=out_at, out_bytes=out_bytes),
            )

    def _chunk_rows(self, op: Op) -> int:
        """How many rows of this op fit into one slot, forward or backward: a memo is one chunk's."""
        most = self._max_rows
        for direction in Direction:
            planes = (*op.planes_in(direction), *op.planes_out(direction))
            row_bytes = sum([plane.row_bytes for plane in planes])
            rows = (self._channel.slot_bytes - PLANE_ALIGNMENT * len(planes)) // row_bytes
            if rows < 1:
                raise UsageError(
                    f"one row of {op.name} takes {row_bytes} bytes and a slot holds {self._channel.slot_bytes}; "
                    "raise limits.slot_bytes in the daemon's configuration"
                )
            most = min(most, rows)
        self._chunks[op.id] = most
        return most
