"""A captured decode step gives what an eager one gives, in as many trips, and notices what it depended on."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symbiosis_adapters.capture import capture_decoding
from symbiosis_adapters.captured.cutting import Cutting
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, adapted

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
PROMPT = torch.tensor([[5, 17, 3, 41], [9, 2, 60, 33]])


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def captured(pair: Pair) -> Any:
    remote = pair.remote()
    capture_decoding(remote, remote.symbiosis_deferral, at_once=True)
    return adapted(remote, QV)


@torch.no_grad()
def steps(model: Any, prompt: Tensor, count: int) -> Iterator[Tensor]:
    """Yields the logits of a greedy generation, token by token."""
    out = model(input_ids=prompt, use_cache=True)
    for _ in range(count):
        yield out.logits[:, -1]
        token = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)


def assert_same_steps(mine: Any, plain: Any, prompt: Tensor, count: int = 4) -> None:
    for got, expected in zip(steps(mine, prompt, count), steps(plain, prompt, count), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_captured_step_is_an_eager_one_and_notices_changes() -> None:
    """One model, for tracing it takes seconds: batches, adapters switched off, a norm that is no longer frozen."""
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    assert_same_steps(mine, plain, PROMPT[:1])
    pair.rows.trips.clear()
    list(steps(mine, PROMPT[:1], 6))
    assert len(pair.rows.trips) == (LAYERS + 1) * 7
    assert_same_steps(mine, plain, PROMPT)
    with mine.disable_adapter(), plain.disable_adapter():
        assert_same_steps(mine, plain, PROMPT)
    assert_same_steps(mine, plain, PROMPT)
    for model in (mine, plain):
        model.get_submodule("base_model.model.model.norm").weight.data.mul_(1.5)
    assert_same_steps(mine, plain, PROMPT)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_heads_that_share_keys_are_attended_together_in_captured_steps(
    padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    mask = torch.ones_like(PROMPT)
    mask[0, :2] = not padded
    given: Any = {"attention_mask": mask, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = plain.generate(input_ids=PROMPT, **given)
    graphs: list[str] = []
    cut = Cutting.cut

    def watched(cutting: Cutting) -> Any:
        made = cut(cutting)
        graphs.append(made.code)
        return made

    monkeypatch.setattr(Cutting, "cut", watched)
    assert torch.equal(mine.generate(input_ids=PROMPT, **given), expected)
    assert len(graphs) == 1
    assert graphs[0].count("scaled_dot_product_attention") == LAYERS
    assert graphs[0].count(".expand(") == padded, "the mask; no key is repeated for the heads that share it"


def test_columns_of_a_view_have_its_shape_in_a_captured_graph() -> None:
    def turned(_module: Any, _args: Any, out: Tensor) -> Tensor:
        return out + torch.cat(out.view(-1, out.shape[-1]).chunk(2, -1), -1).flip(1).view(out.shape)

    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    for model in (plain, mine):
        model.base_model.model.model.layers[1].mlp.register_forward_hook(turned)
    assert_same_steps(mine, plain, PROMPT)


def test_a_hook_that_is_put_on_after_the_capture_is_called() -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    list(steps(mine, PROMPT, 3))
    called = []
    mine.base_model.model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))
    assert_same_steps(mine, plain, PROMPT)
    assert len(called) == 5


def test_steps_are_captured_again_with_the_hook_and_without_it() -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    capture, called = vars(mine.base_model.model)["symbiosis_capture"], []
    list(steps(mine, PROMPT, 3))
    hook = mine.base_model.model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))
    for hooked in (True, False, True):
        called.clear()
        runs = capture._runs
        assert_same_steps(mine, plain, PROMPT)
        assert capture._runs >= runs + 2
        assert bool(called) == hooked
        if hooked:
            hook.remove()
        else:
            hook = mine.base_model.model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))


def test_hooks_that_transformers_leaves_behind_end_no_capture() -> None:
    pair = Pair("llama")
    mine = captured(pair)
    capture = vars(mine.base_model.model)["symbiosis_capture"]
    list(steps(mine, PROMPT, 3))
    with torch.no_grad():
        mine(input_ids=PROMPT, output_hidden_states=True)
    list(steps(mine, PROMPT, 3))
    runs = capture._runs
    list(steps(mine, PROMPT, 4))
    assert capture._runs == runs + 4


def test_a_hook_on_a_module_that_the_model_does_not_name_is_called() -> None:
    pair, called = Pair("llama"), []
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    for model in (plain, mine):
        norm, hidden = model.base_model.model.model.norm, [nn.Identity()]
        inner = norm.forward
        norm.forward = lambda x, inner=inner, hidden=hidden: hidden[0](inner(x))
    list(steps(mine, PROMPT, 3))
    hidden[0].register_forward_hook(lambda *_: called.append(1))
    assert_same_steps(mine, plain, PROMPT)
    assert len(called) == 5


def test_a_module_that_brings_its_hook_along_is_noticed() -> None:
    """It was registered before the capture, so that nothing about hooks has changed since."""
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    layers, called = mine.base_model.model.model.layers, []
    hooked = copy.deepcopy(layers[1].mlp)
    hooked.register_forward_hook(lambda *_: called.append(1))
    list(steps(mine, PROMPT, 3))
    layers[1].mlp = hooked
    gc.collect()  # a copied layer has the number of its original, which is gone
    assert_same_steps(mine, plain, PROMPT)
    assert len(called) == 5


def test_a_module_that_is_inserted_brings_its_hook_along_and_loses_it_later() -> None:
    """`ModuleList.insert` tells nobody; torch's guards know the modules."""
    pair, calls = Pair("llama"), []
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    layers = mine.base_model.model.model.layers
    hooked = copy.deepcopy(layers[1])
    handle = hooked.register_forward_hook(lambda *_: calls.append(1))
    list(steps(mine, PROMPT, 3))
    del layers[1]
    layers.insert(1, hooked)
    assert_same_steps(mine, plain, PROMPT)
    assert len(calls) == 5
    handle.remove()
    calls.clear()
    assert_same_steps(mine, plain, PROMPT)
    assert calls == []


