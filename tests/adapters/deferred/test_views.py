"""Views and columns share the memory of their whole."""

from __future__ import annotations

import pytest
import torch

from tests.adapters.deferred.one_layer import D, Layer


def test_views_share_the_memory_of_the_whole(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    flat, again = deferred.view(-1, D), deferred.reshape(3, 2, D)
    assert (flat.shape, again.shape) == ((6, D), (3, 2, D))
    assert layer.trips == 0
    flat.add_(1)
    for view in (deferred, flat, again):
        torch.testing.assert_close(view.clone().view(-1), plain.view(-1) + 1)
    assert layer.trips == 1


def test_columns_share_the_memory_of_a_whole_that_is_kept(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    left, right = deferred.chunk(2, -1)
    left.mul_(0)
    torch.testing.assert_close(deferred.clone()[..., D // 2 :], plain[..., D // 2 :])
    assert not deferred.clone()[..., : D // 2].any()
    torch.testing.assert_close(right.clone(), plain[..., D // 2 :])
    assert layer.trips == 1


@pytest.mark.parametrize("grad", [False, True])
def test_a_cast_and_columns_of_a_view_have_its_shape_beside_the_whole(layer: Layer, grad: bool) -> None:
    deferred, plain, x, y = layer.both(grad=grad)
    found, expected = (
        [tall.to(torch.bfloat16), *tall.chunk(2, -1)]
        for tall in (each.view(3, 2, D) for each in (deferred, plain))
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine * 1, theirs * 1)
    assert layer.trips == 1
    if grad:
        for parts in (found, expected):
            sum(part.sum() for part in parts).backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_what_makes_no_view_in_torch_raises_torchs_error(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    for each in (deferred, plain):
        with pytest.raises(RuntimeError, match=r"shape '\[5, 32\]' is invalid"):
            each.view(5, D)
