"""Several adapters on one base are switched, mixed, disabled and taken off."""

from __future__ import annotations

import torch

from tests.adapters.local import Pair
from tests.adapters.training import QV, adapt, adapted, batches, logits, lora


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
    mixed = {"input_ids": batches(1)[0]["input_ids"], "adapter_names": ["second", "__base__"]}
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            torch.testing.assert_close(remote(**mixed).logits, plain(**mixed).logits, rtol=1e-5, atol=1e-6)


def test_an_unloaded_adapter_leaves_the_base_as_it_was() -> None:
    pair = Pair("llama")
    base = pair.remote()
    before = logits(base)
    unloaded = adapt(base, lora("all-linear", init_lora_weights=False)).unload()
    assert torch.equal(logits(unloaded), before)
