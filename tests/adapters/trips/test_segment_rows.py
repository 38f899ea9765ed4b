"""A trip with autograd saves its inputs, asks for the gradients that are needed, and no memo number twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Direction, Op
from tests.adapters.local import LayerRows, Pair

D = 32


@pytest.fixture
def pair() -> Pair:
    return Pair("llama")


@pytest.fixture
def layer(pair: Pair) -> Any:
    return pair.remote(Cut.GRAPH).model.layers[0].self_attn.o_proj


@pytest.fixture
def plain(pair: Pair) -> Any:
    return pair.plain().requires_grad_(False).model.layers[0].self_attn.o_proj


@pytest.fixture
def memos(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Direction, int]]:
    """The direction and memo number of every call, which goes on to where it went."""
    noted: list[tuple[Direction, int]] = []
    call = LayerRows.call

    def note(
        rows: LayerRows, op: Op, direction: Direction, planes: Sequence[Tensor], memo: int = 0
    ) -> list[Tensor]:
        noted.append((direction, memo))
        return call(rows, op, direction, planes, memo)

    monkeypatch.setattr(LayerRows, "call", note)
    return noted


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def test_the_inputs_are_saved_and_nothing_else(layer: Any) -> None:
    x, other = leaf(2, 3, D) * 1, leaf(2, 3, D) * 1
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = F.silu(layer(x))
        y = value_of(kept * other)
    assert sorted(each.data_ptr() for each in saved) == sorted([x.data_ptr(), other.data_ptr()])
    assert not any(isinstance(value, Tensor) for value in vars(y.grad_fn).values())


def test_without_gradient_nothing_is_saved_and_nothing_remembered(
    layer: Any, memos: list[tuple[Direction, int]]
) -> None:
    assert value_of(layer(torch.ones(2, D))).grad_fn is None
    with torch.no_grad():
        assert value_of(layer(leaf(2, D))).grad_fn is None
    with torch.inference_mode():
        assert value_of(layer(leaf(2, D))).grad_fn is None
    assert memos == [(Direction.FORWARD, 0)] * 3


def test_every_forward_has_a_memo_of_its_own_and_the_backward_the_same(
    layer: Any, memos: list[tuple[Direction, int]]
) -> None:
    x = leaf(2, D)
    outputs = [value_of(layer(x * 1)) for _ in range(3)]
    for output in reversed(outputs):
        output.sum().backward()
    numbers = [memo for _, memo in memos]
    assert len(set(numbers[:3])) == 3
    assert all(0 < memo <= 1 << 31 for memo in numbers)
    assert numbers[3:] == numbers[2::-1]


def test_gradients_go_to_those_inputs_that_need_one(layer: Any, plain: Any) -> None:
    def run(layer: Any) -> tuple[Any, ...]:
        torch.manual_seed(0)
        x, factor, constant = leaf(2, D), leaf(2, 1), torch.randn(2, D)
        y = (layer(x * 1) * (factor * 1) + constant).clone()
        y.square().sum().backward()
        assert constant.grad is None
        return y.detach(), x.grad, factor.grad

    torch.testing.assert_close(run(layer), run(plain))


def test_an_output_that_no_gradient_came_to_counts_as_zeros(layer: Any, plain: Any) -> None:
    def run(layer: Any, both: bool) -> Any:
        torch.manual_seed(0)
        x = leaf(2, D)
        h = layer(x * 1)
        first, second, third = F.silu(h), h * h, h + 1
        (first.exp().sum() + (third.exp().sum() if both else 0)).backward()
        second.exp()
        return x.grad

    for both in (True, False):
        torch.testing.assert_close(run(layer, both), run(plain, both))


def test_no_output_with_a_gradient_is_no_trip(pair: Pair, layer: Any) -> None:
    x = leaf(2, D)
    y = value_of(layer(x * 1))
    (y.detach().sum() + x.sum()).backward()
    assert pair.rows.backward == []


def test_an_output_without_gradient_need_is_a_constant(pair: Pair, layer: Any, plain: Any) -> None:
    """It is computed in one trip with an output that has a gradient."""
    x, fixed = leaf(2, D), torch.ones(2, D)
    constant = layer(fixed)
    y = constant * x.exp()
    y.exp().sum().backward()
    assert (constant.requires_grad, value_of(constant).grad_fn) == (False, None)
    assert len(pair.rows.forward) == 1
    other = x.detach().clone().requires_grad_()
    (plain(fixed) * other.exp()).exp().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


@pytest.mark.parametrize("expand", [False, True])
def test_strided_inputs_and_gradients_are_taken(layer: Any, plain: Any, expand: bool) -> None:
    def run(layer: Any) -> Any:
        torch.manual_seed(0)
        x = leaf(D, 3, 2)
        y = layer(x.transpose(0, 2) * 1 if expand else x.transpose(0, 2))
        (y.clone().sum() if expand else y.transpose(0, 1).exp().sum()).backward()
        return x.grad

    torch.testing.assert_close(run(layer), run(plain))


def test_outputs_may_be_modified_in_place(layer: Any, plain: Any) -> None:
    def run(layer: Any) -> tuple[Tensor, Any]:
        torch.manual_seed(0)
        x = leaf(2, D)
        h = layer(x * 1)
        kept = h * 2
        h += 1
        kept -= h
        kept.square().sum().backward()
        return kept.detach(), x.grad

    torch.testing.assert_close(run(layer), run(plain))


def test_a_cast_of_what_crosses_is_made_here_with_its_gradient(pair: Pair, layer: Any, plain: Any) -> None:
    def run(layer: Any) -> Any:
        torch.manual_seed(0)
        x = leaf(2, D)
        h = layer(x * 1)
        wide = h.to(torch.float64)
        narrow = wide.to(torch.bfloat16)
        (wide.exp().sum() + h.exp().sum() + narrow.double().sum()).backward()
        return wide.detach().clone(), narrow.detach().clone(), x.grad

    torch.testing.assert_close(run(layer), run(plain))
    (program,) = pair.rows.programs.values()
    assert len(program.spec.segment.outputs) == 1
    assert len(program.spec.segment.nodes) == 1


def test_a_second_derivative_is_refused_whatever_it_would_depend_on(layer: Any) -> None:
    """The gradient with respect to x depends on the scale, which is an input, and on no output's gradient."""
    x, scale = leaf(2, D), leaf(2, D)
    y = layer(x * 1) * scale
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(UsageError, match="do not support double backward"):
        (dx.square().sum() + scale.sum()).backward()
