"""The seam is nn.Linear's equal in value and gradient, saves nothing, and makes no trip it does not need."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.layers.making import make_remote
from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenSiblings, FrozenTable
from symbiosis_core.errors import UsageError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import DType, OpKind, OpSpec
from tests.adapters.local import LocalRows

D, O = 6, 4  # noqa: E741


class Plain(nn.Module):
    """Three linears on one input and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(D, O)
        self.b = nn.Linear(D, 2)
        self.c = nn.Linear(D, 3)
        self.table = nn.Embedding(11, D)


def spec(*members: str, dtype: DType = DType.FLOAT32) -> OpSpec:
    widths = tuple({"a": O, "b": 2, "c": 3}[member] for member in members)
    return OpSpec(OpId(0), OpKind.LINEAR, members, D, widths, dtype)


@pytest.fixture
def rows() -> LocalRows:
    torch.manual_seed(0)
    return LocalRows(Plain().requires_grad_(False))


@pytest.fixture
def plain(rows: LocalRows) -> Any:
    return rows.model


@pytest.fixture
def linear(rows: LocalRows) -> FrozenLinear:
    return FrozenLinear(rows, spec("a"))


@pytest.fixture
def fused(rows: LocalRows) -> FrozenSiblings:
    singles = tuple(FrozenLinear(rows, spec(member)) for member in "abc")
    return FrozenSiblings(rows, spec("a", "b", "c"), singles)


def rows_of(*shape: int, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape).requires_grad_(grad)


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (2, 1, 3)])
def test_any_leading_shape_gives_the_values_and_gradients_of_nn_linear(
    linear: FrozenLinear, plain: Any, lead: tuple[int, ...]
) -> None:
    x = rows_of(*lead, D)
    y = linear(x)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = plain.a(x)
    (expected_dx,) = torch.autograd.grad(expected, x, dy)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(dx, expected_dx)
    assert y.shape == (*lead, O)


def test_a_strided_input_and_an_expanded_gradient_are_taken(linear: FrozenLinear, plain: Any) -> None:
    x = rows_of(D, 3, 2)
    linear(x.transpose(0, 2)).sum().backward()
    expected = rows_of(D, 3, 2)
    expected.data.copy_(x.data)
    plain.a(expected.transpose(0, 2)).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)


def test_no_gradient_needed_makes_no_node_and_no_backward_trip(linear: FrozenLinear, rows: LocalRows) -> None:
    assert linear(rows_of(2, D, grad=False)).grad_fn is None
    with torch.no_grad():
        assert linear(rows_of(2, D)).grad_fn is None
    with torch.inference_mode():
        assert linear(rows_of(2, D)).is_inference()
    assert (len(rows.forward), len(rows.backward)) == (3, 0)


def test_a_detached_output_makes_no_backward_trip(linear: FrozenLinear, rows: LocalRows) -> None:
    x = rows_of(2, D)
    (linear(x).detach().sum() + x.sum()).backward()
    assert rows.backward == []


def test_the_graph_saves_no_tensor(linear: FrozenLinear, fused: FrozenSiblings) -> None:
    packed: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = linear(rows_of(2, D))
        fused(rows_of(2, D))
    assert packed == []
    assert not any(isinstance(value, torch.Tensor) for value in vars(y.grad_fn).values())


@pytest.mark.parametrize("op", ["linear", "fused"])
@pytest.mark.parametrize("lead", [(1,), (2, 3)])
def test_outputs_can_be_modified_in_place(request: pytest.FixtureRequest, op: str, lead: tuple[int, ...]) -> None:
    x = rows_of(*lead, D)
    outputs = request.getfixturevalue(op)(x)
    for y in outputs if isinstance(outputs, tuple) else (outputs,):
        y += 1
        y.sum().backward(retain_graph=True)
    assert x.grad is not None


def test_zero_rows_need_no_trip(linear: FrozenLinear, fused: FrozenSiblings, rows: LocalRows) -> None:
    x = rows_of(0, 3, D)
    y = linear(x)
    assert y.shape == (0, 3, O)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 3, D)
    assert [tuple(part.shape) for part in fused(x)] == [(0, 3, O), (0, 3, 2), (0, 3, 3)]
    table = FrozenTable(rows, OpSpec(OpId(1), OpKind.EMBEDDING, ("table",), 1, (D,), DType.FLOAT32))
    assert table(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, D)
    assert rows.trips == []


def test_siblings_are_one_trip_each_way(fused: FrozenSiblings, plain: Any, rows: LocalRows) -> None:
    x = rows_of(2, 3, D)
    outputs = fused(x)
    expected = (plain.a(x), plain.b(x), plain.c(x))
    torch.testing.assert_close(outputs, expected)
    dys = [torch.randn_like(y) for y in outputs]
    (dx,) = torch.autograd.grad(outputs, x, dys)
    torch.testing.assert_close(dx, torch.autograd.grad(expected, x, dys)[0])
    assert (len(rows.forward), len(rows.backward)) == (1, 1)


