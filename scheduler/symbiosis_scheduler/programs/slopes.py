"""A head and its loss as one function, whose logits live for a few rows at a time.

Logits are the widest value of a model: those of 1024 rows over 49,152 classes take 100 MB in bfloat16, and as much
again their gradient. Nobody wants them. So some rows are multiplied by the head, their losses taken, and, where a
backward is to come, the gradient is put where the logits were and carried through the head at once. What is kept
is as wide as the hidden rows: the *slope*, the gradient of a row's own loss with respect to what went into the
head. Rows do not depend on each other, so the backward only multiplies each slope by the gradient of its loss. The
idea is that of Liger's fused linear cross entropy (arXiv 2410.10989), which sums over the rows.

The bits of a loss are those of the model's own steps, and so are those of the gradient where the loss is
multiplied by a power of two. Elsewhere a slope in bfloat16 is rounded for a loss of 1 and not for what it is
multiplied with later. For a third and for 1/300 it was as far from the exact gradient as the model's own (0.0023
and 0.0024 of its norm for 0.0029 and 0.0024), and 0.006 of the largest entry from that one at most.

R is rows of a batch, P those of a piece, D the width of hidden rows, V the classes of a vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from symbiosis_core.segments import Fn, Node, SegmentSpec
from symbiosis_scheduler.programs.losses import rows_in_cache
from symbiosis_scheduler.programs.steps import Layer, Pull, Step, Weights, pull_of, step_of
from symbiosis_transports.tensors import torch_dtype

__all__ = ["HeadLoss", "head_losses_in"]

_PIECE_BYTES: Final = 32 << 20
_LEAST_ROWS, _MOST_ROWS = 128, 256
"""Rows that are multiplied by the head at once, as many as have `_PIECE_BYTES` of logits. A product lays the
weight out anew each time: for 256 rows of SmolLM2 in pieces of 32, 64, 128 and 256 loss and slope took 185, 157,
126 and 96 ms on two cores, with all logits at once 109."""
_LIFTS: Final = {torch.float16: 2.0**8}
"""What slopes of an element type are multiplied by: float16 holds small shares with ever fewer bits."""
_ELEMENTWISE: Final = frozenset({Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.POW, Fn.NEG, Fn.TANH, Fn.SIGMOID, Fn.CAST})


class _Between(NamedTuple):
    """What is done to the logits before the loss, such as a cast or a cap."""

    step: Step
    pull: Pull | None
    dtype: torch.dtype
    """Of what it is done to."""


class HeadLoss:
    """The losses of rows, and their slopes, from what goes into the head. Keeps no rows."""

    def __init__(self, spec: SegmentSpec, loss: Node, chain: Sequence[int], weights: Weights) -> None:
        """`chain` are the values from the logits to what the loss reads."""
        head, *between = [spec.segment.nodes[value - spec.first_node] for value in chain]
        self.args: Final = (head.args[0], loss.args[1])
        """What goes into the head, and the classes that are right."""
        self.slope: Final = chain[0]
        """The number under which a program knows the slopes: that of the logits, which it never sees."""
        self.inside: Final = frozenset(chain)
        """The values that are no longer made."""
        self._layer: Layer = weights.layer(head.op)
        self._ignored = loss.start
        width, dtype = spec.values[self.slope]
        dtypes = [torch_dtype(spec.values[value].dtype) for value in chain]
        self._between = [
            _Between(step_of(node, weights), pull_of(node, weights, width), of)
            for node, of in zip(between, dtypes[:-1], strict=True)
        ]
        self._rows = min(_MOST_ROWS, max(_LEAST_ROWS, _PIECE_BYTES // (width * dtype.itemsize)))
        self._dtype = dtypes[-1]

    def losses(self, x_RD: Tensor, classes_R1: Tensor) -> Tensor:
        """Returns the loss of every row, (R, 1)."""
        return self._of_counted(x_RD, classes_R1, sloping=False)[0]

    def slopes(self, x_RD: Tensor, classes_R1: Tensor) -> Tensor:
        """Returns the slope of every row, (R, D)."""
        return self.both(x_RD, classes_R1)[1]

    def both(self, x_RD: Tensor, classes_R1: Tensor, keeps_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the losses of every row, and the slopes of those that `keeps_R` is true for, of others zeros.

        So in a batch of some that train and some that evaluate, only the former pay for the second product.
        `keeps_R` is on the CPU; None: all rows are kept.
        """
        if keeps_R is None or bool(keeps_R.all()):
            losses_R1, slopes_RD = self._of_counted(x_RD, classes_R1, sloping=True)
            return losses_R1, slopes_RD
        slopes_RD = torch.zeros_like(x_RD)
        if not bool(keeps_R.any()):
            return self.losses(x_RD, classes_R1), slopes_RD
        kept, others = (mine.nonzero()[:, 0].to(x_RD.device) for mine in (keeps_R, ~keeps_R))
        losses_K1, slopes_KD = self._of_counted(x_RD[kept], classes_R1[kept], sloping=True)
        losses_R1 = losses_K1.new_empty(len(x_RD), 1).index_copy_(0, kept, losses_K1)
        losses_R1.index_copy_(0, others, self.losses(x_RD[others], classes_R1[others]))
        return losses_R1, slopes_RD.index_copy_(0, kept, slopes_KD)

    def pull(self, dy_R1: Tensor, args: Sequence[Any], out: Any, index: int) -> Tensor:
        """Returns the gradient of what goes into the head. The last of `args` are the slopes."""
        classes_R1: Tensor = args[1]
        slopes_RD: Tensor = args[2]
        dy_R1 = dy_R1.where(classes_R1 != self._ignored, 0.0)
        if dy_R1.dtype in _LIFTS:
            dy_R1 = dy_R1.float()  # of a small gradient the division would leave few bits
        return slopes_RD * (dy_R1 / _LIFTS.get(slopes_RD.dtype, 1.0))

    def _of_counted(self, x_RD: Tensor, classes_R1: Tensor, *, sloping: bool) -> list[Tensor]:
        """Leaves out the rows that count nothing, such as a prompt's. On a GPU that would mean to wait for it."""
        counts_R1 = classes_R1 != self._ignored
        if x_RD.device.type != "cpu" or bool(counts_R1.all()):
            return self._in_pieces(x_RD, classes_R1, sloping=sloping)
        counted = counts_R1.reshape(-1).nonzero().reshape(-1)
        found = self._in_pieces(x_RD[counted], classes_R1[counted], sloping=sloping)
        return [rows.new_zeros(len(x_RD), rows.shape[1]).index_copy_(0, counted, rows) for rows in found]

    def _in_pieces(self, x_RD: Tensor, classes_R1: Tensor, *, sloping: bool) -> list[Tensor]:
        """Returns the losses, and the slopes where they are wanted."""
        counts_R1 = classes_R1 != self._ignored
        losses_R1 = x_RD.new_empty(classes_R1.shape, dtype=self._dtype)
        rights_R1 = classes_R1.where(counts_R1, 0)
        slopes: list[Tensor] = []
        pieces = zip(*[rows.split(self._rows) for rows in (x_RD, rights_R1, losses_R1)], strict=True)
        for x_PD, rights_P1, losses_P1 in pieces:
            logits_PV = self._layer.forward(x_PD, None)
            self._take_losses(logits_PV, rights_P1, losses_P1, sloping=sloping)
            if sloping:
                slopes.append(self._layer.backward(logits_PV, None))
        losses_R1.masked_fill_(~counts_R1, 0.0)
        return [losses_R1, torch.cat(slopes)] if sloping else [losses_R1]

    def _take_losses(self, logits_PV: Tensor, rights_P1: Tensor, losses_P1: Tensor, *, sloping: bool) -> None:
        """Writes the losses; leaves the gradient where the logits were, if it is wanted."""
        few = rows_in_cache(logits_PV.shape[1], self._dtype)
        parts = zip(*[rows.split(few) for rows in (logits_PV, rights_P1, losses_P1)], strict=True)
        for logits, rights, losses in parts:
            values = [logits]
            for between in self._between:
                values.append(between.step(values[-1]))
            shares = values[-1].log_softmax(-1)
            torch.neg(shares.gather(1, rights), out=losses)
            if sloping:
                grad = shares.exp_()
                grad.scatter_add_(1, rights, grad.new_full((), -1.0).expand(rights.shape))
                if logits.dtype in _LIFTS:
                    grad.mul_(_LIFTS[logits.dtype])
                logits.copy_(self._back_to_logits(grad, values))

    def _back_to_logits(self, grad: Tensor, values: Sequence[Tensor]) -> Tensor:
        for at in reversed(range(len(self._between))):
            _, pull, dtype = self._between[at]
            assert pull is not None  # what is elementwise has one
            grad = pull(grad, [values[at]], values[at + 1], 0).to(dtype)
        return grad


def head_losses_in(spec: SegmentSpec, weights: Weights) -> dict[int, HeadLoss]:
    """Returns the losses, by the number of the value that comes out, whose logits nothing else reads."""
    nodes = dict(enumerate(spec.segment.nodes, spec.first_node))
    reads = Counter(arg for node in nodes.values() for arg in node.args)
    reads.update(spec.segment.outputs)
    found = {}
    for value, node in nodes.items():
        if node.fn is Fn.CROSS_ENTROPY and (chain := _chain(node.args[0], nodes, reads)):
            found[value] = HeadLoss(spec, node, chain, weights)
    return found


def _chain(value: int, nodes: dict[int, Node], reads: Counter[int]) -> list[int]:
    """Returns the values from a head's logits to `value`; none where somebody else reads one of them."""
    chain: list[int] = []
    while (node := nodes.get(value)) is not None and reads[value] == 1:
        chain.insert(0, value)
        if node.fn is Fn.LINEAR:
            return chain
        if len(node.args) != 1 or node.fn not in _ELEMENTWISE:
            break
        value = node.args[0]
    return []
