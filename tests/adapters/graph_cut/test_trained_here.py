"""Who wants gradients of the base's own weights, in all layers, has those of a plain model, to the bit."""

from __future__ import annotations

import copy
import gc
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.adapters.local import Pair
from tests.adapters.training import QUIET, batches

pytestmark = QUIET


def loss_of(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model(**batches(1)[0]).loss
    return loss


def backward(model: Any) -> None:
    loss_of(model).backward()


def linears(model: Any) -> dict[str, Any]:
    head = model.get_output_embeddings()
    modules = model.named_modules()
    return {name: each for name, each in modules if isinstance(each, nn.Linear | Conv1D) and each is not head}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text", "gpt2", "opt"])
def test_their_gradients_are_those_of_a_plain_model_to_the_bit(architecture: str) -> None:
    pair = Pair(architecture)
    found = []
    for model in (pair.plain(), pair.remote()):
        for layer in linears(model).values():
            layer.weight.requires_grad = True
        loss = loss_of(model)
        loss.backward()
        found.append((loss.item(), {name: layer.weight.grad for name, layer in linears(model).items()}))
    (expected_loss, expected), (loss_here, gradients) = found
    assert loss_here == expected_loss
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


# PEFT's hooks on the first layers, whose input needs no gradient; of a plain model as well
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_lora_ga_begins_as_on_a_plain_model_and_then_makes_the_trips_of_the_graph_cut() -> None:
    pair = Pair("llama")
    adapted = []
    for model in (pair.plain(), pair.remote()):
        config = LoraConfig(
            r=4,
            target_modules=sorted({name.rpartition(".")[2] for name in linears(model)}),
            init_lora_weights="lora_ga",  # type: ignore[arg-type]  # PEFT 0.21 takes it, and does not list it
            lora_ga_config=LoraGAConfig(),
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(3)
        preprocess_loraga(model, config, partial(backward, model))
        adapted.append(get_peft_model(model, config))
    for (name, expected), (_, found) in zip(*(each.named_parameters() for each in adapted), strict=True):
        if expected.requires_grad:
            assert torch.equal(found, expected), name
    pair.rows.trips.clear()
    loss_of(adapted[1]).backward()
    assert len(pair.rows.trips) == 3
    """The table, the head with the loss, and back through these."""


def test_they_are_also_where_a_forward_begins_with_embeddings() -> None:
    pair = Pair("llama")
    embeddings = pair.plain().get_input_embeddings()(batches(1)[0]["input_ids"]).detach()
    found = []
    for model in (pair.plain(), pair.remote()):
        for layer in linears(model).values():
            layer.weight.requires_grad = True
        model(inputs_embeds=embeddings).logits.square().mean().backward()
        found.append({name: layer.weight.grad for name, layer in linears(model).items()})
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_training_one_layer_leaves_the_segments_of_the_others() -> None:
    pair = Pair("llama")
    model = pair.remote()
    loss_of(model)
    whole = len(pair.rows.trips)
    model.model.layers[1].mlp.down_proj.weight.requires_grad = True
    pair.rows.trips.clear()
    loss_of(model)
    assert len(pair.rows.trips) <= whole + 1


def train_all(model: Any) -> None:
    for layer in linears(model).values():
        layer.weight.requires_grad = True


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Those of a forward and backward."""
    for layer in linears(model).values():
        layer.weight.grad = None
    backward(model)
    return {name: layer.weight.grad for name, layer in linears(model).items()}


def trips(pair: Pair, model: Any) -> int:
    """How many a forward makes."""
    pair.rows.trips.clear()
    loss_of(model)
    return len(pair.rows.trips)


def check_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_a_copy_is_trained_by_itself(architecture: str) -> None:
    """Whichever of the two is trained, the other one makes the trips of the graph cut."""
    pair = Pair(architecture)
    plain = pair.plain()
    train_all(plain)
    expected = gradients(plain)
    for of_copy in (True, False):
        model = pair.remote()
        copied = copy.deepcopy(model)
        trained, other = (copied, model) if of_copy else (model, copied)
        whole = trips(pair, other)
        train_all(trained)
        check_bits(gradients(trained), expected)
        assert trips(pair, other) == whole


def test_a_copy_of_a_model_that_is_trained_outlives_it() -> None:
    pair = Pair("llama")
    model = pair.remote()
    train_all(model)
    expected = gradients(model)
    copied = copy.deepcopy(model)
    del model
    gc.collect()
    check_bits(gradients(copied), expected)