def test_a_model_with_a_hook_is_not_computed_by_the_graph_of_one_without() -> None:
    """Their guards are the same but for the hook, and torch keeps graphs by the code of what is traced."""
    list(steps(captured(Pair("llama")), PROMPT, 3))
    pair, called = Pair("llama"), []
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    mine.base_model.model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))
    assert_same_steps(mine, plain, PROMPT)
    assert called


def test_generation_and_training_go_on_beside_a_capture() -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    given = {"input_ids": PROMPT, "attention_mask": torch.ones_like(PROMPT), "max_new_tokens": 6}
    assert torch.equal(mine.generate(**given, do_sample=False), plain.generate(**given, do_sample=False))
    losses = []
    for model in (mine, plain):
        model.train()
        loss = model(input_ids=PROMPT, labels=PROMPT).loss
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_a_copy_of_a_captured_model_captures_for_itself() -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    list(steps(mine, PROMPT, 3))
    copied = copy.deepcopy(mine)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    assert_same_steps(mine, plain, PROMPT)
    with plain.disable_adapter():
        assert_same_steps(copied, plain, PROMPT)
    for each in (mine, copied):
        pair.rows.trips.clear()
        list(steps(each, PROMPT, 3))
        assert len(pair.rows.trips) == (LAYERS + 1) * 4


def test_a_norm_that_is_changed_in_a_copy_leaves_the_graphs_of_its_original(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuts, run_once = [], Cutting.run_once

    def counted(cutting: Cutting, inputs: Sequence[Any]) -> Any:
        cuts.append(1)
        return run_once(cutting, inputs)

    monkeypatch.setattr(Cutting, "run_once", counted)
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    copied = copy.deepcopy(mine)
    with torch.no_grad():
        copied.base_model.model.model.norm.weight.mul_(2)
    for _ in range(2):
        assert_same_steps(mine, plain, PROMPT)
        assert len(cuts) == 1


def test_a_layer_whose_weight_was_taken_is_not_computed_by_a_captured_graph() -> None:
    pair = Pair("llama")
    plain, mine = adapted(pair.plain(), QV), captured(pair)
    assert_same_steps(mine, plain, PROMPT)
    for model in (mine, plain):
        model.merge_adapter()
    assert_same_steps(mine, plain, PROMPT)
    with plain.disable_adapter():
        unmerged = list(steps(plain, PROMPT, 4))
    assert not torch.allclose(unmerged[1], list(steps(mine, PROMPT, 4))[1])
