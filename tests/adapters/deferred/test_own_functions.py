"""An autograd.Function of somebody's own is given values, and may not return a deferred tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.deferred.functions import give_functions_values
from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_core.errors import UsageError
from tests.adapters.deferred.one_layer import LEAD, D, Layer


class Doubled(torch.autograd.Function):
    """An own function, whose C++ half looks past torch's functions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


def test_an_own_function_is_given_values(layer: Layer) -> None:
    give_functions_values()
    give_functions_values()
    deferred, plain, x, y = layer.both(grad=True)
    Doubled.apply(deferred).sum().backward()  # type: ignore[no-untyped-call]
    (plain * 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_gradient_to_the_stand_in_is_an_error_and_a_clones_is_not(layer: Layer) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    past_the_wrapper: Any = super(torch.autograd.Function, Doubled)
    wrong = past_the_wrapper.apply(deferred)
    torch.testing.assert_close(value_of(wrong), plain * 2)
    with pytest.raises(UsageError, match="a gradient reached the stand-in"):
        wrong.sum().backward()
    assert x.grad is None
    deferred, _, x, _ = layer.both(grad=True)
    Doubled.apply(deferred.clone()).sum().backward()  # type: ignore[no-untyped-call]
    (plain * 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("looked_at", [False, True])
def test_an_own_function_that_returns_a_deferred_tensor_is_an_error(layer: Layer, looked_at: bool) -> None:
    def forward(x: Tensor) -> Tensor:
        y: Tensor = layer.remote(x)
        if looked_at:
            y.sum()
        return y

    x = torch.ones(*LEAD, D, requires_grad=True)
    returned = checkpoint(forward, x, use_reentrant=True)
    with pytest.raises(UsageError, match=r"an autograd.Function .* returned a deferred tensor"):
        returned.sum()
    checkpoint(lambda x: forward(x).clone(), x, use_reentrant=True).sum().backward()
    y = torch.ones(*LEAD, D, requires_grad=True)
    layer.plain(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
