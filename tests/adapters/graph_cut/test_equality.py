"""An unmodified model on the graph cut computes what the plain one computes, in every mode of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.specs import DType
from tests.adapters.graph_cut.batch import BATCH, IDS, MASK, check_gradients, gradients
from tests.adapters.local import CONFIGS, Pair
from tests.adapters.training import QV, adapted, close


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # of PEFT's own doing, for Mixtral
@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_computes_what_plain_peft_computes(architecture: str) -> None:
    pair = Pair(architecture)
    more: dict[str, Any] = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    models = [adapted(base, **more) for base in (pair.plain(), pair.remote(Cut.GRAPH))]
    outputs = [model.train()(**BATCH) for model in models]
    for output in outputs:
        output.loss.backward()
    assert outputs[1].loss.item() == pytest.approx(outputs[0].loss.item(), rel=1e-5)
    close(outputs[1].logits, outputs[0].logits)
    check_gradients(models[1], models[0])
    arguments = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    tokens = [model.eval().generate(input_ids=IDS, attention_mask=MASK, **arguments) for model in models]
    assert torch.equal(tokens[1], tokens[0])


def test_bfloat16_logits_are_the_plain_models() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    with torch.no_grad():
        found, expected = (model(input_ids=IDS).logits for model in (pair.remote(Cut.GRAPH), pair.plain()))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(value_of(found), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_every_mode_gives_the_logits(remote: Any, plain: Any, mode: Any) -> None:
    with mode():
        found, expected = (model(input_ids=IDS, attention_mask=MASK).logits for model in (remote, plain))
        assert found.requires_grad == expected.requires_grad
    close(found, expected)


def test_autocast_is_the_siblings_cut(pair: Pair) -> None:
    models = [adapted(pair.remote(cut)) for cut in (Cut.SIBLINGS, Cut.GRAPH)]
    trips, outputs = [], []
    for model in models:
        pair.rows.trips.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**BATCH)
        output.loss.backward()
        outputs.append((output.loss, output.logits))
        trips.append(pair.rows.trips.copy())
    assert trips[0] == trips[1]
    assert all(type(each) is Tensor for each in outputs[1])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    for name, grad in gradients(models[0]).items():
        assert torch.equal(gradients(models[1])[name], grad)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_autocast_that_begins_half_way_keeps_the_gradient(architecture: str) -> None:
    pair = Pair(architecture)

    def halves(model: Any) -> tuple[Tensor, Any]:
        x = torch.ones(2, 3, 32, requires_grad=True)
        block = (model.model.layers if architecture == "llama" else model.transformer.h)[0]
        attention = block.self_attn if architecture == "llama" else block.attn
        h = attention.o_proj(x * 1) if architecture == "llama" else attention.c_proj(x * 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ys = [attention.q_proj(h), attention.k_proj(h)] if architecture == "llama" else [attention.c_attn(h)]
        sum(y.float().square().sum() for y in ys).backward()
        return value_of(ys[0]).float(), x.grad

    found = halves(pair.remote(Cut.GRAPH))
    expected = halves(pair.plain().requires_grad_(False))
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)


def test_training_and_then_evaluation(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        model.train()(**BATCH).loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        model.eval()
    with torch.no_grad():
        close(remote(input_ids=IDS).logits, plain(input_ids=IDS).logits)


def test_adapters_are_switched_mixed_and_disabled(pair: Pair) -> None:
    models = [adapted(base, QV) for base in (pair.remote(Cut.GRAPH), pair.plain())]
    for model in models:
        torch.manual_seed(9)
        model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        model.eval()

    def run(model: Any) -> Iterator[Any]:
        for name in ("default", "second"):
            model.set_adapter(name)
            yield model(input_ids=IDS).logits
        with model.disable_adapter():
            yield model(input_ids=IDS).logits
        yield model(input_ids=IDS, adapter_names=["default", "__base__"]).logits

    for found, expected in zip(run(models[0]), run(models[1]), strict=True):
        close(found, expected)


def test_embeddings_may_be_given_instead_of_ids(remote: Any, plain: Any) -> None:
    grads = []
    for model in (remote, plain):
        embedded = model.get_input_embeddings()(IDS)
        leaf = embedded.detach().clone().requires_grad_()
        model(inputs_embeds=leaf, labels=IDS).loss.backward()
        close(model(inputs_embeds=embedded).logits, model(input_ids=IDS).logits.detach())
        grads.append(leaf.grad)
    close(grads[0], grads[1])


def test_a_wrong_dtype_or_width_is_the_error_of_the_layer(pair: Pair) -> None:
    layer = pair.remote(Cut.GRAPH).model.layers[0].self_attn.o_proj
    for x in (torch.ones(2, 32, dtype=torch.float64), torch.ones(2, 33)):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            layer(x)
    h = layer(torch.ones(2, 32))
    with pytest.raises(RuntimeError, match="mat1 and mat2 must have the same dtype"):
        layer(h.to(torch.float64))
