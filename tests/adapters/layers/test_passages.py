"""Norms and MLPs are passed in one step once they are known, and never when anything about them has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import Deferred
from symbiosis_adapters.layers.passages import _MOST_FAILURES, add_passages
from tests.adapters.local import LAYERS, Pair

IDS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair("llama")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits.clone()
    return found


def known(module: nn.Module) -> int:
    return len(module.__dict__["symbiosis_passages"].known)


def count_silu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often the activation is asked for: a passage asks for nothing inside."""
    calls: list[int] = []
    silu = F.silu

    def counting(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return silu(x, *args, **kwargs)

    monkeypatch.setattr(F, "silu", counting)
    return calls


def test_the_second_forward_goes_through_in_one_step(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, expected = pair.remote(), logits(pair.plain())
    torch.testing.assert_close(logits(remote), expected)
    calls = count_silu(monkeypatch)
    trips = len(pair.rows.trips)
    torch.testing.assert_close(logits(remote), expected)
    assert not calls
    assert len(pair.rows.trips) - trips == LAYERS + 1
    assert known(remote.model.layers[0].mlp) == known(remote.model.norm) == 1


def test_passages_make_the_same_segments(pair: Pair) -> None:
    """Or clients that have run longer could not be batched with those that begin."""
    remote = pair.remote()
    logits(remote)
    learned = len(pair.rows.segments)
    logits(remote)
    logits(remote)
    assert len(pair.rows.segments) == learned


def test_gradients_are_those_of_plain_peft(pair: Pair) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    models = []
    for model in (pair.plain(), pair.remote()):
        torch.manual_seed(3)
        models.append(get_peft_model(model, config))
    for _ in range(3):
        for model in models:
            model.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
        expected = {name: each.grad for name, each in models[0].named_parameters() if each.grad is not None}
        found = dict(models[1].named_parameters())
        for name, grad in expected.items():
            scale = grad.abs().max().item()
            torch.testing.assert_close(found[name].grad, grad, rtol=0, atol=1e-4 * scale, msg=name)


def test_a_hook_inside_is_called(pair: Pair) -> None:
    remote = pair.remote()
    logits(remote)
    logits(remote)
    seen: list[Any] = []
    handle = remote.model.layers[1].mlp.act_fn.register_forward_hook(lambda *args: seen.append(args[2]))
    logits(remote)
    assert len(seen) == 1
    handle.remove()


def test_a_hook_around_is_called(pair: Pair) -> None:
    remote = pair.remote()
    seen: list[Any] = []
    remote.model.norm.register_forward_hook(lambda *args: seen.append(args[2].shape))
    for _ in range(3):
        logits(remote)
    assert len(seen) == 3


class LastRow(nn.Module):
    """Doubles the last row of every sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1:, :] * 2


def test_what_takes_all_rows_of_one_may_take_some_of_more(pair: Pair) -> None:
    """So it is no passage, although one row was all there was."""
    remote, last = pair.remote(), LastRow()
    add_passages(last, remote.symbiosis_deferral)
    table = pair.plain().get_input_embeddings()
    for count in (1, 1, 5):
        ids = IDS[:, :count]
        found = last(remote.get_input_embeddings()(ids)) * 1
        torch.testing.assert_close(found.clone(), table(ids).detach()[:, -1:] * 2)
    assert known(last) == 0


def test_a_submodule_that_was_replaced_is_used(pair: Pair) -> None:
    plain, remote = pair.plain(), pair.remote()
    logits(remote)
    logits(remote)
    for model in (plain, remote):
        model.model.layers[0].mlp.act_fn = nn.ReLU()
    torch.testing.assert_close(logits(remote), logits(plain))
    torch.testing.assert_close(logits(remote), logits(plain))


def test_a_module_with_an_idle_adapter_inside_is_never_passed(pair: Pair) -> None:
    models: list[Any] = []
    for model in (pair.plain(), pair.remote()):
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
        models.append(get_peft_model(model, config).eval())
    plain, remote = models
    with remote.disable_adapter():
        logits(remote)
        logits(remote)
    torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-4, atol=1e-5)
    assert known(remote.base_model.model.model.layers[0].mlp) == 0


def test_an_attribute_that_was_changed_counts(pair: Pair) -> None:
    plain, remote = pair.plain(), pair.remote()
    logits(remote)
    logits(remote)
    for model in (plain, remote):
        model.model.norm.variance_epsilon = 0.5
    torch.testing.assert_close(logits(remote), logits(plain))


@pytest.mark.parametrize("change", ["in place", "data", "replaced"])
def test_a_weight_that_was_changed_counts(pair: Pair, change: str) -> None:
    plain, remote = pair.plain(), pair.remote()
    logits(remote)
    logits(remote)
    for model in (plain, remote):
        norm = model.model.norm
        if change == "in place":
            with torch.no_grad():
                norm.weight.mul_(3)
        elif change == "data":
            norm.weight.data = norm.weight.data * 3
        else:
            norm.weight = nn.Parameter(norm.weight.detach() * 3)
    for _ in range(2):
        torch.testing.assert_close(logits(remote), logits(plain))


def test_a_norm_that_is_trained_gets_its_gradient(pair: Pair) -> None:
    plain, remote = pair.plain(), pair.remote()
    logits(remote)
    logits(remote)
    for model in (plain, remote):
        model.model.norm.weight.requires_grad_(True)
        model(input_ids=IDS, labels=IDS).loss.backward()
    found, expected = remote.model.norm.weight.grad, plain.model.norm.weight.grad
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_copy_computes_with_its_own_parameters(pair: Pair) -> None:
    plain, remote = pair.plain(), pair.remote()
    logits(remote)
    logits(remote)
    copied = copy.deepcopy(remote)
    for model in (plain, copied):
        with torch.no_grad():
            model.model.norm.weight.mul_(3)
    torch.testing.assert_close(logits(copied), logits(plain))
    torch.testing.assert_close(logits(remote), logits(pair.plain()))


def test_a_module_that_asks_for_sizes_is_never_passed(pair: Pair) -> None:
    """What it does may depend on them."""
    remote = pair.remote()
    norm = remote.model.norm

    class Nosy(type(norm)):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = super().forward(hidden_states)
            return result * (2.0 if hidden_states.shape[1] > 4 else 1.0)

    plain = pair.plain()
    norm.__class__ = Nosy
    expected = {}
    for length in (3, 8):
        with torch.no_grad():
            final = plain.model(input_ids=IDS[:, :length]).last_hidden_state
            expected[length] = plain.lm_head(final * (2.0 if length > 4 else 1.0))
    for _ in range(_MOST_FAILURES + 2):
        for length, wanted in expected.items():
            with torch.no_grad():
                torch.testing.assert_close(remote(input_ids=IDS[:, :length]).logits.clone(), wanted)


def test_the_class_keeps_its_name_and_its_ancestors(pair: Pair) -> None:
    """Whoever looks for norms by type or by name finds them."""
    plain, remote = pair.plain(), pair.remote()
    assert type(remote.model.norm).__name__ == type(plain.model.norm).__name__
    assert isinstance(remote.model.norm, type(plain.model.norm))


def test_what_comes_out_is_still_deferred(pair: Pair) -> None:
    remote = pair.remote()
    logits(remote)
    seen: list[type] = []
    remote.model.layers[0].mlp.register_forward_hook(lambda *args: seen.append(type(args[2])))
    logits(remote)
    assert seen == [Deferred]
