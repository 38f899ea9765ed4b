"""The one autograd seam: frozen ops that are computed elsewhere, as functions of tensors.

For y = x W^T + b with W frozen, dx = dy W. So the seam saves no activation, on neither side; all that the graph
keeps per call is the op and the leading shape of x.

What stands still where torch has a mode, each with its test in tests/adapters/trips/test_remote.py:

- no_grad, inference_mode, or an input that needs no gradient: no autograd node, hence never a backward trip.
- Gradient checkpointing, both kinds: the recomputation makes the forward trip again. Nothing is saved here, so
  there is nothing to pack, unpack or offload.
- Autocast: the base stays in its own dtype. The input is cast to it, and the output has autocast's dtype, as
  nn.Linear's would. A base in float32 is hence computed in float32 and only its answer rounded.
- Any other dtype mismatch: the RuntimeError of nn.Linear, with the layer's name.
- Double backward: UsageError, when something differentiates through the gradient and not before.
- torch.compile: `RemoteLayer.forward` breaks the graph; the trip itself runs eagerly. fullgraph=True fails.
- Zero rows: no trip.
- torch.func transforms and forward-mode AD: torch's own error, there is no rule for them.

Shapes: T rows of one call, D width in, O width out (of all members), W either.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.trips.rows import Rows
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Direction, OpSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["FrozenLinear", "FrozenSiblings", "FrozenTable", "RemoteRows", "refuse_double_backward"]

_MAT_NAMES = {torch.float32: "Float", torch.float64: "Double", torch.bfloat16: "BFloat16", torch.float16: "Half"}
"""Element types as torch's own messages write them."""


