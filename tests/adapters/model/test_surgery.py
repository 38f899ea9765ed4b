"""The built model is transformers' own, complete, and refuses what a base without weights cannot do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.model.surgery import build
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_bench.compat.families import shape_of
from symbiosis_core.errors import RemoteProtocolError, UsageError
from symbiosis_core.specs import ModelSpec, OpSpec
from tests.adapters.local import CONFIGS, Pair

IDS = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 8, 9, 10]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@pytest.fixture(params=CONFIGS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def test_the_model_is_what_from_pretrained_gives(pair: Pair) -> None:
    plain, remote = pair.plain(), pair.remote()
    assert type(remote) is type(plain)
    assert not remote.training
    assert (remote.dtype, remote.device) == (plain.dtype, plain.device)
    assert remote.config.to_dict() == plain.config.to_dict()
    assert remote.config._attn_implementation == plain.config._attn_implementation
    assert remote.generation_config.to_dict() == plain.generation_config.to_dict()
    assert (remote.name_or_path, remote.config._name_or_path) == ("someone/tiny", "someone/tiny")
    assert remote.num_parameters() == plain.num_parameters()
    assert [(n, p.shape, p.dtype) for n, p in remote.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in plain.named_parameters()
    ]
    assert not any(p.requires_grad for p in remote.parameters())
    for name, buffer in plain.named_buffers():
        assert torch.equal(remote.get_buffer(name), buffer)


def test_a_configuration_may_have_infinities() -> None:
    """JSON has none, so transformers writes them in a way of its own."""
    pair = Pair("falcon_h1", shape=shape_of("falcon_h1"))
    assert "__float__" in pair.spec.config_json
    config = pair.remote().config
    assert config.time_step_limit == pair.plain().config.time_step_limit
    assert config.time_step_limit[1] == float("inf")


@pytest.mark.parametrize("cut", Cut)
def test_logits_and_greedy_tokens_are_the_plain_models(pair: Pair, cut: Cut) -> None:
    plain, remote = pair.plain(), pair.remote(cut)
    expected = plain(input_ids=IDS, attention_mask=MASK).logits
    torch.testing.assert_close(remote(input_ids=IDS, attention_mask=MASK).logits, expected, rtol=1e-5, atol=1e-6)
    arguments: dict[str, Any] = {
        "attention_mask": MASK,
        "max_new_tokens": 32,
        "do_sample": False,
        "eos_token_id": None,
    }
    assert torch.equal(remote.generate(IDS, **arguments), plain.generate(IDS, **arguments))


def test_building_draws_no_random_number_and_allocates_no_base(pair: Pair) -> None:
    before = torch.get_rng_state()
    model = pair.remote()
    assert torch.equal(torch.get_rng_state(), before)
    own = sum(p.nbytes for p in model.parameters() if not isinstance(p, FrozenWeight))
    assert own < sum(p.nbytes for p in model.parameters()) / 10


def test_tying_again_changes_nothing(pair: Pair) -> None:
    remote = pair.remote()
    expected = remote(input_ids=IDS).logits
    remote.tie_weights()
    assert torch.equal(remote(input_ids=IDS).logits, expected)


def test_a_copy_is_independent_and_equal(pair: Pair) -> None:
    remote = pair.remote()
    copied = copy.deepcopy(remote)
    assert torch.equal(copied(input_ids=IDS).logits, remote(input_ids=IDS).logits)
    assert sum(isinstance(module, RemoteLayer) for module in copied.modules()) > 2


def test_the_bases_own_weights_may_be_loaded_and_cost_no_sharing(pair: Pair) -> None:
    remote = pair.remote()
    remote(input_ids=IDS).logits.sum()
    before, trips = explain(remote), pair.rows.trips.copy()
    remote.load_state_dict(pair.plain().state_dict())
    pair.rows.trips.clear()
    remote(input_ids=IDS).logits.sum()
    assert explain(remote) == before
    assert pair.rows.trips == trips


def test_moving_to_the_same_device_and_dtype_is_free(pair: Pair) -> None:
    remote = pair.remote()
    expected = remote(input_ids=IDS).logits
    assert torch.equal(remote.to("cpu").to(torch.float32).float()(input_ids=IDS).logits, expected)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda model: model.half(),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.requires_grad_(True),
        lambda model: model.resize_token_embeddings(120),
        lambda model: model.resize_token_embeddings(120, mean_resizing=False),
    ],
)
def test_what_would_change_the_base_is_refused_where_that_is_not_lent(attempt: Any) -> None:
    remote = Pair("llama", allow="nobody").remote()
    expected = remote(input_ids=IDS).logits
    with pytest.raises(UsageError, match="is not possible"):
        attempt(remote)
    assert torch.equal(remote(input_ids=IDS).logits, expected)
    assert remote.config.vocab_size == 96


def test_saving_a_base_that_is_not_lent_is_refused(tmp_path: Path) -> None:
    pair = Pair("llama", allow="nobody")
    with pytest.raises(UsageError, match="is not possible"):
        pair.remote().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(UsageError, match="saving or pickling"):
        torch.save(pair.remote().state_dict(), tmp_path / "base.pt")


def without(spec: ModelSpec, name: str) -> ModelSpec:
    return msgspec.structs.replace(
        spec,
        tensors=tuple(tensor for tensor in spec.tensors if tensor.name != name),
        ops=tuple(op for op in spec.ops if op.members != (name,)),
    )


@pytest.mark.parametrize("name", ["model.norm.weight", "model.rotary_emb.inv_freq", "lm_head"])
def test_a_catalogue_with_a_hole_is_refused_by_name(name: str) -> None:
    pair = Pair("qwen2")
    with pytest.raises(RemoteProtocolError, match=f"neither op nor tensor for {name}"):
        build(without(pair.spec, name), pair.rows, pair.fetch)


def test_a_tensor_in_an_attribute_counts_as_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    pair = Pair("llama")
    made: Any = modeling_llama.LlamaMLP.__init__

    def with_attribute(self: Any, config: Any) -> None:
        made(self, config)
        self.scales = [torch.ones(2)]

    monkeypatch.setattr(modeling_llama.LlamaMLP, "__init__", with_attribute)
    with pytest.raises(RemoteProtocolError, match=r"model\.layers\.0\.mlp\.scales"):
        build(pair.spec, pair.rows, pair.fetch)


def test_an_aliased_buffer_is_replaced_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    pair = Pair("llama")
    made: Any = modeling_llama.LlamaRotaryEmbedding.__init__

    def with_alias(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.__dict__["alias"] = self.inv_freq

    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "__init__", with_alias)
    rotary: Any = pair.remote().get_submodule("model.rotary_emb")
    assert rotary.alias is rotary.inv_freq


def change(op: OpSpec) -> OpSpec:
    return msgspec.structs.replace(op, width_in=op.width_in + 1)


def test_a_catalogue_of_another_model_is_refused() -> None:
    pair = Pair("gpt2")
    spec = pair.spec
    wrong: list[tuple[ModelSpec, type[Exception], str]] = [
        (
            msgspec.structs.replace(spec, ops=(*spec.ops[:2], change(spec.ops[2]), *spec.ops[3:])),
            RemoteProtocolError,
            "no layer of",
        ),
        (msgspec.structs.replace(spec, ops=(change(spec.ops[2]), *spec.ops)), RemoteProtocolError, "two ops"),
        (
            msgspec.structs.replace(
                spec,
                ops=(*spec.ops, msgspec.structs.replace(spec.ops[2], members=("transformer.h.9.attn.c_attn",))),
            ),
            RemoteProtocolError,
            "no layer of",
        ),
        (
            msgspec.structs.replace(spec, tensors=(msgspec.structs.replace(spec.tensors[0], shape=(3,)),)),
            RemoteProtocolError,
            "is no parameter of",
        ),
        (msgspec.structs.replace(spec, config_json='{"model_type": "unheard"}'), UsageError, "'unheard'"),
        (msgspec.structs.replace(spec, config_json="{}"), UsageError, "model type None"),
    ]
    for broken, error, message in wrong:
        with pytest.raises(error, match=message):
            build(broken, pair.rows, pair.fetch)


def test_code_and_quantization_in_the_config_are_ignored() -> None:
    pair = Pair("llama")
    config = json.loads(pair.spec.config_json)
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    config["quantization_config"] = {"quant_method": "gguf"}
    model = build(msgspec.structs.replace(pair.spec, config_json=json.dumps(config)), pair.rows, pair.fetch)
    assert not hasattr(model.config, "quantization_config")
    assert not hasattr(model.config, "auto_map")


def test_a_table_that_the_daemon_serves_as_a_tensor_stays_a_plain_module() -> None:
    model = Pair("opt").remote()
    positions = model.model.decoder.embed_positions
    assert not isinstance(positions, RemoteLayer)
    assert not isinstance(positions.weight, FrozenWeight)
    assert not positions.weight.requires_grad
