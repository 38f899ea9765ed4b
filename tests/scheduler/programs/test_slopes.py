"""A loss and its head are computed some rows at a time, with the model's bits; slopes are kept, and no logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from symbiosis_core.ids import OpId
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec, check
from symbiosis_core.specs import DType, OpKind, OpSpec, Plane
from symbiosis_scheduler.programs import losses as losses_module
from symbiosis_scheduler.programs import slopes as slopes_module
from symbiosis_scheduler.programs.program import Program
from symbiosis_transports.tensors import torch_dtype

D, V, IGNORED = 16, 400, -100
CAP = 2.0


class Head:
    """A linear of one weight, which counts the rows that it multiplies. Its catalogue is itself."""

    def __init__(self, dtype: DType) -> None:
        self.weight_VD = chance(V, D, seed=7).to(torch_dtype(dtype))
        self.ops = (OpSpec(OpId(0), OpKind.LINEAR, ("head",), D, (V,), dtype),)
        self.rows = self.pulled = 0

    def layer(self, op: int) -> Head:
        return self

    def vector(self, name: str) -> Tensor:
        raise AssertionError("no segment here names one")

    def forward(self, x_RD: Tensor, out: Tensor | None) -> Tensor:
        self.rows += len(x_RD)
        return torch.mm(x_RD, self.weight_VD.t())

    def backward(self, dy_RV: Tensor, out: Tensor | None) -> Tensor:
        self.pulled += len(dy_RV)
        return torch.mm(dy_RV, self.weight_VD)


def program(head: Head, *, capped: bool = False, cast: bool = True, logits_too: bool = False) -> Program:
    """What stands at a model's end: head, a cap as Gemma has one, float32, and the loss."""
    dtype = head.ops[0].dtype
    cap = [Node(Fn.DIV, (2,), number=CAP), Node(Fn.TANH, (3,)), Node(Fn.MUL, (4,), number=CAP)] if capped else []
    nodes = [Node(Fn.LINEAR, (0,), op=0), *cap]
    if cast:
        nodes.append(Node(Fn.CAST, (1 + len(nodes),), dtype=DType.FLOAT32))
    nodes.append(Node(Fn.CROSS_ENTROPY, (1 + len(nodes), 1), start=IGNORED))
    end = 1 + len(nodes)
    outputs = (2, end) if logits_too else (end,)
    segment = Segment((Plane(D, dtype), Plane(1, DType.INT64)), (), tuple(nodes), outputs)
    return Program(SegmentSpec(OpId(9), segment, check(segment, head.ops, {}), "end"), head)


def plain(head: Head, x_RD: Tensor, classes_R1: Tensor, *, capped: bool = False) -> Tensor:
    """The losses as the model's own code computes them."""
    return plain_of_logits(x_RD @ head.weight_VD.t(), classes_R1, capped=capped)


def plain_of_logits(logits: Tensor, classes_R1: Tensor, *, capped: bool = False) -> Tensor:
    if capped:
        logits = (logits / CAP).tanh() * CAP
    return F.cross_entropy(logits.float(), classes_R1[:, 0], ignore_index=IGNORED, reduction="none")[:, None]


