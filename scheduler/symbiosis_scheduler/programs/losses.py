"""The loss of every row and its gradient, computed a few rows at a time.

A vocabulary is wide: 256 rows of float32 logits over 49,152 classes take 50 MB, and a softmax of them as much
again. On one core casting and cross entropy took 67 ms for all rows at once, and 10 ms for 16 at a time. Memory of
the one size comes fresh from the kernel every time, which zeroes it page by page; that of the other is used again
and again, and stays in the caches. Rows do not depend on each other, so the bits are the same.

So a cast of logits that only the loss reads is taken into it, and never made for all rows. That is for logits that
somebody wants; where nobody does, `slopes` takes in the head as well.

R is rows of a batch, V the classes of a vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_core.segments import Fn, SegmentSpec
from symbiosis_scheduler.programs.steps import Pull, Step
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Loss", "cross_entropy", "cross_entropy_pull", "losses_in", "rows_in_cache"]

_PIECE_BYTES: Final = 3 << 20
"""Logits that are computed with at once: with 3 MB a loss took 10 ms, with 6 MB 63."""


class Loss(NamedTuple):
    """The cross entropy of every row."""

    args: tuple[int, int]
    """The logits, as they come, and the classes that are right."""
    dtype: torch.dtype
    """What it is computed in."""
    ignored: int
    """A class that counts nothing."""
    inside: frozenset[int]
    """The cast of the logits, if nothing else reads it."""


def losses_in(spec: SegmentSpec) -> Mapping[int, Loss]:
    """Returns the losses of a segment by the number of the value that comes out."""
    nodes = dict(enumerate(spec.segment.nodes, spec.first_node))
    reads = Counter(arg for node in nodes.values() for arg in node.args)
    reads.update(spec.segment.outputs)
    losses = {}
    for value, node in nodes.items():
        if node.fn is Fn.CROSS_ENTROPY:
            logits, target = node.args
            dtype = torch_dtype(spec.values[logits].dtype)
            cast = nodes.get(logits)
            inside = frozenset[int]()
            if cast is not None and cast.fn is Fn.CAST and reads[logits] == 1:
                inside, logits = frozenset((logits,)), cast.args[0]
            losses[value] = Loss((logits, target), dtype, node.start, inside)
    return losses


def cross_entropy(loss: Loss) -> Step:
    """Returns what computes the loss of every row, (R, 1)."""

    def step(logits_RV: Tensor, target_R1: Tensor) -> Tensor:
        ways = [
            F.cross_entropy(logits, target.reshape(-1), ignore_index=loss.ignored, reduction="none")
            for logits, target in _pieces(loss, logits_RV, target_R1)
        ]
        return torch.cat(ways).unsqueeze(1)

    return step


def cross_entropy_pull(loss: Loss) -> Pull:
    """Returns the gradient of the logits, in their own type: softmax less one at what is right, times dy."""

    def pull(dy_R1: Tensor, args: Sequence[Tensor], out: Any, index: int) -> Tensor:
        logits_RV, target_R1 = args
        counts_R1 = target_R1 != loss.ignored
        scale_R1, right_R1 = dy_R1.where(counts_R1, 0.0), target_R1.where(counts_R1, 0)
        grad_RV = torch.empty_like(logits_RV)
        at = 0
        for logits, right in _pieces(loss, logits_RV, right_R1):
            here = slice(at, at := at + len(right))
            share = logits.softmax(-1)
            share.scatter_add_(1, right, share.new_full((), -1.0).expand(right.shape))
            grad_RV[here] = share.mul_(scale_R1[here])
        return grad_RV

    return pull


def rows_in_cache(width: int, dtype: torch.dtype) -> int:
    """Returns how many rows of logits are computed with at once."""
    return max(1, _PIECE_BYTES // (width * dtype.itemsize))


def _pieces(loss: Loss, logits_RV: Tensor, classes_R1: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = rows_in_cache(logits_RV.shape[1], loss.dtype)
    for logits, classes in zip(logits_RV.split(rows), classes_R1.split(rows), strict=True):
        yield logits.to(loss.dtype), classes
