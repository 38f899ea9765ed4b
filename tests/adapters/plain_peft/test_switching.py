"""Several adapters on one base are switched, mixed, swapped, disabled and taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

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


def test_adapters_are_mixed_within_one_batch() -> None:
    pair = Pair("llama")
    plain, remote = (adapted(base, QV) for base in (pair.plain(), pair.remote()))
    for model in (plain, remote):
        torch.manual_seed(9)
        model.add_adapter("second", lora("all-linear", init_lora_weights=False)())
        model.set_requires_grad(["default", "second"])
    batch = batches(1)[0]
    mixed = {**batch, "adapter_names": ["second", "__base__"]}
    with torch.no_grad():
        torch.testing.assert_close(remote(**mixed).logits, plain(**mixed).logits, rtol=1e-5, atol=1e-6)
    for names in (["second", "__base__"], ["default", "second"]):
        check_a_step(plain, remote, {**batch, "adapter_names": names})


def test_a_swapped_adapter_is_trained_on(tmp_path: Path) -> None:
    """In a model that was prepared for other ranks, and has made forwards and backwards before."""
    pair = Pair("llama")
    adapted(pair.plain(), QV, lora_alpha=3).save_pretrained(str(tmp_path))
    models = [adapt(base, lora(QV)) for base in (pair.plain(), pair.remote())]
    for model in models:
        prepare_model_for_compiled_hotswap(model, target_rank=8)
        model.eval()
    check_a_step(*models, batches(1)[0])
    before = logits(models[1])
    for model in models:
        hotswap_adapter(model, str(tmp_path), adapter_name="default")
    assert not torch.allclose(logits(models[1]), before)
    torch.testing.assert_close(logits(models[1]), logits(models[0]), rtol=1e-5, atol=1e-6)
    check_a_step(*models, batches(1)[0])


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
