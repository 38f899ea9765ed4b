"""What transformers' `from_pretrained` is told: applied, passed over, said, or an error. See also tests/e2e."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from transformers import BitsAndBytesConfig, GenerationConfig

from symbiosis_adapters.model.arguments import check_form, sort
from symbiosis_adapters.model.heads import Head
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.local import Pair

CAUSAL = transformers.AutoModelForCausalLM
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
SINGLY = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
FP4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")


def said(**given: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sort(None, given)
    return [str(warning.message) for warning in caught]


def test_what_finds_a_checkpoint_is_passed_over_in_silence() -> None:
    assert said(cache_dir="/x", token="t", use_safetensors=True, proxies={}, max_memory={0: "1GB"}) == []
    assert said(revision="main", device_map="auto", experts_implementation="eager", subfolder="") == []
    assert said(device_map={"": "cpu"}) == []


def test_what_chooses_other_weights_is_passed_over_and_said_in_one_warning() -> None:
    [message] = said(revision="v2", variant="fp16", device_map={"model.embed_tokens": 0, "lm_head": "cpu"})
    for name in ("revision='v2'", "variant='fp16'", "device_map={"):
        assert name in message


@pytest.mark.parametrize("name", ["state_dict", "tp_plan", "distributed_config", "use_kernels"])
def test_what_a_shared_base_cannot_be_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}='x': the base is loaded by the daemon"):
        sort(None, {name: "x"})
    assert sort(None, {name: None}).overrides == {}


def test_the_old_name_of_dtype_yields_to_the_new_one() -> None:
    assert sort(None, {"torch_dtype": torch.float16}).dtype == "float16"
    assert sort("bfloat16", {"torch_dtype": torch.float16}).dtype == "bfloat16"
    assert sort("auto", {"torch_dtype": "auto"}).dtype is None


def test_a_device_for_all_is_where_the_clients_part_goes() -> None:
    assert sort(None, {"device_map": "cpu"}).device == torch.device("cpu")
    assert sort(None, {"device_map": {"": "meta"}}).device == torch.device("meta")
    assert sort(None, {"device_map": "auto"}).device is None


def test_the_quantisation_must_be_the_daemons() -> None:
    whole = Pair("llama").spec
    for quantized, fits, fails in (
        ("nf4", NF4, FP4),
        ("nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, BitsAndBytesConfig(load_in_8bit=True)),
        ("", None, NF4),
        ("int8", None, NF4),
    ):
        spec = msgspec.structs.replace(whole, quantized=quantized)
        check_form(sort(None, {"quantization_config": fits}), spec)
        with pytest.raises(UsageError, match="leave quantization_config out"):
            check_form(sort(None, {"quantization_config": fails}), spec)


def test_four_bits_of_no_kind_are_the_daemons_and_its_errors_name_what_was_given() -> None:
    whole = Pair("llama").spec
    nf4, int8 = (msgspec.structs.replace(whole, quantized=each) for each in ("nf4", "int8"))
    check_form(sort(None, {"load_in_4bit": True, "load_in_8bit": False}), nf4)
    with pytest.raises(UsageError, match=r"^load_in_8bit=True: .*leave load_in_8bit out, .*double_quant=True\)$"):
        check_form(sort(None, {"load_in_4bit": False, "load_in_8bit": True}), nf4)
    with pytest.raises(UsageError, match=r"^load_in_4bit=True: .*; leave load_in_4bit out, .*--quantize nf4$"):
        check_form(sort(None, {"load_in_4bit": True}), whole)
    with pytest.raises(UsageError, match=r"^quantization_config=BitsAndBytesConfig: .*Int8WeightOnlyConfig"):
        check_form(sort(None, {"quantization_config": FP4}), int8)


def test_a_single_quantisation_is_said_to_be_passed_over() -> None:
    spec = msgspec.structs.replace(Pair("llama").spec, quantized="nf4")
    with pytest.warns(UserWarning, match="bnb_4bit_use_double_quant=False: passed over"):
        check_form(sort(None, {"quantization_config": SINGLY}), spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_cache": False},
        {"output_attentions": True, "attn_implementation": "eager"},
        {"num_labels": 5, "attention_dropout": 0.25, "rms_norm_eps": 1e-3},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}},
    ],
)
def test_a_field_of_the_configuration_is_applied_as_transformers_does(fields: Any, tmp_path: Path) -> None:
    pair = Pair("llama")
    pair.save(tmp_path)
    plain = CAUSAL.from_pretrained(tmp_path, **fields)
    asked = sort(None, fields)
    remote = pair.remote(head=Head(CAUSAL, asked.overrides))
    found, expected = (model.config.to_dict() for model in (remote, plain))
    assert {key: found[key] for key in fields if key in expected} == {
        key: expected[key] for key in fields if key in expected
    }
    ids = torch.arange(3, 12).view(1, 9)
    torch.testing.assert_close(remote(ids).logits * 1, plain(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_configuration_of_ones_own_counts_and_another_models_is_an_error(tmp_path: Path) -> None:
    pair = Pair("llama")
    pair.save(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.rms_norm_eps = 0.5
    remote, plain = pair.remote(head=Head(CAUSAL, {}, config)), CAUSAL.from_pretrained(tmp_path, config=config)
    ids = torch.arange(3, 12).view(1, 9)
    torch.testing.assert_close(remote(ids).logits * 1, plain(ids).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="is of model type 'gpt2', the base of 'llama'"):
        pair.remote(head=Head(CAUSAL, {}, transformers.GPT2Config()))


def test_positions_of_ones_own_are_an_error_however_they_are_told(tmp_path: Path) -> None:
    """The daemon's frequencies with a scaling of attention that belongs to others would be neither model."""
    pair = Pair("llama")
    pair.save(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 512}
    config.rope_parameters = yarn
    for head in (Head(CAUSAL, {}, config), Head(CAUSAL, {"rope_parameters": yarn})):
        with pytest.raises(UsageError, match=r"rope_parameters.*: the tables of positions are the daemon's"):
            pair.remote(head=head)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.LENT])
@pytest.mark.parametrize(
    ("field", "value", "base"),
    [("num_hidden_layers", 2, 3), ("num_hidden_layers", 4, 3), ("vocab_size", 64, 96), ("hidden_size", 64, 32)],
)
def test_a_field_of_which_other_weights_follow_is_named_beside_the_bases(
    field: str, value: int, base: int, cut: Cut
) -> None:
    pair = Pair("llama")
    config = transformers.AutoConfig.for_model(**{**json.loads(pair.spec.config_json), field: value})
    for head in (Head(CAUSAL, {field: value}), Head(CAUSAL, {}, config)):
        with pytest.raises(UsageError, match=rf"{field}={value} \(the base has {base}\).*the daemon's"):
            pair.remote(cut, head)


@pytest.mark.parametrize("fields", [{"rope_theta": 5e5}, {"no_such_field": 1}])
def test_what_cannot_be_set_here_is_an_error(fields: Any) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        Pair("llama").remote(head=Head(CAUSAL, fields))


def test_a_way_to_generate_of_ones_own_is_kept() -> None:
    given = GenerationConfig(max_new_tokens=3)
    assert sort(None, {"generation_config": given}).generation is given