class Deferring(Protocol):
    """Records ops. Answers None where an op must be computed now."""

    def offer(self, op: OpSpec) -> Any:
        """Returns what the other methods take for `op`."""

    def linear(self, op: Any, x: torch.Tensor) -> torch.Tensor | None:
        """Records a linear."""

    def siblings(self, op: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Records fused siblings."""

    def lookup(self, op: Any, ids: torch.Tensor) -> torch.Tensor | None:
        """Records an embedding."""


class _Frozen:
    """An op of the catalogue, bound to who computes it. Immutable: copies of a model share it."""

    __slots__ = ("deferral", "dtype", "offer", "rows", "spec", "width_in", "width_out")

    def __init__(self, rows: Rows, spec: OpSpec, deferral: Deferring | None = None) -> None:
        self.rows = rows
        self.spec = spec
        self.deferral = deferral
        """Who records the op instead of having it computed at once; None: nobody."""
        self.offer = None if deferral is None else deferral.offer(spec)
        self.dtype = torch_dtype(spec.dtype)
        self.width_in = spec.width_in
        self.width_out = spec.width_out

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frozen:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec.name})"


class FrozenLinear(_Frozen):
    """A frozen linear: `... x D` in, `... x O` out, differentiable in its input."""

    __slots__ = ("_tail",)

    def __init__(self, rows: Rows, spec: OpSpec, deferral: Deferring | None = None) -> None:
        super().__init__(rows, spec, deferral)
        self._tail = (self.width_in,)

    def __call__(self, x: torch.Tensor) -> Any:
        """Returns the output, or with siblings a tuple of them, each a tensor of its own.

        Raises:
            RuntimeError: dtype or width do not fit, as with nn.Linear.
        """
        if self.deferral is not None:
            if (recorded := self._record(x)) is not None:
                return recorded
            x = value_of(x)
        dtype = self.dtype
        if x.dtype is not dtype or torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
            dtype = self._out_dtype(x)
        if x.shape[-1:] != self._tail:
            raise RuntimeError(
                f"mat1 and mat2 shapes cannot be multiplied ({tuple(x.shape)} and "
                f"{self.width_in}x{self.width_out}) in {self.spec.name}"
            )
        if x.requires_grad and torch.is_grad_enabled():
            return RemoteRows.apply(x, self, dtype)  # type: ignore[no-untyped-call]
        return self.forward(x, dtype)

    def _record(self, x: torch.Tensor) -> Any:
        assert self.deferral is not None  # the caller has asked
        return self.deferral.linear(self.offer, x)

    def forward(self, x: torch.Tensor, dtype: torch.dtype) -> Any:
        """Makes the forward trip; `dtype` is what the output shall have. No autograd.

        The answer is resized, not viewed: a view that a custom Function returns cannot be modified in place, and
        PEFT does that (AdaLoRA: `result += ...`).
        """
        return self._forward_rows(x, dtype).resize_(*x.shape[:-1], self.width_out)

    def backward(self, dys: tuple[torch.Tensor | None, ...], lead: torch.Size, dtype: torch.dtype) -> Any:
        """Makes the backward trip. `lead` and `dtype` are the input's leading shape and dtype."""
        return None if dys[0] is None else self._backward_rows(dys[0], lead, dtype)

    def _forward_rows(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if x.numel() == 0:
            return x.new_empty(0, self.width_out, dtype=dtype)
        x_TD = x.reshape(-1, self.width_in)
        if x.dtype is not self.dtype:  # a decode step asks 120 times: `to` is not free even where it does nothing
            x_TD = x_TD.to(self.dtype)
        y_TO = self._run(Direction.FORWARD, x_TD)
        assert y_TO.is_contiguous()  # `Rows` promises it, and `resize_` would scramble anything else
        return y_TO if dtype is self.dtype else y_TO.to(dtype)

    def _backward_rows(self, dy: torch.Tensor, lead: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        if dy.numel() == 0:
            return dy.new_empty(*lead, self.width_in, dtype=dtype)
        dy_TO = dy.detach().reshape(-1, self.width_out).to(self.dtype)
        dx_TD = self._run(Direction.BACKWARD, dy_TO)
        assert dx_TD.is_contiguous()
        return dx_TD.to(dtype).resize_(*lead, self.width_in)

    def _run(self, direction: Direction, rows: torch.Tensor) -> torch.Tensor:
        return self.rows.run(self.spec, direction, rows)

    def _out_dtype(self, x: torch.Tensor) -> torch.dtype:
        device = x.device.type
        if torch.is_autocast_enabled(device) and x.is_floating_point() and x.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        if x.dtype != self.dtype:
            found, base = (_MAT_NAMES.get(dtype, str(dtype)) for dtype in (x.dtype, self.dtype))
            raise RuntimeError(
                f"mat1 and mat2 must have the same dtype, but got {found} and {base} in {self.spec.name}, which "
                f"the daemon holds in {self.dtype}; cast the input, or use torch.autocast"
            )
        return self.dtype


class FrozenSiblings(FrozenLinear):
    """Several frozen linears of one input as one trip: `... x D` in, one `... x O_i` out for each member.

    The outputs are copies: a view of the fused tensor could not be modified in place, and would keep its siblings'
    memory for as long as it lives. Neither matters for the single row of a decode step, which is only viewed.
    """

    __slots__ = ("singles",)

    def __init__(
        self, rows: Rows, spec: OpSpec, singles: tuple[FrozenLinear, ...], deferral: Deferring | None = None
    ) -> None:
        super().__init__(rows, spec, deferral)
        self.singles = singles

    def _record(self, x: torch.Tensor) -> Any:
        assert self.deferral is not None  # the caller has asked
        return self.deferral.siblings(self.offer, x)

    def forward(self, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        y = self._forward_rows(x, dtype).resize_(*x.shape[:-1], self.width_out)
        if x.numel() == self.width_in and not (x.requires_grad or torch.is_grad_enabled()):
            return y.split_with_sizes(self.spec.widths_out, -1)
        split: Any = torch.split_with_sizes_copy  # torch's stub says it returns None
        return tuple(split(y, self.spec.widths_out, -1))

    def backward(self, dys: tuple[torch.Tensor | None, ...], lead: torch.Size, dtype: torch.dtype) -> Any:
        """Sums over the members. A member without a gradient counts as zeros, a lone gradient goes alone."""
        present = [index for index, dy in enumerate(dys) if dy is not None]
        if len(present) <= 1:
            return self.singles[present[0]].backward((dys[present[0]],), lead, dtype) if present else None
        like = dys[present[0]]
        assert like is not None
        widths = self.spec.widths_out
        whole = [like.new_zeros(*lead, w) if dy is None else dy for dy, w in zip(dys, widths, strict=True)]
        return self._backward_rows(torch.cat(whole, dim=-1), lead, dtype)


class FrozenTable(_Frozen):
    """A frozen embedding: ids of any shape in, one row of width O for each out. Has no gradient."""

    __slots__ = ()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows. An id beyond the table is refused by the daemon.

        Raises:
            RuntimeError: the ids are no int64 or int32, as with nn.Embedding.
        """
        if ids.dtype is not torch.int64:
            if ids.dtype is not torch.int32:
                raise RuntimeError(
                    "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
                    f"Int; but got {ids.dtype} instead in {self.spec.name}"
                )
            ids = ids.long()
        if self.deferral is not None and (recorded := self.deferral.lookup(self.offer, ids)) is not None:
            return recorded
        if ids.numel() == 0:
            return torch.empty(*ids.shape, self.width_out, dtype=self.dtype, device=ids.device)
        y_TO = self.rows.run(self.spec, Direction.FORWARD, ids.reshape(-1, 1))
        assert y_TO.is_contiguous()
        return y_TO.resize_(*ids.shape, self.width_out)


class RemoteRows(torch.autograd.Function):
    """y = op(x) with a frozen op; saves nothing but the op and the leading shape of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, op: FrozenLinear, dtype: torch.dtype) -> Any:
        ctx.op, ctx.lead, ctx.dtype = op, x.shape[:-1], x.dtype
        ctx.set_materialize_grads(False)
        return op.forward(x, dtype)

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor | None) -> Any:
        dx = ctx.op.backward(dys, ctx.lead, ctx.dtype)
        if torch.is_grad_enabled() and dx is not None:  # create_graph=True
            dx = refuse_double_backward(dx, ctx.op.spec.name, dys)
        return dx, None, None


def refuse_double_backward(dx: torch.Tensor, name: str, dys: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
    """Returns `dx`, the gradient of a frozen op, as a tensor that raises when it is differentiated."""
    # torch leaves `apply` untyped
    once: torch.Tensor = _OnlyOnce.apply(dx, name, *dys)  # type: ignore[no-untyped-call]
    return once


class _OnlyOnce(torch.autograd.Function):
    """Passes a gradient on and refuses to be differentiated: computes nothing itself.

    torch's `once_differentiable` would do, but says neither which layer nor what to do about it.
    """

    @staticmethod
    def forward(ctx: Any, dx: torch.Tensor, name: str, *dys: torch.Tensor | None) -> torch.Tensor:
        ctx.name = name
        return dx.view_as(dx)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise UsageError(
            f"frozen remote layers do not support double backward, and the gradient of {ctx.name} was about to be "
            "differentiated; train with first derivatives only (no create_graph=True through the model)"
        )
