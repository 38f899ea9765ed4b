"""A model is loaded as plain transformers loads it, frozen and quietly; what cannot be lent is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.loading import load
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.tiny_models import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "tiny-llama")
    return tmp_path / "tiny-llama"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "dtype", [DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16], ids=lambda dtype: dtype.name.lower()
)
def test_the_loaded_model_is_the_one_that_transformers_loads(folder: Path, dtype: DType) -> None:
    loaded = load(str(folder), dtype)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype(dtype))
    assert type(loaded.model) is type(plain)
    assert (loaded.name, loaded.name_or_path, loaded.dtype) == ("tiny-llama", plain.name_or_path, dtype)
    for (name, got), (_, expected) in zip(loaded.model.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(got, expected), name
        assert got.dtype is torch_dtype(dtype)


def test_the_loaded_model_is_frozen(folder: Path) -> None:
    model = load(str(folder), DType.FLOAT32).model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(str(folder), DType.FLOAT32)
    assert capfd.readouterr() == ("", "")


def test_two_daemons_that_load_the_same_folder_have_one_fingerprint(folder: Path) -> None:
    prints = [
        FrozenLayers(load(str(folder), dtype)).spec.fingerprint
        for dtype in (DType.FLOAT32, DType.FLOAT32, DType.BFLOAT16)
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16], ids=lambda dtype: dtype.name.lower())
def test_once_the_layers_own_the_weights_nothing_of_the_checkpoint_stays_mapped(
    folder: Path, dtype: DType
) -> None:
    loaded = load(str(folder), dtype)
    layers = FrozenLayers(loaded)
    assert str(folder) not in Path("/proc/self/maps").read_text()
    expected = copy.deepcopy(loaded.model)(torch.tensor([[1, 2, 3]])).logits
    (folder / "model.safetensors").write_bytes(b"")  # with mapped weights this would end the process
    assert torch.equal(loaded.model(torch.tensor([[1, 2, 3]])).logits, expected)
    assert layers.spec.base_bytes < 10_000_000


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21
def test_the_name_or_path_is_what_plain_peft_records(folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder)
    recorded = get_peft_model(base, LoraConfig(target_modules=["q_proj"])).peft_config["default"]
    assert load(str(folder), DType.FLOAT32).name_or_path == recorded.base_model_name_or_path


def test_a_relative_folder_becomes_a_path_that_clients_elsewhere_understand(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert load("tiny-llama", DType.FLOAT32).name_or_path == str(folder)
    assert load("./tiny-llama", DType.FLOAT32).name == "tiny-llama"


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", ""])
def test_a_folder_that_is_not_there_is_named(model: str) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .* hub id .* smollm2"):
        load(model, DType.FLOAT32)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*model\.safetensors"):
        load(str(folder / "model.safetensors"), DType.FLOAT32)


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_cannot_be_had_says_what_was_tried_and_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"tried the hub id owner/name\. (.|\n)*give a folder .* smollm2"):
        load("owner/name", DType.FLOAT32)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"tried the folder {tmp_path}"):
        load(str(tmp_path), DType.FLOAT32)


def test_a_broken_checkpoint_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights in here")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(str(folder), DType.FLOAT32)


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_with_random_ones(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights of LlamaForCausalLM, among them model\.layers\.1\.mlp"):
        load(str(folder), DType.FLOAT32)


def test_a_checkpoint_of_other_shapes_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 56}))
    with pytest.raises(UsageError, match=r"cannot be loaded|lacks"):
        load(str(folder), DType.FLOAT32)


def test_a_model_that_is_no_causal_language_model_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UsageError, match="cannot be loaded as a causal language model"):
        load(str(folder), DType.FLOAT32)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21
def test_an_adapter_is_refused_in_favour_of_its_base(folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(UsageError, match=r"is an adapter\. Lend its base model"):
        load(str(tmp_path / "adapter"), DType.FLOAT32)


def test_a_model_is_only_loaded_in_a_floating_point_type(folder: Path) -> None:
    with pytest.raises(UsageError, match="choose one of float32, bfloat16, float16"):
        load(str(folder), DType.INT8)
