"""Second copies of weights, in the order in which the processor multiplies few rows fastest.

A decode step has one row per client. Torch hands such a product to oneDNN with the weight as it lies, and oneDNN
then reads it at a third of the memory's speed. Frozen weights can be laid out once in the blocks that oneDNN would
choose itself: the same bits come out, for 1 to 16 rows in half the time (docs/decisions/0011). Inductor packs the
weights of models it has frozen in the same way, with the same two operators, which torch does not document; so
whatever goes wrong with them means only that nothing is packed.

R is rows of a batch, D width in, O width out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_core.logs import event, get_logger

__all__ = ["FEW_ROWS", "FewRows", "Pack", "Packing"]

log = get_logger(__name__)

FEW_ROWS: Final = 64
"""Up to this many rows the packed copy serves; from about here on it is less than a tenth faster."""
FewRows = Callable[[Tensor], Tensor]
"""Takes x_RD of few rows and returns y_RO, fresh."""
Pack = Callable[[Tensor, Tensor | None, FewRows], FewRows | None]
"""`Packing.pack`, or `Packing.pack_again`."""

_EXPECTED_ROWS: Final = 16
"""The number of rows that the blocks are chosen for; for 1 and for 256 the same speed was measured."""
_TRIED_ROWS: Final = (1, 3, _EXPECTED_ROWS, FEW_ROWS)


class Packing:
    """Makes packed copies of whole bases, as far as its budget lasts.

    A base is packed whole or not at all: a copy of a seventh of the weights would take its memory for a token that
    comes a fourteenth sooner.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._left_bytes = budget_bytes
        """What no base has set aside."""
        self._works = True
        self._lock = threading.Lock()  # layers are first used by several threads
        self.packed_bytes = 0
        """What the copies made so far take."""

    def __repr__(self) -> str:
        return f"<Packing {self.packed_bytes} bytes packed, {self._left_bytes} left>"

    def admits(self, weights_bytes: int) -> bool:
        """Whether the copies of a base fit into what is left of the budget, which is then set aside for them."""
        if weights_bytes > self._left_bytes:
            why = "they take more than compute.packed_bytes leaves"
            log.info(event("weights are not packed", bytes=weights_bytes, left=self._left_bytes, why=why))
            return False
        self._left_bytes -= weights_bytes
        return True

    def pack(self, weight_OD: Tensor, bias_O: Tensor | None, plain: FewRows) -> FewRows | None:
        """Returns what computes x W^T + b over a packed copy; None where `plain` is to be used as ever.

        That is where this torch or processor packs nothing, and where a trial of random rows does not give the
        bits of `plain`, as with float32, whose sums depend on their order. For a base that was admitted.
        """
        with self._lock:
            return self._pack(weight_OD, bias_O, plain)

    def pack_again(self, weight_OD: Tensor, bias_O: Tensor | None, plain: FewRows) -> FewRows | None:
        """Does the same for a part of a weight that was counted whole, out of what no base has set aside.

        It is of siblings, and somebody asks for one alone.
        """
        with self._lock:
            if weight_OD.nbytes > self._left_bytes:
                return None
            packed = self._pack(weight_OD, bias_O, plain)
            if packed is not None:
                self._left_bytes -= weight_OD.nbytes
            return packed

    def _pack(self, weight_OD: Tensor, bias_O: Tensor | None, plain: FewRows) -> FewRows | None:
        if not self._works or weight_OD.device.type != "cpu":
            return None
        try:
            product = _product(weight_OD, bias_O)
            if not all(_same_bits(product, plain, rows, weight_OD) for rows in _TRIED_ROWS):
                return None
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            log.info(event("weights are not packed", error=error))
            self._works = False  # it would be the same for every other
            return None
        self.packed_bytes += weight_OD.nbytes
        return product


def _product(weight_OD: Tensor, bias_O: Tensor | None) -> FewRows:
    onednn: Any = torch.ops.mkldnn
    packed: Tensor = onednn._reorder_linear_weight(weight_OD.contiguous(), _EXPECTED_ROWS)
    linear = onednn._linear_pointwise.default
    return lambda x_RD: linear(x_RD, packed, bias_O, "none", [], "")


def _same_bits(product: FewRows, plain: FewRows, rows: int, weight_OD: Tensor) -> bool:
    """Whether both agree on random rows; torch's own random numbers are left as they were."""
    chance = torch.Generator().manual_seed(rows)
    x_RD = torch.randn(rows, weight_OD.shape[1], generator=chance).to(weight_OD.dtype)
    return torch.equal(product(x_RD), plain(x_RD))
