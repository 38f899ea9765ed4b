"""Adapters are saved and loaded, on either base, whichever they were trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LNTuningConfig,
    PeftConfig,
    PeftModel,
    get_base_model_state_dict,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file

from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from tests.adapters.local import CONFIGS, Pair
from tests.adapters.plain_peft.methods import CASES
from tests.adapters.training import QUIET, QV, Run, adapt, adapted, logits, lora

pytestmark = QUIET

LAYER = "base_model.model.model.layers.0.self_attn"
MOVED = ["lora q,v", "lora embedding", "lora head", "ia3", "prefix", "lora gpt2", "lora norms"]


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("trained_here", [True, False])
def test_an_adapter_moves_between_remote_and_plain(name: str, trained_here: bool, tmp_path: Path) -> None:
    arch, make = CASES[name]
    pair = Pair(arch)
    bases = (pair.remote, pair.plain) if trained_here else (pair.plain, pair.remote)
    trained = Run(adapt(bases[0](), make), steps=3).model
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(bases[1](), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)
    assert PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == "someone/tiny"
    if trained_here:
        saved = load_file(tmp_path / "adapter_model.safetensors")
        adapt(pair.plain(), make).save_pretrained(tmp_path / "plain")
        assert saved.keys() == load_file(tmp_path / "plain" / "adapter_model.safetensors").keys()


def test_where_nothing_is_lent_an_adapter_is_saved_without_the_base_of_its_embedding(tmp_path: Path) -> None:
    """PEFT would save that beside it. Plain PEFT loads the adapter all the same."""
    pair = Pair("llama", allow="nobody")
    trained = Run(adapt(pair.remote(), CASES["lora embedding"][1]), steps=1).model
    trained.save_pretrained(tmp_path)
    assert not any("base_layer" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(pair.plain(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)


def _with_biases(pair: Pair) -> tuple[Any, dict[str, torch.Tensor]]:
    """Returns a plain model whose biases were trained with its adapter, and the state of that adapter."""
    trained = adapted(pair.plain(), QV, bias="all")
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.5)
    return trained, get_peft_model_state_dict(trained)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.LINEAR])
def test_biases_of_an_adapter_are_loaded_into_one_that_trains_none(cut: Cut) -> None:
    """As plain PEFT does; the layers that have them are the client's from then on."""
    pair = Pair("qwen2")
    trained, state = _with_biases(pair)
    loaded = adapted(pair.remote(cut), QV)
    set_peft_model_state_dict(loaded, state)
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)
    weights = [type(loaded.get_submodule(f"{LAYER}.{name}.base_layer").weight) for name in QV]
    assert weights == [FrozenWeight] * 2  # of which nothing was taken


def test_a_linear_that_ln_tuning_has_tuned_is_loaded() -> None:
    """PEFT trains a copy of whatever it is told to, and a copy may hold other values than the base."""
    pair = Pair("llama")
    config = LNTuningConfig(target_modules=["layers.0.mlp.down_proj"], task_type="CAUSAL_LM")
    trained: Any = get_peft_model(pair.plain(), config)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    fresh: Any = get_peft_model(pair.remote(), replace(config, inference_mode=True))
    set_peft_model_state_dict(fresh, get_peft_model_state_dict(trained))
    torch.testing.assert_close(logits(fresh.eval()), logits(trained.eval()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(fresh), logits(pair.plain()))


def test_biases_of_an_adapter_are_refused_where_nothing_is_lent() -> None:
    pair = Pair("qwen2", allow="nobody")
    _, state = _with_biases(pair)
    with pytest.raises(UsageError, match=r"bias: loading a bias that an adapter has trained") as caught:
        set_peft_model_state_dict(adapted(pair.remote(), QV), state)
    assert 'set lending.allow = "same_user"' in str(caught.value)


@pytest.mark.parametrize("targets", [QV, [*QV, "embed_tokens", "lm_head"]])
def test_the_state_of_the_base_is_found_under_an_adapter(targets: list[str]) -> None:
    """With the names and values of a plain one. Writing to it changes nothing here, and the base stays remote."""
    pair = Pair("llama")
    plain, remote = (adapt(base, lora(targets)) for base in (pair.plain(), pair.remote()))
    before = logits(remote)
    expected, found = get_base_model_state_dict(plain), get_base_model_state_dict(remote)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    found["model.layers.0.self_attn.q_proj.weight"].zero_()
    assert torch.equal(logits(remote), before)
    assert isinstance(remote.model.model.layers[0].self_attn.q_proj.base_layer.weight, FrozenWeight)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    plain = Pair("llama").plain()
    plain.model.embed_tokens.weight.data.mul_(2)
    adapt(plain, CASES["lora embedding"][1]).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"embed_tokens\.base_layer\.weight differs from the daemon's"):
        PeftModel.from_pretrained(Pair("llama").remote(), tmp_path)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("of", ["another width", "another family", "another rank"])
def test_an_adapter_that_does_not_fit_is_the_error_that_it_is_on_a_plain_base(
    of: str, cut: Cut, tmp_path: Path
) -> None:
    other: dict[str, tuple[Pair, Any]] = {
        "another width": (Pair("llama", shape={**CONFIGS["llama"], "hidden_size": 64}), lora(QV)),
        "another family": (Pair("gpt2"), lora(["c_attn"], fan_in_fan_out=True)),
        "another rank": (Pair("llama"), lora(QV, rank_pattern={"q_proj": 8})),
    }
    base, make = other[of]
    adapt(base.plain(), make).save_pretrained(tmp_path)
    if of == "another rank":  # a configuration that does not belong to its weights
        config = PeftConfig.from_pretrained(str(tmp_path))
        config.rank_pattern = {}
        config.save_pretrained(str(tmp_path))
    pair, errors = Pair("llama"), []
    for mine in (pair.plain(), pair.remote(cut)):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            PeftModel.from_pretrained(mine, tmp_path)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[1] == errors[0]


def test_an_adapter_loads_without_a_detour_through_memory(tmp_path: Path) -> None:
    pair = Pair("llama")
    trained = adapted(pair.remote())
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(pair.remote(), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(logits(loaded), logits(trained))
