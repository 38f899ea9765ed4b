"""A norm's weight is named, not sent, for as long as it is what the daemon has."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LNTuningConfig, get_peft_model
from torch import Tensor, nn

from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.recorded.vectors import FrozenVector
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.specs import DType
from tests.adapters.graph_cut.batch import BATCH, IDS, check_gradients, gradients
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, adapted, close

NORM = "model.layers.1.input_layernorm"


def replaced(model: Any) -> None:
    norm = model.get_submodule(NORM)
    norm.weight = nn.Parameter(norm.weight * 2, requires_grad=False)


def assigned(model: Any) -> None:
    model.get_submodule(NORM).weight.data = torch.full((32,), 1.5)


def modified(model: Any) -> None:
    with torch.no_grad():
        model.get_submodule(NORM).weight.mul_(2)


def modified_past_versions(model: Any) -> None:
    model.get_submodule(NORM).weight.data.mul_(2)


def modified_later(model: Any) -> None:
    """The alias is taken before the first forward, and used after it."""
    data = model.get_submodule(NORM).weight.data
    model(input_ids=IDS).logits.sum()
    data.mul_(2)


def trained(model: Any) -> None:
    weight = model.get_submodule(NORM).weight
    weight.requires_grad_()
    model(**BATCH).loss.backward()
    assert weight.grad is not None
    torch.optim.SGD([weight], lr=1.0).step()


def loaded(model: Any) -> None:
    weights = model.state_dict()
    model.load_state_dict({**weights, f"{NORM}.weight": weights[f"{NORM}.weight"] * 3}, strict=False)


CHANGES = [replaced, assigned, modified, modified_past_versions, modified_later, trained, loaded]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_norm_counts_from_then_on(pair: Pair, change: Callable[[Any], None]) -> None:
    remote, plain = pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False)
    before = remote(input_ids=IDS).logits.clone()
    for model in (remote, plain):
        change(model)
    with torch.no_grad():
        found, expected = (model(input_ids=IDS).logits.clone() for model in (remote, plain))
    close(found, expected)
    assert not torch.allclose(found, before)


def test_a_norm_that_changes_between_two_layers_of_one_recording_counts(pair: Pair) -> None:
    def run(model: Any) -> Tensor:
        x = torch.ones(2, 32)
        norm = model.model.norm
        first = model.model.layers[0].self_attn.o_proj(norm(x) + 0 * model.model.layers[0].self_attn.o_proj(x))
        norm.weight.data.mul_(2)
        return (first + norm(first)).clone()  # type: ignore[no-any-return]

    close(run(pair.remote(Cut.GRAPH)), run(pair.plain().requires_grad_(False)))


def test_a_norm_of_another_type_is_not_the_daemons() -> None:
    """As `prepare_model_for_kbit_training` has it."""
    pair = Pair("llama", DType.BFLOAT16)
    found = []
    for model in (pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False)):
        norm = model.model.norm
        norm.weight.data = norm.weight.data.to(torch.float32)
        found.append(norm(model.model.layers[0].self_attn.o_proj(torch.ones(2, 32, dtype=torch.bfloat16))))
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(value_of(found[0]), found[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "touch",
    [
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: [p.data for p in model.parameters() if isinstance(p, FrozenVector)],
        lambda model: model.to("cpu").float(),
        lambda model: [model.get_submodule(NORM).weight.data.mul_(by) for by in (2, 0.5)],
        copy.deepcopy,
    ],
)
def test_a_norm_with_the_daemons_values_costs_no_trip(pair: Pair, touch: Any) -> None:
    model = pair.remote(Cut.GRAPH)
    touch(model)
    pair.rows.trips.clear()
    model(input_ids=IDS).logits.sum()
    assert len(pair.rows.forward) == LAYERS + 1


def test_a_copy_of_a_model_makes_the_trips_of_its_original_until_its_own_norm_is_changed(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    copied = copy.deepcopy(copy.deepcopy(model))
    expected = model(input_ids=IDS).logits.clone()
    for changes, trips in ((False, LAYERS + 1), (True, LAYERS + 2)):
        if changes:
            modified(copied)
        pair.rows.trips.clear()
        assert torch.equal(copied(input_ids=IDS).logits.clone(), expected) is not changes
        assert len(pair.rows.forward) == trips
    pair.rows.trips.clear()
    assert torch.equal(model(input_ids=IDS).logits.clone(), expected)
    assert len(pair.rows.forward) == LAYERS + 1


def test_a_copy_of_a_changed_model_has_the_changed_values(pair: Pair) -> None:
    """Also where nobody has looked at them before it was made."""
    remote, plain = pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False)
    for model in (remote, plain):
        modified(model)
    close(copy.deepcopy(remote)(input_ids=IDS).logits.clone(), plain(input_ids=IDS).logits)


def test_copies_that_are_gone_leave_nothing(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    known = model.symbiosis_deferral.vectors._known
    before = set(known)
    copied = copy.deepcopy(model)
    assert len(known) == 2 * len(before) > 0
    del copied
    gc.collect()
    assert set(known) == before


def test_a_norm_is_pickled_as_anybodys(pair: Pair) -> None:
    weight = pair.remote(Cut.GRAPH).get_submodule(NORM).weight
    again = pickle.loads(pickle.dumps(weight))
    assert type(again) is nn.Parameter
    assert torch.equal(again, weight)
    assert not again.requires_grad


@pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm")
@pytest.mark.parametrize("kind", ["ln tuning", "modules to save"])
def test_trained_norms_are_the_clients(pair: Pair, kind: str) -> None:
    def make(base: Any) -> Any:
        if kind == "modules to save":
            return adapted(base, QV, modules_to_save=["input_layernorm", "norm"])
        torch.manual_seed(3)
        return get_peft_model(base, LNTuningConfig(task_type="CAUSAL_LM"))

    models = [make(base) for base in (pair.remote(Cut.GRAPH), pair.plain())]
    for model in models:
        for _ in range(2):
            model(**BATCH).loss.backward()
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    check_gradients(models[0], models[1])
    assert any("norm" in name for name in gradients(models[0]))
    with torch.no_grad():
        close(models[0](input_ids=IDS).logits, models[1](input_ids=IDS).logits)
