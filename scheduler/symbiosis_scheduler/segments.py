"""The segments that clients have taught this daemon, by base and content."""

from __future__ import annotations

from typing import Final

from symbiosis_core.errors import BusyError, RefusalCode
from symbiosis_core.ids import OpId
from symbiosis_core.segments import Segment, SegmentSpec, check, describe
from symbiosis_scheduler.bases import Base, Bases
from symbiosis_scheduler.programs.program import Program

__all__ = ["Segments"]


class Segments:
    """Gives every distinct segment of a base a number, after those of its catalogue, and makes it ready to run."""

    def __init__(self, bases: Bases, most: int) -> None:
        """`most` is for all bases together."""
        self._most: Final = most
        self._tensors = {base.id: {tensor.name: tensor for tensor in base.layers.spec.tensors} for base in bases}
        self._known: dict[int, dict[Segment, SegmentSpec]] = {base.id: {} for base in bases}

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def learn(self, base: Base, segment: Segment) -> tuple[SegmentSpec, Program | None]:
        """Returns the segment under its number, and its program if it is new.

        Raises:
            RefusedError: it does not fit this base.
            BusyError: there are too many.
        """
        taught = self._known[base.id]
        known = taught.get(segment)
        if known is not None:
            return known, None
        if len(self) >= self._most:
            raise BusyError(
                RefusalCode.QUOTA,
                f"the daemon knows {self._most} segments, its limit",
                "raise limits.segments, or load the model with cut='siblings'",
            )
        ops = base.layers.spec.ops
        values = check(segment, ops, self._tensors[base.id])
        spec = SegmentSpec(OpId(len(ops) + len(taught)), segment, values, describe(segment, ops))
        program = Program(spec, base.layers)
        taught[segment] = spec
        return spec, program
