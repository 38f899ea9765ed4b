"""Checks a call before it becomes a request. Every number in a call was written by the client and may be anything.

Python's integers do not overflow, so `offset + rows * width` is what it says. Token ids outside the vocabulary
are not seen here: they are payload, which only the executor reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from symbiosis_core.config import LimitsConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_transports.calls import Call

__all__ = ["ALIGNMENT_BYTES", "Admission"]

ALIGNMENT_BYTES: Final = 64
"""Regions start at multiples of a cache line, so that no element straddles one and vector loads are aligned."""


class Admission:
    """The rules of one catalogue under one set of limits; row sizes are worked out once."""

    __slots__ = ("_max_rows", "_row_bytes")

    def __init__(self, ops: Sequence[OpSpec], limits: LimitsConfig) -> None:
        self._max_rows = limits.max_rows
        self._row_bytes = [tuple(_row_bytes(op, direction) for direction in Direction) for op in ops]

    def refusal(self, call: Call, slot_bytes: int) -> RefusalCode | None:
        """Returns why the call cannot be computed in a slot of that many bytes; None: it can.

        - MALFORMED: the direction is none.
        - UNKNOWN_OP: the catalogue has no such op. A negative number is not counted from the end.
        - NO_BACKWARD: the op passes no gradient on, as an embedding.
        - BAD_ROWS: no rows, or more than `limits.max_rows`.
        - BAD_REGION: a region leaves the slot or is not aligned, or the two overlap.
        """
        op, direction, rows, in_offset, out_offset = call
        if not 0 <= op < len(self._row_bytes):
            return RefusalCode.UNKNOWN_OP
        if direction not in (0, 1):
            return RefusalCode.MALFORMED
        row_bytes = self._row_bytes[op][direction]
        if row_bytes is None:
            return RefusalCode.NO_BACKWARD
        if not 1 <= rows <= self._max_rows:
            return RefusalCode.BAD_ROWS
        in_stop = in_offset + rows * row_bytes[0]
        out_stop = out_offset + rows * row_bytes[1]
        inside = in_offset >= 0 and out_offset >= 0 and in_stop <= slot_bytes and out_stop <= slot_bytes
        aligned = in_offset % ALIGNMENT_BYTES == 0 and out_offset % ALIGNMENT_BYTES == 0
        apart = in_stop <= out_offset or out_stop <= in_offset
        return None if inside and aligned and apart else RefusalCode.BAD_REGION


def _row_bytes(op: OpSpec, direction: Direction) -> tuple[int, int] | None:
    """Returns bytes of one row in and one row out; None where the op has no such direction."""
    if op.kind is OpKind.EMBEDDING and direction is Direction.BACKWARD:
        return None
    (width_in, dtype_in), (width_out, dtype_out) = op.row_in(direction), op.row_out(direction)
    return width_in * dtype_in.itemsize, width_out * dtype_out.itemsize
