"""For everything else a deferred tensor has its value, after one trip."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import pending, value_of
from tests.adapters.deferred.one_layer import LEAD, D, Layer


class Two(NamedTuple):
    """A tuple of a kind of its own."""

    a: Tensor
    b: Tensor


VALUES: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: x.softmax(-1),
    "cat": lambda x: torch.cat([x, x], 1),
    "nested": lambda x: torch.stack((x, x)),
    "named tuple": lambda x: torch.cat(Two(x, x)),
    "keyword": lambda x: torch.add(input=x, other=x, alpha=2),
    "matmul": lambda x: x @ torch.ones(D, 2),
    "matmul from the right": lambda x: torch.ones(4, 3) @ x,
    "linear": lambda x: F.linear(x, torch.ones(2, D)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "transpose": lambda x: x.transpose(0, 1),
    "select": lambda x: x[:, -1],
    "mask": lambda x: x[torch.tensor([True, False])],
    "array": lambda x: x[np.array([0, 1]), :],
    "columns": lambda x: x[..., :4],
    "new axis": lambda x: x[None],
    "split view": lambda x: x.view(*LEAD, 4, 8),
    "detach": lambda x: x.detach(),
    "clone": lambda x: x.clone(),
    "item": lambda x: torch.tensor(x[0, 0, 0].item()),
    "tolist": lambda x: torch.tensor(x.tolist()),
    "iteration": lambda x: next(iter(x)),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x.detach())),
    "dlpack": lambda x: torch.utils.dlpack.from_dlpack(x.detach()),
    "where": lambda x: torch.where(x > 0, x, 0),
    "copy": lambda x: torch.zeros(*LEAD, D).copy_(x),
    "compare": lambda x: x == x,
    "in place on another": lambda x: torch.ones(*LEAD, D).add_(x),
    "out": lambda x: torch.add(x, x, out=torch.empty(*LEAD, D)),
    "data": lambda x: x.data,
    "double": lambda x: x.double(),
    "sum": lambda x: sum(x.unbind()),
}


@pytest.mark.parametrize("name", VALUES)
def test_any_other_function_sees_the_value(layer: Layer, name: str) -> None:
    deferred, plain, _, _ = layer.both()
    found = VALUES[name](deferred)
    assert type(found) is Tensor
    torch.testing.assert_close(found, VALUES[name](plain))
    assert layer.trips == 1


def test_an_item_may_be_set_to_a_deferred_tensor(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    whole = torch.zeros(2, *LEAD, D)
    whole[1] = deferred
    torch.testing.assert_close(whole[1], plain)


def test_it_prints_copies_and_pickles_as_its_value(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both(1)
    assert repr(deferred) == repr(plain)
    for copied in (copy.deepcopy(deferred), copy.copy(deferred), pickle.loads(pickle.dumps(deferred))):
        assert type(copied) is Tensor
        assert torch.equal(copied, plain)
    file = io.BytesIO()
    torch.save({"x": layer.both(1)[0]}, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["x"], plain)


def test_it_is_computed_once_and_then_is_one_tensor(layer: Layer) -> None:
    deferred, _, _, _ = layer.both()
    first = value_of(deferred)
    deferred.exp()
    assert value_of(deferred) is first
    assert not pending(deferred)
    assert layer.trips == 1
