"""A deferred tensor answers about itself without a trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from symbiosis_adapters.deferred.tensor import Deferred, pending, value_of
from tests.adapters.deferred.one_layer import Layer

QUESTIONS: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda x: x.shape,
    "size": lambda x: (x.size(), x.size(1), x.size(-1)),
    "ndim": lambda x: (x.ndim, x.dim()),
    "dtype": lambda x: x.dtype,
    "device": lambda x: (x.device, x.get_device()),
    "where": lambda x: (x.is_cpu, x.is_cuda, x.is_meta, x.is_sparse, x.is_quantized, x.layout),
    "kind": lambda x: (x.is_floating_point(), torch.is_floating_point(x), x.is_complex(), torch.is_complex(x)),
    "counts": lambda x: (x.numel(), x.element_size()),
    "requires_grad": lambda x: x.requires_grad,
    "type": lambda x: (isinstance(x, Tensor), torch.is_tensor(x)),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_questions_need_no_trip_and_are_answered_as_for_the_value(layer: Layer, name: str, grad: bool) -> None:
    deferred, plain, _, _ = layer.both(grad=grad)
    ask = QUESTIONS[name]
    assert ask(deferred) == ask(plain)
    assert pending(deferred)
    assert layer.trips == 0
    value_of(deferred)
    assert ask(deferred) == ask(plain)


def test_its_identity_is_its_hash(layer: Layer) -> None:
    deferred, _, _, _ = layer.both()
    assert {deferred: 1}[deferred] == 1
    assert type(deferred) is Deferred
    assert layer.trips == 0