def test_members_without_a_gradient_count_as_zeros(fused: FrozenSiblings, plain: Any, rows: LocalRows) -> None:
    x = rows_of(5, D)
    a, _, c = fused(x)
    (dx,) = torch.autograd.grad(a.sum() + c.square().sum(), x)
    (expected,) = torch.autograd.grad(plain.a(x).sum() + plain.c(x).square().sum(), x)
    torch.testing.assert_close(dx, expected)
    assert rows.backward == [fused.spec.name]


def test_a_lone_gradient_goes_through_its_own_op(fused: FrozenSiblings, plain: Any, rows: LocalRows) -> None:
    x = rows_of(5, D)
    (dx,) = torch.autograd.grad(fused(x)[1].sum(), x)
    torch.testing.assert_close(dx, torch.autograd.grad(plain.b(x).sum(), x)[0])
    assert rows.backward == ["b"]


def test_a_wrong_dtype_or_width_is_nn_linears_error(linear: FrozenLinear, plain: Any) -> None:
    for layer in (linear, plain.a):
        with pytest.raises(RuntimeError, match="mat1 and mat2 must have the same dtype"):
            layer(torch.ones(2, D, dtype=torch.bfloat16))
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            layer(torch.ones(2, D + 1))
    with pytest.raises(RuntimeError, match="Float and BFloat16"):
        FrozenLinear(linear.rows, spec("a", dtype=DType.BFLOAT16))(torch.ones(2, D))


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_bases_dtype_and_gives_autocasts(base: torch.dtype, given: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = Plain().requires_grad_(False).to(base)
    rows = LocalRows(plain)
    linear = FrozenLinear(rows, spec("a", dtype=DType.FLOAT32 if base is torch.float32 else DType.BFLOAT16))
    x = torch.randn(3, D, dtype=given, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = linear(x), plain.a(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    (dx,) = torch.autograd.grad(y.float().sum(), x)
    (expected_dx,) = torch.autograd.grad(expected.float().sum(), x)
    assert dx.dtype == given
    torch.testing.assert_close(dx, expected_dx, rtol=2e-2, atol=2e-2)


def test_autocast_leaves_float64_alone_as_nn_linear_does(linear: FrozenLinear, plain: Any) -> None:
    for layer in (linear, plain.a):
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="same dtype"):
            layer(torch.ones(2, D, dtype=torch.float64))


def test_double_backward_is_refused_and_only_when_it_happens(linear: FrozenLinear) -> None:
    x = rows_of(3, D)
    (dx,) = torch.autograd.grad(linear(x * x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(dx.detach(), dx)
    with pytest.raises(UsageError, match=r"gradient of a was about to be differentiated"):
        dx.sum().backward()


def test_a_second_backward_over_one_graph_is_allowed(linear: FrozenLinear) -> None:
    x = rows_of(3, D)
    y = linear(x).sum()
    y.backward(retain_graph=True)
    once = x.grad.clone() if x.grad is not None else None
    y.backward()
    assert once is not None
    torch.testing.assert_close(x.grad, once * 2)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes_with_a_second_trip(
    linear: FrozenLinear, plain: Any, rows: LocalRows, reentrant: bool
) -> None:
    x = rows_of(3, D)
    checkpoint(lambda x: linear(x.exp()).exp(), x, use_reentrant=reentrant).sum().backward()
    (expected,) = torch.autograd.grad(plain.a(x.exp()).exp().sum(), x)
    torch.testing.assert_close(x.grad, expected)
    assert (len(rows.forward), len(rows.backward)) == (2, 1)


def test_ids_of_either_integer_type_cross_as_int64_rows(plain: Any, rows: LocalRows) -> None:
    table = FrozenTable(rows, OpSpec(OpId(1), OpKind.EMBEDDING, ("table",), 1, (D,), DType.FLOAT32))
    for ids in (torch.tensor([[1, 2], [3, 10]]), torch.tensor([4], dtype=torch.int32), torch.tensor(5)):
        torch.testing.assert_close(table(ids), plain.table(ids))
    assert [trip.rows for trip in rows.trips] == [4, 1, 1]
    with pytest.raises(RuntimeError, match="'indices'"):
        table(torch.tensor([1.0]))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it, torch 2.13
def test_compile_breaks_the_graph_and_computes_the_same(plain: Any, rows: LocalRows) -> None:
    layer = nn.Linear(D, O, device="meta")
    make_remote(layer, "a", FrozenLinear(rows, spec("a")), torch.float32, {})
    model = nn.Sequential(nn.Tanh(), layer, nn.Tanh())
    compiled = torch.compile(model, backend="eager")
    x = rows_of(3, D)
    y = compiled(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    expected = plain.a(x.tanh()).tanh()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(dx, torch.autograd.grad(expected.sum(), x)[0])
    assert (rows.forward, rows.backward) == (["a"], ["a"])
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(x)


def test_copies_share_the_op(linear: FrozenLinear, plain: Any) -> None:
    layer = nn.Linear(D, O, device="meta")
    make_remote(layer, "a", linear, torch.float32, {})
    copied = copy.deepcopy(layer)
    assert isinstance(copied, RemoteLayer)
    assert copied.remote is linear
    x = rows_of(3, D)
    torch.testing.assert_close(copied(x), plain.a(x))
