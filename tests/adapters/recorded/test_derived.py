"""Vectors that a module makes of its frozen ones are the daemon's to make, and follow what is done to those."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from symbiosis_adapters.layers.passages import add_passages
from symbiosis_core.specs import DType
from tests.adapters.local import LAYERS, Pair

IDS = torch.arange(1, 9)[None]


def logits(model: Any) -> torch.Tensor:
    """Returns the value of the logits, for which the last trip is made."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits.clone()
    return found


@pytest.fixture(scope="module", params=[DType.FLOAT32, DType.BFLOAT16])
def gemma(request: pytest.FixtureRequest) -> Pair:
    """Its norms write `1 + weight`, and in bfloat16 they cast the weight before."""
    return Pair("gemma", request.param)


def test_a_norm_of_one_more_than_its_weight_costs_no_trip(gemma: Pair) -> None:
    remote, expected = gemma.remote(), logits(gemma.plain())
    for _ in range(2):
        trips = len(gemma.rows.trips)
        found = logits(remote)
        assert len(gemma.rows.trips) - trips == LAYERS + 1
        torch.testing.assert_close(found, expected)
    assert len(remote.model.norm.__dict__["symbiosis_passages"].known) == 1


def test_a_weight_that_was_changed_is_changed_in_what_is_made_of_it(gemma: Pair) -> None:
    plain, remote = gemma.plain(), gemma.remote()
    logits(remote)
    for model in (plain, remote):
        with torch.no_grad():
            model.model.norm.weight.add_(0.5)
    for _ in range(2):
        torch.testing.assert_close(logits(remote), logits(plain))


def test_what_is_made_of_a_trained_weight_is_the_clients(gemma: Pair) -> None:
    plain, remote = gemma.plain(), gemma.remote()
    for model in (plain, remote):
        model.model.norm.weight.requires_grad_(True)
        model(input_ids=IDS, labels=IDS).loss.backward()
    found, expected = remote.model.norm.weight.grad, plain.model.norm.weight.grad
    exact = gemma.spec.dtype is DType.FLOAT32
    scale = expected.abs().max().item()
    close: dict[str, Any] = {"rtol": 0.0, "atol": 1e-4 * scale} if exact else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(found, expected, **close)


class _Shifted(nn.Module):
    """Does to a frozen vector what the daemon does not know of."""

    def __init__(self, weight: nn.Parameter, how: str) -> None:
        super().__init__()
        self.weight = weight
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted = 1.0 + self.weight
        if self.how == "in place":
            shifted.mul_(2)
        elif self.how == "in numpy":
            shifted = torch.from_numpy(shifted.detach().numpy() * 2)
        elif self.how == "rolled":
            shifted = shifted.roll(1)
        elif self.how == "of two":
            shifted = shifted * self.weight
        return x * shifted


@pytest.mark.parametrize("how", ["", "in place", "in numpy", "rolled", "of two"])
def test_what_else_is_done_to_a_vector_counts(how: str) -> None:
    pair = Pair("gemma")
    found = []
    for model in (pair.remote(), pair.plain()):
        model.model.norm = _Shifted(model.model.norm.weight, how)
        if "symbiosis_deferral" in model.__dict__:
            add_passages(model.model.norm, model.__dict__["symbiosis_deferral"])
        found.append([logits(model) for _ in range(2)])
    torch.testing.assert_close(found[0], found[1])
