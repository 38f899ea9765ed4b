"""The segments that clients have taught this daemon, by content."""

from __future__ import annotations

from typing import Final

from symbiosis_core.errors import BusyError, RefusalCode
from symbiosis_core.ids import OpId
from symbiosis_core.segments import Segment, SegmentSpec, check, describe
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.program import Program

__all__ = ["Segments"]


class Segments:
    """Gives every distinct segment a number, after those of the catalogue, and makes it ready to run."""

    def __init__(self, layers: FrozenLayers, most: int) -> None:
        self._layers = layers
        self._most: Final = most
        self._tensors = {tensor.name: tensor for tensor in layers.spec.tensors}
        self._known: dict[Segment, SegmentSpec] = {}

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, segment: Segment) -> tuple[SegmentSpec, Program | None]:
        """Returns the segment under its number, and its program if it is new.

        Raises:
            RefusedError: it does not fit this model.
            BusyError: there are too many.
        """
        known = self._known.get(segment)
        if known is not None:
            return known, None
        if len(self._known) >= self._most:
            raise BusyError(
                RefusalCode.QUOTA,
                f"the daemon knows {self._most} segments, its limit",
                "raise limits.segments, or load the model with cut='siblings'",
            )
        ops = self._layers.spec.ops
        values = check(segment, ops, self._tensors)
        id = OpId(len(ops) + len(self._known))
        spec = SegmentSpec(id, segment, values, describe(segment, ops))
        program = Program(spec, self._layers)
        self._known[segment] = spec
        return spec, program
