"""What is recorded has torch's values and gradients; what no rule covers is computed first, and has them, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import pending, value_of
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.specs import DType
from tests.adapters.local import Pair

D = 32
LEAD = (2, 3)
Function = Callable[[Any, Any, Any], Any]
"""Takes a deferred tensor h, the same model's norm weight, and a client's tensor of the shape of h."""


class Model:
    """A frozen linear to begin with, a frozen vector to meet, a head to end with; remote and plain."""

    def __init__(self, dtype: DType = DType.FLOAT32, architecture: str = "llama") -> None:
        self.pair = Pair(architecture, dtype)
        self.remote, self.plain = self.pair.remote(Cut.GRAPH), self.pair.plain().requires_grad_(False)
        self.dtype = self.plain.dtype

    def run(self, which: Any, function: Function, lead: tuple[int, ...] = LEAD, **more: Any) -> tuple[Any, ...]:
        """Returns the result, whether it was still pending, and the inputs."""
        torch.manual_seed(2)
        x = (torch.rand(*lead, D).to(self.dtype) + 0.5).requires_grad_()
        other = (torch.rand(*lead, D).to(self.dtype) + 0.5).requires_grad_()
        h = which.model.layers[0].self_attn.o_proj(x * 1) * 4 + 3  # positive
        result = function(h, which.model.norm.weight, other * 1)
        parts = result if isinstance(result, tuple) else (result,)
        waiting = [pending(part) for part in parts]
        if any(part.requires_grad for part in parts):
            sum((part.float() * (1 + i)).square().sum() for i, part in enumerate(parts)).backward()
        return [value_of(part) for part in parts], waiting, x.grad, other.grad

    def check(self, function: Function, *, recorded: bool, **more: Any) -> None:
        mine, waiting, *grads = self.run(self.remote, function, **more)
        theirs, _, *expected = self.run(self.plain, function, **more)
        assert waiting == [recorded] * len(theirs)
        assert [part.dtype for part in mine] == [part.dtype for part in theirs]
        exact = self.dtype is torch.float32
        close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6} if exact else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(mine, theirs, **close)
        for grad, wanted in zip(grads, expected, strict=True):
            assert (grad is None) == (wanted is None)
            if grad is not None:
                scale = wanted.abs().max().item()
                torch.testing.assert_close(grad, wanted, rtol=0, atol=(1e-5 if exact else 5e-2) * scale)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def bfloat16() -> Model:
    return Model(DType.BFLOAT16)


RECORDED: dict[str, Function] = {
    "neg": lambda h, w, x: -h,
    "torch.neg": lambda h, w, x: torch.neg(h),
    "rsqrt": lambda h, w, x: torch.rsqrt(h * h + 1),
    "silu": lambda h, w, x: F.silu(h),
    "relu": lambda h, w, x: F.relu(h - 3, inplace=False),
    "torch.relu": lambda h, w, x: torch.relu(h - 3),
    "sigmoid": lambda h, w, x: h.sigmoid(),
    "tanh": lambda h, w, x: torch.tanh(h),
    "gelu": lambda h, w, x: F.gelu(h),
    "gelu tanh": lambda h, w, x: F.gelu(h, approximate="tanh"),
    "gelu by name": lambda h, w, x: F.gelu(input=h),
    "square": lambda h, w, x: h.pow(2),
    "square by name": lambda h, w, x: torch.square(h) + h.square(),
    "cube": lambda h, w, x: h**3,
    "root": lambda h, w, x: torch.pow(h * h, 0.5),
    "inverse": lambda h, w, x: (h * h + 1).pow(-0.5),
    "mean": lambda h, w, x: h.mean(-1, keepdim=True),
    "mean by name": lambda h, w, x: torch.mean(input=h, dim=(-1,), keepdim=True),
    "mean of the last": lambda h, w, x: h.mean(2, True),
    "cast": lambda h, w, x: h.to(torch.float64),
    "cast and back": lambda h, w, x: h.to(torch.float64).float().to(torch.bfloat16).float(),
    "same type": lambda h, w, x: h.to(h.dtype).type_as(x),
    "same device": lambda h, w, x: h.to("cpu"),
    "scalar tensor": lambda h, w, x: h * torch.tensor(2.0, dtype=torch.float64),
    "to by name": lambda h, w, x: h.to(dtype=torch.float64),
    "layer norm without a weight": lambda h, w, x: F.layer_norm(h, (D,)),
    "layer norm without a bias": lambda h, w, x: F.layer_norm(h, (D,), w, eps=1e-3),
    "contiguous": lambda h, w, x: h.contiguous(),
    "number": lambda h, w, x: h * 2 + 1 - 3 / 1,
    "number first": lambda h, w, x: 2 * (1.5 + h),
    "division": lambda h, w, x: h / 3,
    "integer": lambda h, w, x: torch.mul(torch.add(h, 2), 3),
    "residual": lambda h, w, x: h + x,
    "residual from the left": lambda h, w, x: x + h,
    "of two pending": lambda h, w, x: h * (h + 1),
    "difference": lambda h, w, x: x - h,
    "product": lambda h, w, x: x * h,
    "quotient": lambda h, w, x: h / (x + 1),
    "quotient from the left": lambda h, w, x: x / h,
    "twice the same": lambda h, w, x: h * h,
    "vector": lambda h, w, x: w * h,
    "vector after": lambda h, w, x: h * w + w,
    "one column": lambda h, w, x: h * h.mean(-1, keepdim=True) + h.mean(-1, keepdim=True),
    "one column of the client": lambda h, w, x: h * x.mean(-1, keepdim=True),
    "one column first": lambda h, w, x: h.mean(-1, keepdim=True) - x,
    "rms norm": lambda h, w, x: w * (h * torch.rsqrt(h.float().pow(2).mean(-1, keepdim=True) + 1)).to(h.dtype),
    "chunk": lambda h, w, x: h.chunk(2, dim=-1),
    "torch.chunk": lambda h, w, x: torch.chunk(h, 3, 2),
    "gated": lambda h, w, x: F.silu(h.chunk(2, -1)[0]) * h.chunk(2, -1)[1],
    "flat": lambda h, w, x: h.view(-1, D) * 2,
    "reshape": lambda h, w, x: h.reshape((3, 2, D)) + 1,
    "flat meets flat": lambda h, w, x: h.view(6, D) * x.view(6, D),
    "all rows": lambda h, w, x: h[:, slice(0, None), :] + h[:] + h[...] + h[:, ...],
    "front": lambda h, w, x: h[..., :, :],
    "dropout in eval": lambda h, w, x: F.dropout(h, 0.5, training=False),
    "dropout of nothing": lambda h, w, x: F.dropout(input=h, p=0.0),
}  # fmt: skip

COMPUTED: dict[str, Function] = {
    "exp": lambda h, w, x: h.exp(),
    "inplace": lambda h, w, x: F.relu(h.clone(), inplace=True),
    "mean of all": lambda h, w, x: h.mean(),
    "mean without the column": lambda h, w, x: h.mean(-1),
    "mean over rows": lambda h, w, x: h.mean(1, keepdim=True),
    "mean in another type": lambda h, w, x: h.mean(-1, keepdim=True, dtype=torch.float64),
    "power of a tensor": lambda h, w, x: h.pow(x),
    "power of zero": lambda h, w, x: h.pow(0),
    "base": lambda h, w, x: 2**h,
    "alpha": lambda h, w, x: torch.add(h, x, alpha=2),
    "rounding": lambda h, w, x: torch.div(h, 2, rounding_mode="floor") + h,
    "right minus": lambda h, w, x: 1 - h,
    "right divided": lambda h, w, x: 1 / h,
    "torch.sub": lambda h, w, x: torch.sub(1, h),
    "flag": lambda h, w, x: h * True,
    "complex": lambda h, w, x: (h * 1j).imag,
    "integer tensor": lambda h, w, x: h * torch.ones(*h.shape, dtype=torch.int64),
    "broadcast rows": lambda h, w, x: h + x[:1],
    "more dimensions": lambda h, w, x: h + x[None],
    "fewer dimensions": lambda h, w, x: h + x[0, 0],
    "changed vector": lambda h, w, x: h * (w + 1),
    "parameter": lambda h, w, x: h * torch.nn.Parameter(torch.ones(D, dtype=h.dtype)),
    "to of a tensor": lambda h, w, x: h.to(x.double()),
    "to device and type": lambda h, w, x: h.to("cpu", torch.float64),
    "copied": lambda h, w, x: h.to(h.dtype, copy=True),
    "chunk of rows": lambda h, w, x: h.chunk(2, 0),
    "split": lambda h, w, x: h.split(8, -1),
    "other columns": lambda h, w, x: h.view(2, 3, 4, 8),
    "as another type": lambda h, w, x: h.view(h.dtype),
    "last rows": lambda h, w, x: (w * (h + x))[:, -2:, :] * 2,
    "rows of flat ones": lambda h, w, x: (h * x).view(-1, D)[1:-1].square(),
    "rows before the last size": lambda h, w, x: h[..., :-1, :],
    "first rows": lambda h, w, x: h[:, :1],
    "no rows": lambda h, w, x: h[:, 3:],
    "columns": lambda h, w, x: h[..., 1:],
    "every second": lambda h, w, x: h[:, ::2],
    "one": lambda h, w, x: h[0],
    "layer norm with a bias only": lambda h, w, x: F.layer_norm(h, (D,), None, w),
    "scalar tensor that is trained": lambda h, w, x: h * x[0, 0, 0],
    "layer norm of the client": lambda h, w, x: F.layer_norm(h, (D,), x[0, 0], x[0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_equals_torch(model: Model, name: str) -> None:
    model.check(RECORDED[name], recorded=True)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_no_rule_covers_is_computed_and_equals_torch(model: Model, name: str) -> None:
    model.check(COMPUTED[name], recorded=False)


def _changed(what: str, how: str) -> Function:
    """Rows are memory of what they were taken of, whichever of the two is changed, and looked at first."""

    def function(h: Any, w: Any, x: Any) -> Any:
        rows = h[:, 1:]
        changed, other = (rows, h) if what == "rows" else (h, rows)
        if how == "+=":
            changed += changed
        else:
            getattr(changed, how)(*([] if how == "zero_" else [3.0]))
        return other * 1, changed * 1

    return function


@pytest.mark.parametrize("what", ["rows", "all"])
@pytest.mark.parametrize("how", ["add_", "mul_", "zero_", "+="])
@pytest.mark.parametrize("grad", [True, False])
def test_rows_that_were_taken_are_no_copy(model: Model, what: str, how: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        mine, theirs = (model.run(which, _changed(what, how)) for which in (model.remote, model.plain))
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-6)
    if grad:
        torch.testing.assert_close(mine[2], theirs[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_rows_go_through_a_frozen_linear_as_they_are_then(model: Model, grad: bool) -> None:
    """Once by themselves; what is changed later, or taken again, is as in torch."""

    def function(h: Any, w: Any, x: Any) -> Any:
        head = (model.remote if pending(h) else model.plain).lm_head
        last = h[:, -1:]
        first = head(last).sin()  # which is computed
        again = head(h[:, :2]).sin()
        if not grad:  # what a frozen layer has read may not be changed before the gradient came
            last += 1
        return first, again, head(last).sin(), h * 1

    with torch.set_grad_enabled(grad):
        mine, theirs = (model.run(which, function) for which in (model.remote, model.plain))
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
    if grad:
        torch.testing.assert_close(mine[2], theirs[2], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ["silu", "rms norm", "residual", "gated", "number", "gelu tanh", "cast"])
def test_other_types_follow_torchs_promotion(bfloat16: Model, name: str) -> None:
    bfloat16.check(RECORDED[name], recorded=True)


@pytest.mark.parametrize("other", [torch.float32, torch.float64, torch.float16])
def test_two_types_meet_as_in_torch(bfloat16: Model, other: torch.dtype) -> None:
    bfloat16.check(lambda h, w, x: h + x.to(other), recorded=True)
    bfloat16.check(lambda h, w, x: x.to(other) * h, recorded=True)
    bfloat16.check(lambda h, w, x: w * h.to(other), recorded=True)


@pytest.mark.parametrize("lead", [(), (1,), (5,), (1, 1), (2, 1, 3)])
def test_any_leading_shape_is_recorded(model: Model, lead: tuple[int, ...]) -> None:
    model.check(lambda h, w, x: F.silu(h * w + x).mean(-1, keepdim=True) * h, recorded=True, lead=lead)


def test_dropout_in_training_draws_what_torch_draws(model: Model) -> None:
    def drop(h: Any, w: Any, x: Any) -> Any:
        torch.manual_seed(4)
        return F.dropout(h, 0.5)

    model.check(drop, recorded=False)


def test_torchs_own_errors_are_raised(model: Model) -> None:
    for which in (model.remote, model.plain):
        with pytest.raises(RuntimeError, match="chunk"):
            model.run(which, lambda h, w, x: h.chunk(0, -1))
        with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh"):
            model.run(which, lambda h, w, x: F.gelu(h, approximate="roughly"))
        with pytest.raises(RuntimeError, match="must match the size of tensor b"):
            model.run(which, lambda h, w, x: h + x[..., :5])


def test_a_layer_norm_over_frozen_vectors_is_recorded() -> None:
    pair = Pair("opt")
    remote, plain = pair.remote(Cut.GRAPH).model.decoder, pair.plain().requires_grad_(False).model.decoder
    grads = []
    for which in (remote, plain):
        torch.manual_seed(2)
        x = torch.randn(*LEAD, D, requires_grad=True)
        h = which.layers[0].fc2(F.relu(which.layers[0].fc1(x * 1)))
        y = which.layers[0].final_layer_norm(h)
        assert pending(y) == (which is remote)
        y.square().sum().backward()
        grads.append((value_of(y).detach(), x.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
