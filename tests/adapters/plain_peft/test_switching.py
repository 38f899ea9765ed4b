"""Several adapters on one base are switched, mixed, swapped, disabled and taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.graph_cut.batch import check_gradients
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, QV, adapt, adapted, batches, logits, lora

pytestmark = QUIET


def test_adapters_are_switched_and_disabled_on_one_base() -> None:
    pair = Pair("llama")
    plain, remote = (adapt(base, lora(QV, init_lora_weights=False)) for base in (pair.plain(), pair.remote()))
    for model in (plain, remote):
        torch.manual_seed(9)
        model.add_adapter("second", lora(["o_proj"], init_lora_weights=False)())
    for name in ("default", "second"):
        plain.set_adapter(name)
        remote.set_adapter(name)
        torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    with plain.disable_adapter(), remote.disable_adapter():
        torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    assert remote.get_nb_trainable_parameters() == plain.get_nb_trainable_parameters()


CUTS = pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])


def with_two(cut: Cut) -> list[Any]:
    """Returns a plain and a remote model with two adapters, both of which are trained."""
    pair = Pair("llama")
    models = [adapted(base, QV) for base in (pair.plain(), pair.remote(cut))]
    for model in models:
        torch.manual_seed(9)
        model.add_adapter("second", lora("all-linear", init_lora_weights=False)())
        model.set_requires_grad(["default", "second"])
    return models


@CUTS
def test_adapters_are_mixed_within_one_batch(cut: Cut) -> None:
    plain, remote = with_two(cut)
    batch = batches(1)[0]
    mixed = {**batch, "adapter_names": ["second", "__base__"]}
    with torch.no_grad():
        torch.testing.assert_close(remote(**mixed).logits, plain(**mixed).logits, rtol=1e-5, atol=1e-6)
    for names in (["second", "__base__"], ["default", "second"]):
        check_a_step(plain, remote, {**batch, "adapter_names": names})


@CUTS
@pytest.mark.parametrize("beams", [1, 2])
def test_each_row_of_a_batch_is_continued_by_its_own_adapter(cut: Cut, beams: int) -> None:
    batch = {key: value for key, value in batches(1)[0].items() if key != "labels"}
    asked = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "num_beams": beams}
    names = ["second", "__base__"], ["default", "second"]
    plain, remote = (
        [model.generate(**batch, **asked, adapter_names=each) for each in names] for model in with_two(cut)
    )
    for found, expected in zip(remote, plain, strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(*remote)


@CUTS
def test_adapters_are_added_to_each_other(cut: Cut) -> None:
    """Several active ones, both of which are trained by a step."""
    plain, remote = with_two(cut)
    for model in (plain, remote):
        model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    check_a_step(plain, remote, batches(1)[0])


@CUTS
def test_adapters_of_several_methods_are_mixed_in_one_model(cut: Cut) -> None:
    pair = Pair("llama")
    models: list[Any] = []
    for base in (pair.plain(), pair.remote(cut)):
        torch.manual_seed(3)
        model: Any = get_peft_model(base, lora(QV, init_lora_weights=False)(), mixed=True)
        model.add_adapter("second", LoHaConfig(r=4, target_modules=["v_proj", "up_proj"], init_weights=False))
        model.set_adapter(["default", "second"])
        models.append(model.eval())
    plain, remote = models
    torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    check_a_step(plain, remote, batches(1)[0])
    with torch.no_grad():
        merged, expected = (logits(model.merge_and_unload()) for model in (remote, plain))
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)


def test_a_swapped_adapter_is_trained_on(tmp_path: Path) -> None:
    """In a model that was prepared for other ranks, and has made forwards and backwards before."""
    pair = Pair("llama")
    adapted(pair.plain(), QV, lora_alpha=3).save_pretrained(str(tmp_path))
    models = plain, remote = [adapt(base, lora(QV)) for base in (pair.plain(), pair.remote())]
    for model in models:
        prepare_model_for_compiled_hotswap(model, target_rank=8)
        model.eval()
    check_a_step(plain, remote, batches(1)[0])
    before = logits(remote)
    for model in models:
        hotswap_adapter(model, str(tmp_path), adapter_name="default")
    assert not torch.allclose(logits(remote), before)
    torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    check_a_step(plain, remote, batches(1)[0])


def check_a_step(plain: Any, remote: Any, batch: dict[str, Any]) -> None:
    """The loss is the plain model's, and so are the gradients of all adapters."""
    losses = []
    for model in (plain, remote):
        for parameter in model.parameters():
            parameter.grad = None
        losses.append(model(**batch).loss)
        losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    check_gradients(remote, plain)


def test_an_unloaded_adapter_leaves_the_base_as_it_was() -> None:
    pair = Pair("llama")
    base = pair.remote()
    before = logits(base)
    unloaded = adapt(base, lora("all-linear", init_lora_weights=False)).unload()
    assert torch.equal(logits(unloaded), before)
