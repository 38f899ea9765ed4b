"""Linears whose weights are held in eight bits, one scale for each output: as torchao quantises and multiplies.

A quantised weight of torchao is one tensor to whoever looks, and two underneath: integers and scales. Those
two are what the daemon keeps and computes with, by the steps that torchao's own linear takes, so that the bits are
those of the same model loaded anywhere else. Rows keep the base's element type; a client can
tell by the values alone.

R is rows of a whole batch, D width in, O width out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symbiosis_core.errors import UsageError

__all__ = ["Int8Linear", "Int8Weight", "fused_int8", "int8_of", "put_int8"]


class Int8Weight(NamedTuple):
    """What a quantised weight is made of."""

    integers: Tensor
    """int8, O x D."""
    scales: Tensor
    """float32, O x 1: what one step of each row's integers is worth."""


def int8_of(weight: Tensor) -> Int8Weight | None:
    """Returns what a weight in eight bits is made of; None: it is another. `loading` says what is let in."""
    rows_OD, scales_O1 = getattr(weight, "qdata", None), getattr(weight, "scale", None)
    if not isinstance(rows_OD, Tensor) or not isinstance(scales_O1, Tensor):
        return None
    return Int8Weight(rows_OD, scales_O1)


def put_int8(weight: Tensor, pieces: Iterable[Tensor]) -> None:
    """Has the weight be made of these from now on, in the order of `Int8Weight`."""
    # Ordinary attributes: torchao reads them anew at every use, and offers nothing to set them with.
    weight.qdata, weight.scale = pieces  # type: ignore[attr-defined]


def fused_int8(linears: list[nn.Linear]) -> Int8Linear:
    """Puts the linears' weights one under the other; the linears keep views of them. See `weights.fuse`."""
    widths_out = [linear.out_features for linear in linears]
    own = [made for linear in linears if (made := int8_of(linear.weight)) is not None]
    rows_OD = torch.cat([each.integers for each in own])
    scales_O1 = torch.cat([each.scales for each in own])
    bias_O = None
    if any(linear.bias is not None for linear in linears):
        like = next(linear.bias for linear in linears if linear.bias is not None)
        bias_O = torch.cat(
            [
                like.new_zeros(linear.out_features) if linear.bias is None else linear.bias.data
                for linear in linears
            ]
        )
        for linear, part in zip(linears, bias_O.split(widths_out), strict=True):
            if linear.bias is not None:
                linear.bias.data = part  # or it would stay in the file
    for linear, *pieces in zip(linears, rows_OD.split(widths_out), scales_O1.split(widths_out), strict=True):
        put_int8(linear.weight, pieces)
    return Int8Linear(rows_OD, scales_O1, bias_O, linears[0].weight.dtype)


class Int8Linear:
    """y = (x Q) s + b, Q as D x O."""

    __slots__ = ("_bias_O", "_rows_OD", "_scales_O", "widths")

    def __init__(self, rows_OD: Tensor, scales_O1: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        width_out, width_in = rows_OD.shape
        self.widths = (width_out, width_in)  # of an answer row, by direction
        self._rows_OD = rows_OD
        self._scales_O = scales_O1.to(dtype).flatten()
        self._bias_O = bias_O

    def move(self, moved: Callable[[Tensor], Tensor]) -> None:
        raise UsageError("a base in eight bits is held on the CPU; leave --device or quantize out")

    # Torchao turns the integers into the rows' type at every call: that takes no memory that stays. The steps, and
    # where they round, are torchao's.

    def forward(self, x_RD: Tensor, out_RO: Tensor | None) -> Tensor:
        y_RO = torch.mm(x_RD, self._rows_OD.t().to(x_RD.dtype), out=out_RO).mul_(self._scales_O)
        return y_RO if self._bias_O is None else y_RO.add_(self._bias_O)

    def backward(self, dy_RO: Tensor, out_RD: Tensor | None) -> Tensor:
        return torch.mm(dy_RO * self._scales_O, self._rows_OD.to(dy_RO.dtype), out=out_RD)

    def columns(self, start: int, width: int) -> Int8Linear:
        """Returns some columns, in the same memory."""
        bias_O = None if self._bias_O is None else self._bias_O.narrow(0, start, width)
        scales_O = self._scales_O.narrow(0, start, width)
        return Int8Linear(self._rows_OD.narrow(0, start, width), scales_O, bias_O, scales_O.dtype)
