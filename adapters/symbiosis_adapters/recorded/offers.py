"""An op of the catalogue as it is recorded: worked out once, because a decode step asks for it in every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch

from symbiosis_core.specs import Direction, OpSpec, Plane
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["Offer"]


class Offer(NamedTuple):
    """All that recording an op asks for."""

    id: int
    dtype: torch.dtype
    """Of the rows that it takes."""
    tail: tuple[int, ...]
    """The last size of the tensors that it takes."""
    plane_in: Plane
    plane_out: Plane
    members: tuple[Plane, ...]
    """What each takes of the output, where it is siblings."""

    @classmethod
    def of(cls, op: OpSpec) -> Offer:
        """Returns the offer of an op."""
        (plane_in,), (plane_out,) = op.planes_in(Direction.FORWARD), op.planes_out(Direction.FORWARD)
        members = tuple([Plane(width, op.dtype) for width in op.widths_out])
        return cls(op.id, TORCH_DTYPES[plane_in.dtype], (op.width_in,), plane_in, plane_out, members)
