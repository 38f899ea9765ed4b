"""A class of parameters of somebody's own is made of a placeholder's values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from tests.adapters.local import Pair


class Quantised(nn.Parameter):
    """Made as bitsandbytes makes its parameters: in C++, and of the same memory once more."""

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Quantised:
        made: Quantised = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.data = data
        return made


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_it_holds_the_values_in_memory_of_its_own(cut: Cut) -> None:
    pair = Pair("llama")
    expected, weight = pair.plain().lm_head.weight, pair.remote(cut).model.embed_tokens.weight
    for given in (weight, weight[2:5], weight.to(torch.float64)):
        made = Quantised(given, requires_grad=False)
        wanted = expected[2:5] if given.shape[0] == 3 else expected
        assert torch.equal(made.data, wanted.to(given.dtype))
        made.zero_()
    assert torch.equal(Quantised(data=weight).detach(), expected)
    assert type(weight) is FrozenWeight


def test_it_is_refused_where_nothing_is_lent() -> None:
    weight = Pair("llama", allow="nobody").remote().lm_head.weight
    with pytest.raises(UsageError, match=r"making a Quantised of it, which \S+ needs, .*lending\.allow"):
        Quantised(weight)


def test_of_other_tensors_it_is_what_it_was() -> None:
    Pair("llama").remote()
    x = torch.ones(3)
    assert Quantised(x).data_ptr() == x.data_ptr()
    assert nn.Parameter(x).data_ptr() == x.data_ptr()
