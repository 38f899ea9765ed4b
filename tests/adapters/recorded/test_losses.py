"""The loss is computed with the logits, which then need not cross: its values and gradients are torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import pending, value_of
from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import VOCABULARY, Pair

D = 32
LEAD = (2, 3)


class Model(NamedTuple):
    """A frozen head, remote and plain."""

    remote: Any
    plain: Any


@pytest.fixture(scope="module")
def model() -> Model:
    pair = Pair("llama")
    return Model(pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False))


LOSSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore": {"ignore_index": 7},
    "zero ignored": {"ignore_index": 0, "reduction": "sum"},
    "weight": {"weight": torch.rand(VOCABULARY, generator=torch.Generator().manual_seed(0))},
    "label smoothing": {"label_smoothing": 0.1},
    "old style": {"weight": None, "label_smoothing": 0.0},
}
TARGETS = {
    "some ignored": torch.tensor([[5, -100, 7], [0, 3, -100]]),
    "all ignored": torch.full(LEAD, -100),
    "none ignored": torch.tensor([[5, 6, 7], [0, 3, 7]]),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_cross_entropy_equals_torch(model: Model, name: str, targets: str) -> None:
    target, more = TARGETS[targets].view(-1), LOSSES[name]
    if more.get("ignore_index", -100) != -100:
        target = target.clamp(min=0)
    found = []
    for which in (model.remote, model.plain):
        torch.manual_seed(2)
        x = torch.randn(*LEAD, D, requires_grad=True)
        logits = which.lm_head(x * 1).float().view(-1, VOCABULARY)
        loss = F.cross_entropy(logits, target, **more)
        loss.sum().backward()
        found.append((value_of(loss).detach(), x.grad, value_of(logits).detach()))
    torch.testing.assert_close(found[0], found[1], equal_nan=True)


def test_cross_entropy_takes_its_arguments_by_position_and_name(model: Model) -> None:
    weight = LOSSES["weight"]["weight"]
    target = TARGETS["some ignored"].view(-1)
    calls: list[Callable[[Any], Tensor]] = [
        lambda logits: F.cross_entropy(logits, target, weight),
        lambda logits: F.cross_entropy(input=logits, target=target),
        lambda logits: F.cross_entropy(logits, TARGETS["none ignored"].view(-1), None, None, 5),
        lambda logits: F.cross_entropy(logits, logits.softmax(-1).detach()),
        lambda logits: F.cross_entropy(logits.view(2, 3, -1).transpose(1, 2), target.view(2, 3)),
    ]
    for call in calls:
        x = torch.ones(6, D)
        found, expected = (call(which.lm_head(x)) for which in (model.remote, model.plain))
        torch.testing.assert_close(found, expected)


def test_a_loss_alone_crosses_and_the_logits_follow_when_they_are_asked_for(model: Model) -> None:
    x = torch.ones(6, D, requires_grad=True)
    logits = model.remote.lm_head(x * 1).float()
    F.cross_entropy(logits, TARGETS["none ignored"].view(-1)).backward()
    assert pending(logits)
    torch.testing.assert_close(logits.exp(), model.plain.lm_head(x).exp())
