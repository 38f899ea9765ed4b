"""Weights that are held in fewer bits than rows have: what is asked of one, whatever it is made of.

A weight is ordinary, or one of torchao's (`int8`), or one of bitsandbytes' (`nf4`). Whoever moves, counts or
hashes weights goes by their pieces, which are ordinary tensors; whoever builds layers asks for what computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from symbiosis_scheduler.frozen.int8 import Int8Linear, fused_int8, int8_of, put_int8
from symbiosis_scheduler.frozen.nf4 import Nf4Linear, nf4_of, put_nf4

__all__ = [
    "BITS",
    "QuantisedLinear",
    "held_as",
    "is_quantised",
    "pieces",
    "quantised_linear",
    "quantised_siblings",
    "reseat",
    "row_dtype",
]

QuantisedLinear = Int8Linear | Nf4Linear
BITS: Final = {"int8": "eight bits", "nf4": "four bits"}
"""What is said of a base that is held so."""


def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Returns the ordinary tensors that a tensor is made of: most are made of themselves."""
    if (nf4 := nf4_of(tensor)) is not None:
        return nf4.pieces
    return int8_of(tensor) or (tensor,)


def is_quantised(tensor: Tensor) -> bool:
    """Says whether a weight is."""
    return int8_of(tensor) is not None or nf4_of(tensor) is not None


def held_as(model: nn.Module) -> str:
    """Returns how the model's quantised weights are held: `int8` or `nf4`; empty: it has none."""
    for parameter in model.parameters():
        if is_quantised(parameter):
            return "nf4" if int8_of(parameter) is None else "int8"
    return ""


def row_dtype(weight: Tensor) -> torch.dtype:
    """Returns the element type of the rows that a weight makes."""
    nf4 = nf4_of(weight)
    return weight.dtype if nf4 is None else nf4.dtype


def reseat(weight: Tensor, copy: Callable[[Tensor], Tensor]) -> None:
    """Exchanges every piece of a weight for what `copy` makes of it."""
    copies = [copy(piece) for piece in pieces(weight)]
    if int8_of(weight) is not None:
        put_int8(weight, copies)
    elif nf4_of(weight) is not None:
        put_nf4(weight, copies)
    else:
        [weight.data] = copies


def quantised_linear(linear: nn.Linear) -> QuantisedLinear:
    """Returns what computes a linear whose weight is quantised, in the linear's own memory."""
    made = int8_of(linear.weight)
    if made is None:
        return Nf4Linear([linear])
    return Int8Linear(*made, None if linear.bias is None else linear.bias.data, linear.weight.dtype)


def quantised_siblings(linears: list[nn.Linear]) -> QuantisedLinear:
    """Returns what computes siblings whose weights are quantised. Those in eight bits move, see `fused_int8`."""
    return Nf4Linear(linears) if int8_of(linears[0].weight) is None else fused_int8(linears)
