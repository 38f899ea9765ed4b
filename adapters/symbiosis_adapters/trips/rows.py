"""The client's border: whoever implements `Rows` computes the frozen ops somewhere else.

The whole SDK above this line knows nothing of daemons, sockets or slots; the session implements the protocol
over a connection, the tests over a plain model in the same process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from symbiosis_core.segments import Segment, SegmentSpec
from symbiosis_core.specs import Direction, Op, OpSpec

__all__ = ["Rows"]


class Rows(Protocol):
    """Computes frozen ops somewhere else.

    Autograd calls it from whatever thread runs the backward, so an implementation with a connection holds a lock.
    """

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        """Applies the op to T >= 1 rows; no row looks at another.

        `x_TW` is `T x op.row_in(direction)[0]` of dtype `op.row_in(direction)[1]`, contiguous or not; token ids
        are int64 of shape `T x 1`. It is the caller's and is not kept after the return. It may require a gradient,
        but only while autograd records nothing.

        The answer is `T x op.row_out(direction)[0]`, contiguous, of dtype `op.row_out(direction)[1]`, on the
        device of `x_TW`, without autograd history. It is a fresh tensor, no view, and the caller's: it may be
        modified and resized.
        """

    def learn(self, segment: Segment) -> SegmentSpec:
        """Makes a segment known to whoever computes it, and returns what to call it by."""

    def call(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int = 0
    ) -> list[torch.Tensor]:
        """Applies an op of several planes: `T x width` each, as `op.planes_in` says; else as `run`.

        Under `memo`, other than 0, a forward may be remembered for its backward.
        """
