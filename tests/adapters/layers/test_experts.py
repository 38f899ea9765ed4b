"""Mixtures of experts on a remote base: the model's own code says which experts are asked, and one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from symbiosis_adapters.layers.experts import FrozenExperts
from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import Pair
from tests.adapters.training import QV, adapted

IDS = torch.randint(3, 96, (2, 10), generator=torch.Generator().manual_seed(1))


def stacks(model: Any) -> dict[str, FrozenExperts]:
    return {name: each for name, each in model.named_parameters() if isinstance(each, FrozenExperts)}


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_a_step_equals_that_on_a_plain_base(architecture: str, cut: Cut) -> None:
    pair = Pair(architecture)
    plain, remote = adapted(pair.plain(), QV), adapted(pair.remote(cut), QV)
    assert len(stacks(remote)) == (0 if cut is Cut.LENT else 2 * 3)
    losses = [model(input_ids=IDS, labels=IDS).loss for model in (plain, remote)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    expected = {name: each.grad for name, each in plain.named_parameters() if each.requires_grad}
    for name, each in remote.named_parameters():
        if each.requires_grad:
            assert each.grad is not None
            scale = expected[name].abs().max().item()
            torch.testing.assert_close(each.grad, expected[name], rtol=0, atol=1e-4 * scale, msg=name)


def test_with_the_graph_cut_an_expert_that_is_hit_is_one_trip() -> None:
    pair = Pair("mixtral")
    model = pair.remote()
    pair.rows.trips.clear()
    with torch.no_grad():
        assert model(input_ids=IDS).logits.isfinite().all()
    asked = [name for name in pair.rows.forward if "experts" in name]
    assert asked
    for name in asked:
        up, down = (part for part in name.split(" > ") if "experts" in part)
        assert (up.split("[")[0][-12:], down.split("[")[0][-9:]) == ("gate_up_proj", "down_proj")
        assert up.split("[")[1] == down.split("[")[1]
    assert len(set(asked)) == len(asked)


def test_what_is_no_product_of_rows_gets_lent_values() -> None:
    pair = Pair("mixtral")
    name, experts = next(iter(stacks(pair.remote(Cut.SIBLINGS)).items()))
    values = pair.plain().get_parameter(name)
    assert torch.equal(experts[1] * 2, values[1] * 2)
    assert torch.equal(experts.sum(0), values.sum(0))


def test_a_copy_of_the_model_keeps_its_experts() -> None:
    pair = Pair("mixtral")
    model = pair.remote(Cut.SIBLINGS)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        assert torch.equal(copy.deepcopy(model)(input_ids=IDS).logits, expected)


def test_other_experts_are_not_loaded_silently() -> None:
    pair = Pair("mixtral")
    state = pair.plain().state_dict()
    pair.remote().load_state_dict(state)
    state["model.layers.1.mlp.experts.down_proj"][3] *= 2
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.experts\.down_proj\[3\] differs from the daemon's"):
        pair.remote().load_state_dict(state)
