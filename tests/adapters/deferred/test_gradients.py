"""A gradient is whole, or an error; the mode in which work was recorded decides whether there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from symbiosis_adapters.deferred.tensor import pending, value_of
from symbiosis_core.errors import UsageError
from tests.adapters.deferred.one_layer import LEAD, D, Layer


def test_a_gradient_reaches_the_input_and_the_tensor_itself(layer: Layer) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    for each in (deferred, plain):
        each.retain_grad()
        each.register_hook(lambda grad: grad * 2)
        each.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(deferred.grad, plain.grad)
    assert deferred.grad_fn is not None
    assert not deferred.is_leaf


def test_a_gradient_is_taken_of_it_and_with_respect_to_it(layer: Layer) -> None:
    ones = torch.ones(*LEAD, D)
    deferred, plain, x, y = layer.both(grad=True)
    torch.testing.assert_close(torch.autograd.grad(deferred, x, ones), torch.autograd.grad(plain, y, ones))
    deferred, plain, x, y = layer.both(grad=True)
    torch.autograd.backward([deferred], [ones])
    plain.backward(ones)
    torch.testing.assert_close(x.grad, y.grad)
    deferred, _, _, _ = layer.both(grad=True)
    value_of(deferred)
    (found,) = torch.autograd.grad((deferred * 3).sum(), deferred)
    assert torch.equal(found, ones * 3)


def test_what_no_gradient_reaches_has_none_and_not_zeros(layer: Layer) -> None:
    """Both sums are answers of one trip; of the second one only the order is read, which has no gradient."""
    for h in layer.both()[:2]:
        a, b = (torch.full((*LEAD, D), value, requires_grad=True) for value in (1.0, 2.0))
        left, right = h + a, h + b
        assert right.argmax(-1).shape == LEAD
        left.square().sum().backward()
        assert b.grad is None
        assert a.grad is not None
        assert a.grad.abs().min() > 0
    assert layer.trips == 1


ASK: dict[str, Callable[[Any, Any], Any]] = {
    "retain_grad": lambda h, loss: h.retain_grad(),
    "register_hook": lambda h, loss: h.register_hook(torch.neg),
    "grad": lambda h, loss: torch.autograd.grad(loss, h),
    "grads": lambda h, loss: torch.autograd.grad(loss, [h]),
    "backward": lambda h, loss: loss.backward(inputs=[h]),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("name", ASK)
def test_a_gradient_that_would_be_a_part_of_it_is_an_error(layer: Layer, name: str, view: bool) -> None:
    """h is used once by a frozen layer, in the trip that computes h, and once by the client."""
    h, _, _, _ = layer.both(grad=True)
    kept = h.view(-1, D) if view else h
    loss = layer.remote(h).square().sum() + h.exp().sum()
    with pytest.raises(UsageError, match="after frozen layers had used the tensor"):
        ASK[name](kept, loss)


@pytest.mark.parametrize("name", ASK)
def test_a_gradient_that_was_asked_for_in_time_is_the_whole(layer: Layer, name: str) -> None:
    def run(linear: Any, h: Any) -> list[Any]:
        if name in ("grad", "grads", "backward"):
            h.sum()  # the value
            if name == "backward":
                h.retain_grad()
        else:
            ASK[name](h, None)
        loss = linear(h).square().sum() + h.exp().sum()
        if name in ("grad", "grads"):
            return list(ASK[name](h, loss))
        loss.backward(**({"inputs": [h]} if name == "backward" else {}))
        return [] if name == "register_hook" else [h.grad]

    deferred, plain, x, y = layer.both(grad=True)
    found, expected = run(layer.remote, deferred), run(layer.plain, plain)
    for mine, theirs in zip([*found, x.grad], [*expected, y.grad], strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("make", [lambda x: x.view(-1, D), lambda x: x[:, :], lambda x: x])
@pytest.mark.parametrize("looking", [torch.no_grad, torch.inference_mode])
def test_who_looks_first_does_not_decide_about_gradients(layer: Layer, make: Any, looking: Any) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    found, expected = make(deferred), make(plain)
    with looking():
        found.exp()
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("make", [lambda x: x * 2, lambda x: x + x, lambda x: x.detach()])
def test_what_was_recorded_without_gradient_has_none(layer: Layer, make: Any) -> None:
    x = torch.ones(*LEAD, D, requires_grad=True)
    with torch.no_grad():
        found = make(layer.remote(x))
    assert not found.requires_grad
    assert not found.exp().requires_grad
    assert not (found * x.detach()).requires_grad


def test_what_depends_on_no_gradient_needs_none_beside_what_does(layer: Layer) -> None:
    x, frozen = torch.ones(*LEAD, D, requires_grad=True), torch.ones(*LEAD, D)
    constant = layer.remote(frozen)
    both = constant + x
    assert (constant.requires_grad, both.requires_grad) == (False, True)
    both.sum()
    assert not pending(constant)
    assert (constant.requires_grad, both.requires_grad) == (False, True)
    assert layer.trips == 1