def chance(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_and_classes(count: int, dtype: torch.dtype, *ignored: int) -> tuple[Tensor, Tensor]:
    classes = torch.randint(0, V, (count, 1), generator=torch.Generator().manual_seed(3))
    classes[list(ignored)] = IGNORED
    return chance(count, D, seed=1).to(dtype), classes


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows are multiplied at once, and three of them computed with."""
    monkeypatch.setattr(slopes_module, "_LEAST_ROWS", 4)
    monkeypatch.setattr(slopes_module, "_MOST_ROWS", 4)
    monkeypatch.setattr(losses_module, "_PIECE_BYTES", 3 * V * 4)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("ignored", [(), (0, 4, 10), tuple(range(11))], ids="{} ignored".format)
@pytest.mark.parametrize("capped", [False, True], ids=["plain", "capped"])
def test_losses_and_gradients_in_pieces_are_the_models(ignored: tuple[int, ...], capped: bool) -> None:
    """In float32; another gradient for every row, and none for a row that counts nothing."""
    head = Head(DType.FLOAT32)
    x, classes = rows_and_classes(11, torch.float32, *ignored)
    expected = plain(head, x.requires_grad_(), classes, capped=capped)
    dy = chance(11, 1, seed=5)
    (gradient,) = torch.autograd.grad(expected, x, dy)
    last, saved = program(head, capped=capped), dict[int, Tensor]()
    inputs = [x.detach(), classes]
    for given in (None, saved):
        (losses,) = last.forward(inputs, given)
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-6, atol=1e-6)
    for remembered in (None, saved):
        (found,) = last.backward(inputs, [dy], remembered)
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)
        assert not found[list(ignored)].any()


def test_losses_have_the_models_bits_and_need_no_gradient() -> None:
    """In bfloat16, of the same products: whether it is the same row among more of them is for the machine."""
    head = Head(DType.BFLOAT16)
    x, classes = rows_and_classes(300, torch.bfloat16)
    logits = torch.cat([piece @ head.weight_VD.t() for piece in x.split(slopes_module._MOST_ROWS)])
    last, saved = program(head), dict[int, Tensor]()
    assert torch.equal(last.forward([x, classes])[0], plain_of_logits(logits, classes))
    assert torch.equal(last.forward([x, classes], saved)[0], plain_of_logits(logits, classes))


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT16])
@pytest.mark.parametrize("factor", [1.0, 1 / 3, 1 / 300, 2.0**10], ids="dy {:.3g}".format)
def test_a_slope_is_rounded_no_worse_than_a_models_own_gradient(dtype: DType, factor: float) -> None:
    """Against the exact gradient the error is the size of plain's own, whatever the loss is multiplied with."""
    head = Head(dtype)
    x, classes = rows_and_classes(300, torch_dtype(dtype))
    dy = torch.full((300, 1), factor)
    (found,) = program(head).backward([x, classes], [dy])
    (own,) = torch.autograd.grad(plain(head, x.requires_grad_(), classes), x, dy)
    exact = exact_gradient(head, x, classes, dy)
    error, own_error = [(each.double() - exact).norm() / exact.norm() for each in (found, own)]
    assert error < 1.5 * own_error


@pytest.mark.parametrize("factor", [1.0, 1 / 300, 1 / 30_000], ids="dy {:.3g}".format)
def test_a_loss_of_float16_logits_may_count_little(factor: float) -> None:
    """Without a cast before the loss its gradient is float16, too, and what undoes the lift must not round it."""
    head = Head(DType.FLOAT16)
    x, classes = rows_and_classes(300, torch.float16)
    dy = torch.full((300, 1), factor, dtype=torch.float16)
    last = program(head, cast=False)
    (found,) = last.backward([x, classes], [dy])
    (of_one,) = last.backward([x, classes], [torch.ones_like(dy)])
    expected = of_one.double() * dy.double()
    assert (found - expected).norm() < 0.001 * expected.norm()


def exact_gradient(head: Head, x: Tensor, classes: Tensor, dy: Tensor) -> Tensor:
    wide = x.detach().double().requires_grad_()
    losses = F.cross_entropy(wide @ head.weight_VD.double().t(), classes[:, 0], reduction="none")
    (exact,) = torch.autograd.grad(losses, wide, dy[:, 0].double())
    return exact


def test_rows_that_count_nothing_are_not_multiplied() -> None:
    """Such as a prompt's, of which only the answer is to be learned."""
    head = Head(DType.FLOAT32)
    x, classes = rows_and_classes(10, torch.float32, *range(7))
    program(head).forward([x, classes])
    assert head.rows == 3


@pytest.mark.parametrize("most_rows", [64, 4])
def test_beside_who_trains_who_only_evaluates_pays_for_no_slopes(
    most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some of the pieces that rows are computed in have none that are kept."""
    head = Head(DType.FLOAT32)
    end = program(head)
    monkeypatch.setattr(end, "piece_rows", most_rows)
    x, classes = rows_and_classes(20, torch.float32, 2, 11)
    keeps = torch.zeros(20, dtype=torch.bool)
    keeps[8:15] = True
    some: dict[int, Tensor] = {}
    everything: dict[int, Tensor] = {}
    (losses,) = end.forward([x, classes], some, keeps)
    assert head.pulled == 6, "seven rows, of which one counts nothing"
    (expected,) = end.forward([x, classes], everything)
    assert torch.allclose(losses, expected, atol=1e-6)
    (value,) = everything
    assert torch.allclose(some[value][keeps], everything[value][keeps], atol=1e-6)
    assert everything[value][keeps].abs().max() > 0.01


def test_what_is_kept_is_as_wide_as_what_goes_into_the_head() -> None:
    head = Head(DType.FLOAT32)
    x, classes = rows_and_classes(10, torch.float32)
    last, saved = program(head), dict[int, Tensor]()
    last.forward([x, classes], saved)
    assert [tuple(kept.shape) for kept in saved.values()] == [(10, D)]
    head.rows = 0
    last.backward([x, classes], [torch.ones(10, 1)], saved)
    assert head.rows == 0


def test_logits_that_somebody_wants_are_made_whole() -> None:
    head = Head(DType.FLOAT32)
    x, classes = rows_and_classes(10, torch.float32, 4)
    logits, losses = program(head, logits_too=True).forward([x, classes])
    torch.testing.assert_close(logits, x @ head.weight_VD.t())
    torch.testing.assert_close(losses, plain(head, x, classes))


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [each.untyped_storage().nbytes() for each in tree_leaves(made) if isinstance(each, Tensor)]
        self.nbytes = max([self.nbytes, *sizes])
        return made


def test_the_logits_of_many_rows_are_never_alive_at_once() -> None:
    """Neither in a forward, with a memo or without, nor in a backward, nor their gradient."""
    head = Head(DType.BFLOAT16)
    count = 5 * slopes_module._MOST_ROWS
    x, classes = rows_and_classes(count, torch.bfloat16)
    last, saved = program(head), dict[int, Tensor]()
    assert last.piece_rows > count
    with Largest() as largest:
        last.forward([x, classes])
        last.forward([x, classes], saved)
        for remembered in (saved, None):
            last.backward([x, classes], [torch.ones(count, 1)], remembered)
    piece_bytes = slopes_module._MOST_ROWS * V * 4  # of those that are computed with, in float32
    assert head.weight_VD.nbytes < largest.nbytes <= piece_bytes < x.shape[0] * V * 2
