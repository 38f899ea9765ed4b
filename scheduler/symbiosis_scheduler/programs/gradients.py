"""The gradients of a segment's values while a backward sums them up.

R is rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symbiosis_core.segments import SegmentSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Gradients"]


class Gradients:
    """Gradients by the number of the value; what is given to it is never written to."""

    __slots__ = ("_columns", "_grads", "_own", "_spec")

    def __init__(self, spec: SegmentSpec) -> None:
        self._spec = spec
        self._grads: dict[int, Tensor] = {}
        self._columns: dict[int, list[tuple[int, Tensor]]] = {}
        """Gradients of some columns, with the first: laid side by side when the value's turn comes."""
        self._own: set[int] = set()
        """Values whose sum was made here, and may be written to."""

    def add(self, value: int, grad: Tensor) -> None:
        """Adds a gradient, brought to the width and element type of its value."""
        width, dtype = self._spec.values[value]
        if grad.shape[1] != width:
            grad = grad.sum(-1, keepdim=True) if width == 1 else grad.expand(-1, width)
        grad = grad.to(torch_dtype(dtype))
        if value in self._own:
            self._grads[value].add_(grad)
        elif value in self._grads:
            self._grads[value] = self._grads[value] + grad
            self._own.add(value)
        else:
            self._grads[value] = grad

    def add_columns(self, value: int, start: int, grad: Tensor) -> None:
        """Adds the gradient of the columns from `start` on."""
        self._columns.setdefault(value, []).append((start, grad))

    def take(self, value: int) -> Tensor | None:
        """Returns the sum for a value that gets no more, and forgets it."""
        if (columns := self._columns.pop(value, None)) is not None:
            self.add(value, self._side_by_side(value, columns))
        return self._grads.pop(value, None)

    def of_input(self, value: int, like: Tensor) -> Tensor:
        """Returns the sum for an input; zeros where nothing depends on it."""
        grad = self.take(value)
        return torch.zeros_like(like) if grad is None else grad

    def _side_by_side(self, value: int, columns: list[tuple[int, Tensor]]) -> Tensor:
        width = self._spec.values[value].width
        columns.sort(key=lambda column: column[0])
        ends = [start + grad.shape[1] for start, grad in columns]
        if [start for start, _ in columns] == [0, *ends[:-1]] and ends[-1] == width:
            return torch.cat([grad for _, grad in columns], 1)
        first = columns[0][1]
        whole_RD = first.new_zeros(first.shape[0], width)
        for start, grad in columns:
            whole_RD.narrow(1, start, grad.shape[1]).add_(grad)
        return whole_RD
