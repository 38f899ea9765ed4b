"""Checks a call before it becomes a request. Every number in a call was written by the client and may be anything.

Python's integers do not overflow, so `offset + rows * width` is what it says. Token ids outside the vocabulary
are not seen here: they are payload, which only the executor reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from symbiosis_core.config import LimitsConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.specs import PLANE_ALIGNMENT, Direction, Op, Plane
from symbiosis_transports.calls import Call

__all__ = ["ALIGNMENT_BYTES", "Admission"]

ALIGNMENT_BYTES: Final = PLANE_ALIGNMENT
"""Regions start where planes do."""


class Admission:
    """The rules of one catalogue, and of what is learned later, under one set of limits."""

    __slots__ = ("_max_rows", "_row_bytes")

    def __init__(self, ops: Sequence[Op], limits: LimitsConfig) -> None:
        self._max_rows = limits.max_rows
        self._row_bytes: list[tuple[_RowBytes | None, ...]] = []
        for op in ops:
            self.learn(op)

    def learn(self, op: Op) -> None:
        """From now on calls may name `op`, whose id is the number of ops before it."""
        assert op.id == len(self._row_bytes)
        self._row_bytes.append(tuple([_row_bytes(op, direction) for direction in Direction]))

    def limit(self, limits: LimitsConfig) -> None:
        """From now on these limits hold."""
        self._max_rows = limits.max_rows

    def refusal(self, call: Call, slot_bytes: int) -> RefusalCode | None:
        """Returns why the call cannot be computed in a slot of that many bytes; None: it can.

        - MALFORMED: the direction is none.
        - UNKNOWN_OP: the catalogue has no such op. A negative number is not counted from the end.
        - NO_BACKWARD: the op passes no gradient on, as an embedding.
        - BAD_ROWS: no rows, or more than `limits.max_rows`.
        - BAD_REGION: a region leaves the slot or is not aligned, or the two overlap.
        """
        op, direction, rows, in_offset, out_offset, *_ = call
        if not 0 <= op < len(self._row_bytes):
            return RefusalCode.UNKNOWN_OP
        if direction not in (0, 1):
            return RefusalCode.MALFORMED
        row_bytes = self._row_bytes[op][direction]
        if row_bytes is None:
            return RefusalCode.NO_BACKWARD
        if not 1 <= rows <= self._max_rows:
            return RefusalCode.BAD_ROWS
        in_stop = in_offset + _region_bytes(row_bytes[0], rows)
        out_stop = out_offset + _region_bytes(row_bytes[1], rows)
        inside = in_offset >= 0 and out_offset >= 0 and in_stop <= slot_bytes and out_stop <= slot_bytes
        aligned = in_offset % ALIGNMENT_BYTES == 0 and out_offset % ALIGNMENT_BYTES == 0
        apart = in_stop <= out_offset or out_stop <= in_offset
        return None if inside and aligned and apart else RefusalCode.BAD_REGION


_RowBytes = tuple[tuple[int, ...], tuple[int, ...]]
"""Bytes of one row, per plane: in and out."""


def _row_bytes(op: Op, direction: Direction) -> _RowBytes | None:
    """Returns None where the op has no such direction."""
    planes_out = op.planes_out(direction)
    return (_each(op.planes_in(direction)), _each(planes_out)) if planes_out else None


def _each(planes: Sequence[Plane]) -> tuple[int, ...]:
    return tuple([plane.row_bytes for plane in planes])


def _region_bytes(row_bytes: tuple[int, ...], rows: int) -> int:
    """Returns how far a region of these planes reaches; its last plane ends where its rows end."""
    at = 0
    for each in row_bytes[:-1]:
        at += -(-rows * each // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return at + rows * row_bytes[-1]
