"""Moves the rows of one call through a channel's slots: whole where they fit, else in chunks, several in flight.

    T  rows of the call      t  rows of one chunk      W  width in      O  width out

A prepared slot use (views and call) is kept, because the same few shapes come again and again and making two
views costs more than a doorbell. The rows are written once, into shared memory, and read out once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Final, NamedTuple

import torch

from symbiosis_core.errors import RefusedError, UsageError
from symbiosis_core.ids import SlotIndex
from symbiosis_core.specs import Direction, OpSpec
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.tensors import torch_dtype, view_rows

__all__ = ["Pipeline"]

_ALIGNMENT: Final = 64
_KEPT: Final = 2048


class _Prepared(NamedTuple):
    """A slot made ready for one op, direction and number of rows."""

    inputs: torch.Tensor
    """(t, W)"""
    outputs: torch.Tensor
    """(t, O)"""
    call: Call


class Pipeline:
    """The use of one channel by one thread at a time."""

    def __init__(self, channel: ClientChannel, answer_timeout_s: float, max_rows: int) -> None:
        self._channel = channel
        self._timeout_s = answer_timeout_s
        self._max_rows = max_rows
        self._prepared: dict[tuple[SlotIndex, int, Direction, int], _Prepared] = {}
        self._chunks: dict[tuple[int, Direction], int] = {}

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        """Returns the op's rows for `x_TW`, shape (T, O), fresh and the caller's.

        Raises as `ClientChannel.wait` says. After anything but a `RefusedError` the channel's slots are in an
        unknown state and the caller closes it.
        """
        rows = x_TW.shape[0]
        chunk = self._chunks.get((op.id, direction)) or self._chunk_rows(op, direction)
        if rows > chunk:
            return self._run_chunked(op, direction, x_TW, chunk)
        slot, prepared = self._send(op, direction, x_TW)
        try:
            self._channel.wait(slot, self._timeout_s)
            return prepared.outputs.clone()
        finally:
            self._channel.release(slot)

    def _run_chunked(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor, chunk: int) -> torch.Tensor:
        width, dtype = op.row_out(direction)
        y_TO = torch.empty(x_TW.shape[0], width, dtype=torch_dtype(dtype))
        flying: deque[tuple[SlotIndex, torch.Tensor, torch.Tensor]] = deque()
        try:
            for x_tW, y_tO in zip(x_TW.split(chunk), y_TO.split(chunk), strict=True):
                if len(flying) == self._channel.slots:
                    self._receive(*flying.popleft())
                slot, prepared = self._send(op, direction, x_tW)
                flying.append((slot, prepared.outputs, y_tO))
            while flying:
                self._receive(*flying.popleft())
        except RefusedError:
            for landing in flying:  # theirs is the daemon's until it is answered
                with contextlib.suppress(RefusedError):
                    self._receive(*landing)
            raise
        return y_TO

    def _send(self, op: OpSpec, direction: Direction, x_tW: torch.Tensor) -> tuple[SlotIndex, _Prepared]:
        slot = self._channel.lease_nowait()
        key = (slot, op.id, direction, x_tW.shape[0])
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) >= _KEPT:
                self._prepared.clear()
            prepared = self._prepared[key] = self._prepare(slot, op, direction, x_tW.shape[0])
        prepared.inputs.copy_(x_tW)
        self._channel.publish(slot, prepared.call)
        return slot, prepared

    def _receive(self, slot: SlotIndex, theirs_tO: torch.Tensor, ours_tO: torch.Tensor) -> None:
        try:
            self._channel.wait(slot, self._timeout_s)
            ours_tO.copy_(theirs_tO)
        finally:
            self._channel.release(slot)

    def _prepare(self, slot: SlotIndex, op: OpSpec, direction: Direction, rows: int) -> _Prepared:
        (width_in, dtype_in), (width_out, dtype_out) = op.row_in(direction), op.row_out(direction)
        out_at = _align(rows * width_in * dtype_in.itemsize)
        buffer = self._channel.buffer(slot)
        with torch.inference_mode(False):  # or the views could never again be written outside of that mode
            return _Prepared(
                view_rows(buffer, 0, rows, width_in, dtype_in),
                view_rows(buffer, out_at, rows, width_out, dtype_out),
                Call(op.id, direction, rows, 0, out_at),
            )

    def _chunk_rows(self, op: OpSpec, direction: Direction) -> int:
        """How many rows of this op fit into one slot."""
        (width_in, dtype_in), (width_out, dtype_out) = op.row_in(direction), op.row_out(direction)
        row_bytes = width_in * dtype_in.itemsize + width_out * dtype_out.itemsize
        chunk = (self._channel.slot_bytes - _ALIGNMENT) // row_bytes
        if chunk < 1:
            raise UsageError(
                f"one row of {op.name} takes {row_bytes} bytes and a slot holds {self._channel.slot_bytes}; "
                "raise limits.slot_bytes in the daemon's configuration"
            )
        self._chunks[op.id, direction] = min(chunk, self._max_rows)
        return min(chunk, self._max_rows)


def _align(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
