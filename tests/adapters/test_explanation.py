"""The explanation tells how many trips there are, and why; with the graph cut, those that were made."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.trips.siblings import MAX_WASTED
from tests.adapters.local import CONFIGS, LAYERS, Pair

IDS = torch.arange(3, 12).view(1, 9)


def lora(targets: str | list[str]) -> LoraConfig:
    return LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_explained_trips_are_the_trips_made(name: str, cut: Cut) -> None:
    """But for those of experts, of which the tokens decide: eager cuts name them instead."""
    pair = Pair(name)
    model = pair.remote(cut)
    experts = {op.name: op.members[0] for op in pair.spec.ops if op.expert >= 0}
    for _ in range(2):
        pair.rows.trips.clear()
        model(input_ids=IDS).logits.sum()
        told = explain(model)
        certain = [trip for trip in pair.rows.forward if cut is Cut.GRAPH or trip not in experts]
        assert told.trips_per_forward == len(certain)
        for path in experts.values() if cut in (Cut.SIBLINGS, Cut.LINEAR) else ():
            assert any(reason.startswith(f"{path}: ") for reason in told.reasons)


def test_the_text_collapses_equal_blocks() -> None:
    model = get_peft_model(Pair("llama").remote(Cut.SIBLINGS), lora("all-linear"))
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


def test_before_a_forward_the_graph_cut_promises_nothing() -> None:
    model = Pair("llama").remote()
    assert explain(model) == (Cut.GRAPH, (), (), ())
    assert str(explain(model)) == (
        "cut: graph, trips are decided while it runs; after a forward they are listed here"
    )


def test_after_a_step_the_graph_cut_lists_its_trips_with_their_bytes() -> None:
    """The residual goes in with the attention, and comes out with the next queries, keys and values.

    Backward all that went in goes again, beside the gradients of what came out.
    """
    model = get_peft_model(Pair("llama").remote(), lora(["q_proj", "v_proj"]))
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert str(explain(model)) == (
        "cut: graph, 4 trips in the latest forward\n"
        "  (outside): 1: model.embed_tokens > model.layers.0.self_attn.{q_proj,k_proj,v_proj} "
        "(8 B in, 512 B out)\n"
        "    first ended by linear in Linear.forward of peft.tuners.lora.layer\n"
        "  model.layers.0 ... 1: 1 each: self_attn.o_proj > mlp.{gate_proj,up_proj} > mlp.down_proj > "
        "next self_attn.{q_proj,k_proj,v_proj} (256 B in, 512 B out; backward 768 in, 256 out)\n"
        "    first ended by linear in Linear.forward of peft.tuners.lora.layer\n"
        "  model.layers.2: 1: self_attn.o_proj > mlp.{gate_proj,up_proj} > mlp.down_proj > lm_head "
        "(264 B in, 4 B out; backward 268 in, 256 out)\n"
        "    first ended by cross_entropy in fixed_cross_entropy of transformers.loss.loss_utils"
    )


def test_a_trip_that_your_own_code_made_necessary_names_it() -> None:
    model = Pair("llama").remote()

    def looked_at(module: torch.nn.Module, given: object, made: torch.Tensor) -> None:
        made.mean()

    model.model.layers[1].mlp.down_proj.register_forward_hook(looked_at)
    model(input_ids=IDS).logits.sum()
    blocks = {block.path: block for block in explain(model).blocks}
    where = f"{looked_at.__qualname__} of {__name__}"
    assert [len(block.trips) for block in blocks.values()] == [1, 1, 1, 2]
    assert blocks["model.layers.1"].reasons[0] == f"mean in {where}"
    assert f"first ended by mean in {where}" in str(explain(model))


def test_only_the_latest_forward_counts_whatever_was_done_before() -> None:
    pair = Pair("llama")
    base = pair.remote()
    base(input_ids=IDS).logits.sum()
    assert explain(base).trips_per_forward == LAYERS + 1
    model = get_peft_model(base, lora("all-linear"))
    model(input_ids=IDS, labels=IDS)
    assert explain(model).trips_per_forward == 2 * LAYERS + 1
    assert [len(block.trips) for block in explain(model).blocks] == [1] + [2] * LAYERS


def test_logits_that_are_looked_at_after_the_loss_are_a_trip_more() -> None:
    pair = Pair("llama")
    model = pair.remote()
    outputs = model(input_ids=IDS, labels=IDS)
    assert explain(model).trips_per_forward == LAYERS + 1
    outputs.logits.sum()
    assert explain(model).trips_per_forward == len(pair.rows.forward) == LAYERS + 2


def test_a_copy_is_explained_by_its_own_forward() -> None:
    pair = Pair("llama")
    model = pair.remote()
    model(input_ids=IDS).logits.sum()
    copied = copy.deepcopy(model)
    pair.rows.trips.clear()
    copied(input_ids=IDS).logits.sum()
    assert explain(copied).trips_per_forward == len(pair.rows.forward)
