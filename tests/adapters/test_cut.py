"""The plan puts every module into one trip, and the explanation tells how many trips there are, and why."""

from __future__ import annotations

import msgspec
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from symbiosis_adapters.cut import Cut, explain, plan
from symbiosis_adapters.siblings import MAX_WASTED
from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import OpSpec
from tests.adapters.local import CONFIGS, LAYERS, Pair

IDS = torch.arange(3, 12).view(1, 9)


def test_siblings_take_each_member_once_and_linear_takes_none() -> None:
    spec = Pair("llama").spec
    together, apart = plan(spec, Cut.SIBLINGS), plan(spec, Cut.LINEAR)
    assert (together.cut, len(together.groups), together.reasons) == (Cut.SIBLINGS, 2 * LAYERS, ())
    assert (apart.cut, apart.groups, apart.reasons) == (Cut.LINEAR, (), ())
    assert together.ops == apart.ops
    assert len(apart.ops) == 7 * LAYERS + 2


def test_without_sibling_ops_the_plan_says_why_it_is_linear() -> None:
    planned = plan(Pair("gpt2").spec, Cut.SIBLINGS)
    assert planned.cut is Cut.LINEAR
    assert planned.reasons == ("the daemon offers no sibling ops for this model",)


def test_the_graph_is_what_is_cut_unless_something_else_is_asked_for() -> None:
    for name in ("llama", "gpt2"):
        spec = Pair(name).spec
        planned, siblings = plan(spec), plan(spec, Cut.SIBLINGS)
        assert planned.cut is Cut.GRAPH
        assert (planned.ops, planned.groups) == (siblings.ops, siblings.groups)


def test_overlapping_groups_give_the_larger_one() -> None:
    spec = Pair("llama").spec
    fused = next(op for op in spec.ops if len(op.members) == 3)
    pair = OpSpec(OpId(99), fused.kind, fused.members[:2], fused.width_in, fused.widths_out[:2], fused.dtype)
    planned = plan(msgspec.structs.replace(spec, ops=(pair, *spec.ops)))
    assert pair not in planned.groups
    assert planned.reasons == (f"{pair.name}: not used, a member already belongs to another group",)


@pytest.mark.parametrize("change", [{"width_in": 31}, {"members": ("x", "y", "z")}, {"widths_out": (32, 16, 8)}])
def test_a_group_that_contradicts_its_members_is_refused(change: dict[str, object]) -> None:
    spec = Pair("llama").spec
    ops = tuple(msgspec.structs.replace(op, **change) if len(op.members) == 3 else op for op in spec.ops)
    with pytest.raises(RemoteProtocolError, match=r"alone has another shape|is not offered as a linear"):
        plan(msgspec.structs.replace(spec, ops=ops))


@pytest.mark.parametrize("cut", [Cut.LINEAR, Cut.SIBLINGS])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_explained_trips_are_the_trips_made(name: str, cut: Cut) -> None:
    pair = Pair(name)
    model = pair.remote(cut)
    model(input_ids=IDS)
    assert explain(model).trips_per_forward == len(pair.rows.forward)


def test_the_text_collapses_equal_blocks() -> None:
    model = get_peft_model(
        Pair("llama").remote(Cut.SIBLINGS), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    assert str(explain(model)) == (
        "cut: siblings, 14 trips per forward\n"
        "  (outside): 2: model.embed_tokens, lm_head\n"
        "  model.layers.0 ... 2: 4 each: self_attn.{q_proj,k_proj,v_proj}, self_attn.o_proj, "
        "mlp.{gate_proj,up_proj}, mlp.down_proj"
    )


def test_a_demotion_is_counted_and_explained() -> None:
    pair = Pair("llama")
    config = IA3Config(target_modules=["up_proj"], feedforward_modules=["up_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(pair.remote(Cut.SIBLINGS), config)
    for _ in range(MAX_WASTED + 1):
        model(input_ids=IDS)
    pair.rows.trips.clear()
    model(input_ids=IDS)
    explanation = explain(model)
    assert explanation.trips_per_forward == len(pair.rows.forward) == 5 * LAYERS + 2
    assert [len(block.reasons) for block in explanation.blocks] == [0] + [1] * LAYERS
    assert "not shared: model.layers.0.mlp.{gate_proj,up_proj}: up_proj did not read" in str(explanation)
