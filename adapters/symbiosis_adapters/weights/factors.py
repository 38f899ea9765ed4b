"""Frozen matrices as factors: rows times a weight that is not lent, some of its rows, or what is transposed.

TRL's trainers multiply hidden rows by `lm_head.weight[a:b].t()` themselves, to have few logits at a time, and so
do other chunked losses. The values of such a weight may be the daemon's alone; the product is one that the daemon
computes every day. So a placeholder knows which columns of which op it is (`Factor`), through slices, transposes
and casts, and a product of rows with it is a trip, with its gradient. Only the columns asked for are computed,
unless their bounds vary without end.

The daemon multiplies in the base's element type and adds the bias of the layer, which is subtracted here.

T rows of one call, D width in, O width out of the op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from symbiosis_adapters.trips.remote import FrozenLinear, RemoteRows
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import Direction, Plane

__all__ = ["Factor", "Multiplier"]

_MOST_COLUMNS: Final = 256
"""Of how many parts of one op, with itself, there is one: a vocabulary of 256 k in tiles of 1024, but not all that
there can be."""


class FrozenColumns(FrozenLinear):
    """Some columns of a frozen linear, as an op that computes no others: a segment of two nodes."""

    __slots__ = ("_segment",)

    def __init__(self, whole: FrozenLinear, start: int, width: int) -> None:
        super().__init__(whole.rows, whole.spec)
        self.width_out = width
        nodes = (Node(Fn.LINEAR, (0,), whole.spec.id), Node(Fn.TAKE, (1,), start=start, width=width))
        row_in = Plane(*whole.spec.row_in(Direction.FORWARD))
        self._segment = self.rows.learn(Segment((row_in,), (), nodes, (2,)))

    def _run(self, direction: Direction, rows: Tensor) -> Tensor:
        if direction is Direction.FORWARD:
            return self.rows.call(self._segment, direction, (rows,))[0]
        unread_TD = rows.new_zeros(1, self.width_in).expand(rows.shape[0], self.width_in)
        return self.rows.call(self._segment, direction, (unread_TD, rows))[0]


class WholeForColumns(FrozenLinear):
    """Some columns of a frozen linear that computes all of them: where there would be too many such ops."""

    __slots__ = ("_start",)

    def __init__(self, whole: FrozenLinear, start: int, width: int) -> None:
        super().__init__(whole.rows, whole.spec)
        self._start, self.width_out = start, width

    def _run(self, direction: Direction, rows: Tensor) -> Tensor:
        columns = slice(self._start, self._start + self.width_out)
        if direction is Direction.FORWARD:
            return super()._run(direction, rows)[:, columns].clone(memory_format=torch.contiguous_format)
        padded_TO = rows.new_zeros(rows.shape[0], self.spec.width_out)
        padded_TO[:, columns] = rows
        return super()._run(direction, padded_TO)


class _Product:
    """Rows times W, or times its transpose: either is the gradient of the other. What `RemoteRows` applies."""

    __slots__ = ("across", "bias_O", "op", "spec")

    def __init__(self, op: FrozenLinear, bias_O: Tensor | None, across: bool) -> None:
        self.op, self.bias_O, self.across = op, bias_O, across
        self.spec = op.spec

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._apply(x, dtype, self.across)

    def backward(self, dys: tuple[Tensor | None, ...], lead: torch.Size, dtype: torch.dtype) -> Tensor | None:
        return None if dys[0] is None else self._apply(dys[0], dtype, not self.across)

    def _apply(self, x: Tensor, dtype: torch.dtype, across: bool) -> Tensor:
        if not across:
            dx: Tensor = self.op.backward((x,), x.shape[:-1], dtype)
            return dx
        y: Tensor = self.op.forward(x, dtype)
        return y if self.bias_O is None else y.sub_(self.bias_O.to(y))


class Multiplier:
    """What the daemon can multiply rows by: the whole weight of a linear. Shared by all factors of it."""

    def __init__(self, op: FrozenLinear, *, biased: bool, across: bool) -> None:
        """`across` says that the weight is kept D x O, as Conv1D does, and not O x D."""
        self.op = op
        self.across = across
        self._biased = biased
        self._bias_O: Tensor | None = None
        self._columns: dict[tuple[int, int], FrozenLinear] = {(0, op.width_out): op}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def factor(self) -> Factor:
        """Returns the whole weight as a factor."""
        return Factor(self, 0, self.op.width_out, self.across)

    def bias(self) -> Tensor:
        """Returns the bias: what the op makes of a row of zeros."""
        if self._bias_O is None:
            with torch.inference_mode(False):  # it is kept for later modes
                nothing_1D = torch.zeros(1, self.op.width_in, dtype=self.op.dtype)
                self._bias_O = self.op.forward(nothing_1D, self.op.dtype)[0]
        return self._bias_O

    def product(self, start: int, stop: int, across: bool) -> _Product:
        """Returns what multiplies by the columns `start` to `stop` of the op, or back."""
        op = self._columns.get((start, stop))
        if op is None and len(self._columns) < _MOST_COLUMNS:
            op = self._columns[start, stop] = FrozenColumns(self.op, start, stop - start)
        elif op is None:
            op = WholeForColumns(self.op, start, stop - start)
        return _Product(op, self.bias()[start:stop] if self._biased else None, across)


class Factor(NamedTuple):
    """A matrix that rows can be multiplied by: columns of an op, n in number, D x n or, transposed, n x D."""

    of: Multiplier
    start: int
    stop: int
    across: bool
    """Whether it is D x n."""

    def times(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns x times this, in that element type, with its gradient.

        Raises:
            RuntimeError: the widths do not fit.
        """
        product = self.of.product(self.start, self.stop, self.across)
        height = self.of.op.width_in if self.across else self.stop - self.start
        if x.shape[-1:] != (height,):
            raise RuntimeError(f"{tuple(x.shape)} cannot be multiplied by {height} rows of {product.spec.name}")
        if x.requires_grad and torch.is_grad_enabled():
            y: Tensor = RemoteRows.apply(x, product, dtype)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return y
        return product.forward(x, dtype)

    def transposed(self) -> Factor:
        """Returns the transpose."""
        return self._replace(across=not self.across)

    def seen(self, view: Callable[[Tensor], Tensor]) -> Factor | None:
        """Returns what a view of this is, or a cast; None where that is no such matrix."""
        layout = self._layout()
        try:
            made = view(layout)
        except NotImplementedError:  # it is there on another device, which moves nothing
            return self
        if made.dtype != layout.dtype:
            return self
        return self.of.factor()._found(made)

    def _layout(self) -> Tensor:
        """Returns a tensor without memory that lies in the weight as this does."""
        op = self.of.op
        shape = (op.width_in, op.width_out) if self.of.across else (op.width_out, op.width_in)
        whole_OD = torch.empty(shape, device="meta")
        if self.of.across:
            whole_OD = whole_OD.t()
        part = whole_OD[self.start : self.stop]
        return part.t() if self.across else part

    def _found(self, made: Tensor) -> Factor | None:
        """Returns the factor that lies in the whole weight as `made` does."""
        start = made.storage_offset() // self._replace(across=False)._layout().stride(0)
        for across in (False, True):
            tall = made.t() if across and made.ndim == 2 else made
            if tall.ndim != 2 or start + tall.shape[0] > self.stop or not tall.shape[0]:
                continue
            found = Factor(self.of, start, start + tall.shape[0], across)
            same = found._replace(across=False)._layout()
            if (same.shape, same.stride(), same.storage_offset()) == (
                tall.shape,
                tall.stride(),
                tall.storage_offset(),
            ):
                return found
        return None
