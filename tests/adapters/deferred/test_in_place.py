"""What is changed in place is changed for everybody who has it, and no trip sends what was not meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from symbiosis_core.errors import UsageError
from tests.adapters.deferred.one_layer import LEAD, D, Layer


@pytest.mark.parametrize(
    "modify",
    [
        lambda x: x.add_(1),
        lambda x: x.__iadd__(1),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.__setitem__((0, 0), 7.0),
        lambda x: x.unsqueeze_(0),
        lambda x: torch.add(torch.ones(*LEAD, D), 1, out=x),
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_in_place_functions_change_what_it_stands_for(layer: Layer, modify: Any, mode: Any) -> None:
    with mode():
        deferred, plain, _, _ = layer.both()
        also = deferred.view(6, D)
        modify(deferred)
        modify(plain)
        assert deferred.shape == plain.shape
        torch.testing.assert_close(deferred.clone(), plain)
        torch.testing.assert_close(also.clone(), plain.reshape(also.shape))


def test_an_input_modified_before_the_trip_is_an_error(layer: Layer) -> None:
    x = torch.ones(*LEAD, D)
    deferred = layer.remote(x)
    x.add_(1)
    with pytest.raises(UsageError, match="modified in place"):
        deferred.sum()
    assert layer.trips == 0


def test_in_inference_mode_the_value_at_the_call_counts(layer: Layer) -> None:
    with torch.inference_mode():
        x = torch.ones(*LEAD, D)
        before = layer.remote(x)
        expected = layer.plain(x)
        x.add_(1)
        after = layer.remote(x)
        torch.testing.assert_close(before.clone(), expected)
        torch.testing.assert_close(after.clone(), layer.plain(x))
        x.mul_(3)
        again = layer.remote(x)
        torch.testing.assert_close(again.clone(), layer.plain(x))


@pytest.mark.parametrize("grad", [False, True])
def test_an_addition_in_place_is_recorded(layer: Layer, grad: bool) -> None:
    """Who has the tensor has the sum, and what was computed of it before stays."""
    deferred, plain, x, y = layer.both(grad=grad)
    found = []
    for h in (deferred, plain):
        before, also, flat = h * 2, h, h.view(6, D)
        h += h * 3
        assert h is also
        found.append([each.clone() for each in (before * 1, also, flat, h + 1)])
    assert layer.trips == 1
    torch.testing.assert_close(found[0], found[1])
    if grad:
        for tensors in found:
            sum(each.square().sum() for each in tensors).backward()  # type: ignore[union-attr]
        torch.testing.assert_close(x.grad, y.grad)


def test_an_addition_in_place_to_what_has_columns_elsewhere_is_theirs_too(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    for h in (deferred, plain):
        left, _ = h.chunk(2, -1)
        left += 1
        h += 2
    torch.testing.assert_close(deferred.clone(), plain)


def test_an_addition_in_place_that_brings_a_gradient_has_it(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    grads = []
    for h in (deferred, plain):
        x = torch.ones(*LEAD, D, requires_grad=True)
        h += x * 1
        h.square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)
