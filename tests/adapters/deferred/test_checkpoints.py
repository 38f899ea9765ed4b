"""Gradient checkpointing of either kind changes no loss and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from symbiosis_adapters.deferred.checkpoints import undefer_checkpoints
from symbiosis_adapters.deferred.tensor import Deferred
from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import adapted

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")

IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
TARGETS = [["q_proj", "v_proj"], "all-linear", ["q_proj", "lm_head"]]


def in_training(base: Any, targets: Any, **more: Any) -> Any:
    """Returns `base` with a LoRA whose random numbers a recomputation must draw again."""
    return adapted(base, targets, lora_dropout=0.1, **more).train()


def switch_on(model: Any, reentrant: bool) -> None:
    """By the name that this release of transformers prefers."""
    arguments = {"use_reentrant": reentrant}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)


def run(model: Any, **more: Any) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(5)
    loss = model(input_ids=IDS, labels=IDS, **more).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt2"])
def test_losses_and_gradients_are_those_of_plain_peft(architecture: str, reentrant: bool, targets: Any) -> None:
    """With the head adapted, a gradient that the blocks lost would raise nothing."""
    more = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    if architecture == "gpt2":
        targets = ["c_attn", "c_fc", "c_proj"] if targets == "all-linear" else ["c_attn"]
    pair = Pair(architecture)
    found = []
    for base in (pair.remote(Cut.GRAPH), pair.plain()):
        model = in_training(base, targets, **more)
        switch_on(model, reentrant)
        model.enable_input_require_grads()
        found.append(run(model))
    (loss, grads), (expected, plain) = found
    assert loss == pytest.approx(expected, rel=1e-5)
    assert grads.keys() == plain.keys()
    for name, grad in plain.items():
        scale = float(grad.abs().max())
        assert scale > 0 or "lora" not in name
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
def test_checkpointing_changes_nothing_of_the_remote_model(reentrant: bool, use_cache: bool) -> None:
    pair = Pair("llama")
    model = in_training(pair.remote(Cut.GRAPH), "all-linear")
    model.enable_input_require_grads()
    loss, grads = run(model)
    grads = {name: grad.clone() for name, grad in grads.items()}
    model.zero_grad()
    switch_on(model, reentrant)
    again, regrads = run(model, use_cache=use_cache)
    assert again == loss
    torch.testing.assert_close(regrads, grads)


@pytest.mark.parametrize(
    ("reentrant", "forward", "backward"),
    [(True, 2 * LAYERS + 2 + 2 * LAYERS, 2 * LAYERS + 1), (False, 2 * LAYERS + 1 + LAYERS, 2 * LAYERS)],
)
def test_blocks_are_computed_again_in_the_backward(reentrant: bool, forward: int, backward: int) -> None:
    """Without reentrance only their first halves, as what comes after the attention is of the next trip."""
    pair = Pair("llama")
    model = in_training(pair.remote(Cut.GRAPH), ["q_proj", "v_proj"])
    switch_on(model, reentrant)
    model.enable_input_require_grads()
    pair.rows.trips.clear()
    run(model)
    assert (len(pair.rows.forward), len(pair.rows.backward)) == (forward, backward)


def test_without_reentrance_little_of_a_block_is_kept_for_its_backward() -> None:
    """Its input, and what its attention gave."""

    def kept(checkpointing: bool) -> int:
        model = in_training(Pair("llama").remote(Cut.GRAPH), ["q_proj", "v_proj"])
        if checkpointing:
            switch_on(model, reentrant=False)
        saved: dict[int, Tensor] = {}

        def pack(x: Tensor) -> Tensor:
            if not isinstance(x, torch.nn.Parameter):
                saved[x.data_ptr()] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(input_ids=IDS, labels=IDS)
        return sum(x.nbytes for x in saved.values())

    assert kept(True) < kept(False) / 2


def test_switched_off_again_a_forward_makes_its_usual_trips() -> None:
    pair = Pair("llama")
    model = pair.remote(Cut.GRAPH).train()
    switch_on(model, reentrant=True)
    model.disable_input_require_grads()
    switch_off = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    switch_off()
    pair.rows.trips.clear()
    model(input_ids=IDS).logits.sum()
    assert len(pair.rows.forward) == LAYERS + 1


def test_blocks_are_called_with_values_and_give_values() -> None:
    pair = Pair("llama")
    model = pair.remote(Cut.GRAPH)
    seen: list[type] = []

    def function(block: Any, *args: Any, **kwargs: Any) -> Any:
        result = block(*args, **kwargs)
        seen.extend(type(each) for each in (*args, result) if isinstance(each, Tensor))
        return result

    undefer_checkpoints(model)
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=function)
    model.train()(input_ids=IDS)
    assert len(seen) >= 2 * LAYERS
    assert Deferred not in seen
