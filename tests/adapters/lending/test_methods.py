"""Methods that need real weights equal plain PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn
from torch.nn.utils import parametrize

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.model import tensors
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.specs import DType, TensorSpec
from tests.adapters.lending.methods import CHANGING, READING, lent_bytes
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QUIET, QV, Run, adapt, batches, logits, tokens

pytestmark = QUIET


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *((name, Cut.GRAPH) for name in [*READING, *CHANGING]),
        *(("dora", Cut.SIBLINGS), ("pissa", Cut.SIBLINGS), ("dora", Cut.LENT), ("saved head", Cut.LENT)),
    ],
)
def test_methods_that_need_real_weights_equal_plain_peft(name: str, cut: Cut) -> None:
    arch, make = {**READING, **CHANGING}[name]
    pair = Pair(arch)
    before = lent_bytes(pair)
    plain, ours = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    ours.check(plain)
    assert torch.equal(tokens(ours.model), tokens(plain.model))
    assert lent_bytes(pair) == before


def test_what_only_reads_leaves_the_layers_to_the_daemon(pair: Pair) -> None:
    model = adapt(pair.remote(), READING["dora"][1])
    model(**batches(1)[0]).loss.backward()
    assert explain(model).taken == ()
    assert all(isinstance(p, FrozenWeight) for n, p in model.named_parameters() if n.endswith("base_layer.weight"))


def test_what_changes_weights_has_those_layers_computed_here_and_says_so(pair: Pair) -> None:
    model = adapt(pair.remote(), CHANGING["pissa"][1])
    layers = [f"model.layers.{block}.self_attn.{name}" for block in range(LAYERS) for name in QV]
    told = explain(model)
    assert told.taken == tuple(layers)
    assert f"computed here, with a weight of this process's own: {layers[0]}" in str(told)
    model(**batches(1)[0])
    assert not any("q_proj" in trip and "q_proj,k_proj" not in trip for trip in pair.rows.forward)


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LINEAR])
def test_a_layer_whose_weight_is_a_function_of_the_bases_is_computed_here(pair: Pair, cut: Cut) -> None:
    """PEFT's target_parameters makes it one while a forward lasts; then the layer is the daemon's again."""
    model = pair.remote(cut)
    remote, plain = model.model.layers[0].self_attn.q_proj, pair.plain().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 3, remote.in_features, generator=torch.Generator().manual_seed(1))
    expected = plain(x).detach()
    for parametrized, trips in ((False, 1), (True, 0), (False, 1)):
        if parametrized:
            parametrize.register_parametrization(remote, "weight", Twice())
        elif parametrize.is_parametrized(remote):
            parametrize.remove_parametrizations(remote, "weight", leave_parametrized=False)
        before = len(pair.rows.trips)
        assert remote.taken == parametrized
        torch.testing.assert_close(remote(x) * 1, expected * (1 + parametrized), rtol=1e-4, atol=1e-5)
        assert len(pair.rows.trips) - before == trips
    assert type(remote.weight) is FrozenWeight
    assert explain(model).taken == ()


@pytest.mark.parametrize("cut", [Cut.SIBLINGS, Cut.LENT])
def test_experts_are_mapped_and_adapters_on_them_equal_plain_peft(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are three-dimensional parameters and no ops; what is large of that kind is not fetched."""
    monkeypatch.setattr(tensors, "LARGE_BYTES", 4096)
    pair = Pair("mixtral")
    fetched: list[str] = []
    fetch = pair.fetch

    def note(tensor: TensorSpec) -> torch.Tensor:
        fetched.append(tensor.name)
        return fetch(tensor)

    def make() -> PeftConfig:
        return LoraConfig(r=4, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])

    monkeypatch.setattr(pair, "fetch", note)
    plain, ours = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    ours.check(plain)
    assert not any("experts" in name for name in fetched)
    assert any("inv_freq" in name for name in fetched)


def test_a_base_in_bfloat16_is_decomposed_as_plain_peft_does() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    make = CHANGING["pissa"][1]
    plain, ours = adapt(pair.plain(), make), adapt(pair.remote(), make)
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if "q_proj" in name:
            torch.testing.assert_close(mine, theirs, msg=name)


def test_an_adapter_that_changed_the_base_moves_to_a_plain_one(pair: Pair, tmp_path: Path) -> None:
    trained = Run(adapt(pair.remote(), CHANGING["saved head"][1]), steps=3).model
    trained.save_pretrained(tmp_path)
    for base in (pair.plain(), pair.remote()):
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
        torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)
