"""A compiled model computes what a plain one does: its graph breaks at every remote layer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import Pair
from tests.adapters.training import QV, adapt, lora

IDS = torch.arange(3, 12).view(1, 9)
LAYERS = 23
"""Remote ones."""
BREAKS = {Cut.GRAPH: 31, Cut.SIBLINGS: 30}
"""What Dynamo of torch 2.13 counts: one for every frame between a layer and what was compiled, and more where it
compiles what follows. With the graph cut an MLP's forward has a frame more, `_Passable.forward` of passages.py:
that is compiled once for all three."""


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
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_the_graph_of_a_training_step_breaks_at_the_seam_and_nowhere_else(cut: Cut) -> None:
    pair = Pair("llama")
    losses, gradients = [], []
    for base in (pair.plain(), pair.remote(cut)):
        torch.compiler.reset()
        counters.clear()
        model = adapt(base, lora(QV, init_lora_weights=False))
        compiled: Any = torch.compile(model, backend="eager")
        loss = compiled(input_ids=IDS, labels=IDS).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)
    breaks = counters["graph_break"]
    layers = sum(isinstance(layer, RemoteLayer) for layer in model.modules())
    assert (layers, breaks.total()) == (LAYERS, BREAKS[cut])
    assert [reason for reason in breaks if "_eagerly" not in reason] == []


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_training_steps_through_the_default_backend_equal_plain(cut: Cut) -> None:
    """Inductor makes machine code of what lies between two breaks; there are no more than with the eager one."""
    pair = Pair("llama")
    losses: list[list[float]] = []
    for base in (pair.plain(), pair.remote(cut)):
        torch.compiler.reset()
        counters.clear()
        model = adapt(base, lora(QV, init_lora_weights=False))
        compiled: Any = torch.compile(model)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        losses.append([])
        for step in range(3):
            loss = compiled(input_ids=IDS + step, labels=IDS + step).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(set(losses[0])) == 3
    breaks = counters["graph_break"]
    layers = sum(isinstance(layer, RemoteLayer) for layer in model.modules())
    assert layers == LAYERS <= breaks.total() <= BREAKS[cut]
    assert [reason for reason in breaks if "_eagerly" not in reason] == []
    assert counters["inductor"], "the default backend compiled something"


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_computes_with_weights_that_were_taken() -> None:
    pair = Pair("llama")
    model, plain = pair.remote(), pair.plain()
    for each in (model, plain):
        each.model.layers[1].mlp.up_proj.weight.data *= 2
    compiled: Any = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(input_ids=IDS).logits, plain(input_ids=IDS).logits)
