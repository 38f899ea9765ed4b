"""Linears whose weights are held in four bits, nf4 with a scale for each block: as bitsandbytes has them.

A weight of bitsandbytes is bytes of two values each, and beside them the scales of its blocks, themselves in eight
bits where it was quantised doubly. Those are what the daemon keeps. At every product the weight is unpacked by
bitsandbytes' operators, multiplied by torch, and let go: its own steps for rows that need a gradient, and its
steps back. For others it has faster ones on some processors, which round inputs to bfloat16; they are not taken,
so that an answer does not depend on who asks.

The operators are found by name. Where such a weight exists, bitsandbytes has been imported.

R is rows of a whole batch, D width in, O width out, B blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Nf4Linear", "Nf4Weight", "nf4_of", "put_nf4"]

_SCALES_A_GROUP = 256
"""Blocks whose scales share one of their own, in every doubly quantised weight of bitsandbytes."""


class DoublyQuantised(NamedTuple):
    """What makes scales of eight bits float32 again."""

    scales: Tensor
    """float32, one for each group of blocks."""
    values: Tensor
    """float32: what each of 256 bytes stands for."""
    offset: Tensor
    """float32, no dimensions: added to every scale."""


class Nf4Weight(NamedTuple):
    """What a weight in four bits is made of, and what it stands for."""

    packed: Tensor
    """uint8: two values each, row by row."""
    scales: Tensor
    """One for each block: float32; uint8 where `doubly`."""
    doubly: DoublyQuantised | None
    block: int
    """How many values share a scale."""
    shape: tuple[int, int]
    """O x D."""
    dtype: torch.dtype
    """Which it had before, and has again for its backward."""

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        """All the memory that it takes."""
        return (self.packed, self.scales, *(self.doubly or ()))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Returns it as O x D."""
        operators: Any = torch.ops.bitsandbytes
        scales_B = self.scales
        if self.doubly is not None:
            groups, values, offset = self.doubly
            unscaled_B = operators.dequantize_blockwise(scales_B, groups, values, _SCALES_A_GROUP, torch.float32)
            scales_B = unscaled_B + offset
        weight_OD: Tensor = operators.dequantize_4bit(self.packed, scales_B, self.block, "nf4", self.shape, dtype)
        return weight_OD


def nf4_of(weight: Tensor) -> Nf4Weight | None:
    """Returns what a weight in four bits is made of; None: it is another. `loading` says what is let in."""
    state: Any = getattr(weight, "quant_state", None)
    if state is None:
        return None
    doubly = DoublyQuantised(state.state2.absmax, state.state2.code, state.offset) if state.nested else None
    return Nf4Weight(weight.data, state.absmax, doubly, state.blocksize, tuple(state.shape), state.dtype)


def put_nf4(weight: Tensor, pieces: Iterable[Tensor]) -> None:
    """Has the weight be made of these from now on, in the order of `Nf4Weight.pieces`."""
    state: Any = weight.quant_state  # type: ignore[attr-defined]  # of bitsandbytes' own class
    weight.data, state.absmax, *doubly = pieces
    if doubly:
        state.state2.absmax, state.state2.code, state.offset = doubly


class Member(NamedTuple):
    """One linear, and what it holds now."""

    weight: Nf4Weight
    bias: Tensor | None
    computed_in: torch.dtype

    @classmethod
    def of(cls, linear: nn.Linear) -> Member:
        weight = nf4_of(linear.weight)
        assert weight is not None
        bias_O = None if linear.bias is None else linear.bias.data
        return cls(weight, bias_O, getattr(linear, "compute_dtype", None) or weight.dtype)

    def forward(self, x_RD: Tensor) -> Tensor:
        bias_O = None if self.bias is None else self.bias.to(self.computed_in)
        weight_OD = self.weight.unpacked(self.computed_in)
        return nn.functional.linear(x_RD.to(self.computed_in), weight_OD, bias_O).to(x_RD.dtype)

    def backward(self, dy_RO: Tensor) -> Tensor:
        weight_OD = self.weight.unpacked(self.weight.dtype).to(self.computed_in)
        return torch.mm(dy_RO.to(self.computed_in), weight_OD).to(dy_RO.dtype)


class Nf4Linear:
    """y = x W^T + b for each of its linears, one beside the other, in their own memory.

    Nothing is fused: each is unpacked and multiplied by itself, so no more than one weight is there unpacked.
    """

    __slots__ = ("_linears", "_members", "_widths_out", "widths")

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linears = linears
        self._widths_out = [linear.out_features for linear in linears]
        self.widths = (sum(self._widths_out), linears[0].in_features)  # of an answer row, by direction
        self._members: list[Member] = []

    def move(self, moved: Callable[[Tensor], Tensor]) -> None:
        """Has what its linears hold be looked up again: whoever moves layers moves their parameters."""
        self._members = []

    def forward(self, x_RD: Tensor, out_RO: Tensor | None) -> Tensor:
        answers = [member.forward(x_RD) for member in self._held()]
        return answers[0] if len(answers) == 1 and out_RO is None else torch.cat(answers, dim=1, out=out_RO)

    def backward(self, dy_RO: Tensor, out_RD: Tensor | None) -> Tensor:
        parts = zip(self._held(), dy_RO.split(self._widths_out, dim=1), strict=True)
        dx_RD, *more = (member.backward(dy) for member, dy in parts)
        for each_RD in more:
            dx_RD += each_RD
        return dx_RD if out_RD is None else out_RD.copy_(dx_RD)

    def columns(self, start: int, width: int) -> None:
        """Returns None: a weight is unpacked as a whole."""

    def _held(self) -> list[Member]:
        if not self._members:  # at the first use: until then the linears' memory may be exchanged
            self._members = [Member.of(linear) for linear in self._linears]
        return self._members
