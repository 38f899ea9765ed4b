"""A compiled model computes what a plain one does: its graph breaks at every remote layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.explanation import explain
from tests.adapters.local import Pair

IDS = torch.arange(3, 12).view(1, 9)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # Dynamo's own, at every break; they change with each torch
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_a_compiled_model_equals_plain(cut: Cut) -> None:
    pair = Pair("llama")
    model = pair.remote(cut)
    compiled: Any = torch.compile(model, backend="eager")
    expected = pair.plain()(input_ids=IDS, labels=IDS)
    for _ in range(2):
        pair.rows.trips.clear()
        outputs = compiled(input_ids=IDS, labels=IDS)
        assert explain(model).trips_per_forward == len(pair.rows.forward)
        torch.testing.assert_close(outputs.loss, expected.loss)
        torch.testing.assert_close(outputs.logits, expected.logits)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_computes_with_weights_that_were_taken() -> None:
    pair = Pair("llama")
    model, plain = pair.remote(), pair.plain()
    for each in (model, plain):
        each.model.layers[1].mlp.up_proj.weight.data *= 2
    compiled: Any = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(input_ids=IDS).logits, plain(input_ids=IDS).logits)
