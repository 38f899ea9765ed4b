"""Other heads on the same base: what the daemon has is remote, and the head is the client's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.model.heads import Head
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.local import CONFIGS, MIXTURES, VOCABULARY, Pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
]

IDS = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
LABELS = {"num_labels": 4}
SEQUENCE = transformers.AutoModelForSequenceClassification
TOKEN = transformers.AutoModelForTokenClassification
ATTENTION = r".*\.(q_proj|v_proj|c_attn|query_key_value)"
_SHAPE = CONFIGS["qwen2"]
SHAPES: dict[str, Any] = {
    "mistral": {**_SHAPE, "sliding_window": 4},
    "qwen3": {**_SHAPE, "head_dim": 8},
    "gemma2": {**_SHAPE, "head_dim": 8, "sliding_window": 4},
    "phi": _SHAPE,
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mixtral": MIXTURES["mixtral"],
    "qwen3_moe": {
        **_SHAPE,
        "head_dim": 8,
        "moe_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}
"""Of families that no other test here has."""
CUTS = (Cut.GRAPH, Cut.SIBLINGS)
CASES = [
    *(
        (name, SEQUENCE, cut)
        for name in ("llama", "gpt2", "opt", "qwen2", "falcon", "gemma3_text")
        for cut in CUTS
    ),
    *((name, TOKEN, cut) for name in ("llama", "gpt2", "qwen2", "falcon") for cut in CUTS),
    *((name, auto, Cut.GRAPH) for name in SHAPES for auto in (SEQUENCE, TOKEN)),
]
TASKS = {SEQUENCE: ("SEQ_CLS", torch.tensor([0, 3, 1])), TOKEN: ("TOKEN_CLS", IDS % 4)}


def both(pair: Pair, auto: Any, folder: Path, fields: dict[str, Any], cut: Cut = Cut.GRAPH) -> tuple[Any, Any]:
    """Returns a plain and a remote model with that head, from the same random numbers."""
    pair.save(folder)
    torch.manual_seed(2)
    plain = auto.from_pretrained(folder, dtype=torch.float32, **fields)
    torch.manual_seed(2)
    return plain, pair.remote(cut, Head(auto, fields))


@pytest.mark.parametrize(("architecture", "auto", "cut"), CASES)
def test_a_training_step_equals_that_of_plain_peft(architecture: str, auto: Any, cut: Cut, tmp_path: Path) -> None:
    task, labels = TASKS[auto]
    losses, gradients = [], []
    for model in both(Pair(architecture, shape=SHAPES.get(architecture)), auto, tmp_path, LABELS, cut):
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights=False, task_type=task)
        adapted = get_peft_model(model, config).eval()  # eval: Falcon's and GPT-2's classifiers have a dropout
        loss = adapted(input_ids=IDS, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected, found = gradients
    assert found.keys() == expected.keys()
    assert any("modules_to_save" in name for name in found)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_the_bare_base_gives_the_hidden_states_of_a_plain_one(architecture: str, tmp_path: Path) -> None:
    plain, remote = both(Pair(architecture), transformers.AutoModel, tmp_path, {})
    assert type(remote).__name__ == type(plain).__name__
    assert any(isinstance(layer, RemoteLayer) for layer in remote.modules())
    expected = plain(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(remote(input_ids=IDS).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_an_adapter_on_the_bare_base_has_the_gradients_of_a_plain_one(
    architecture: str, cut: Cut, tmp_path: Path
) -> None:
    hidden, gradients = [], []
    for model in both(Pair(architecture), transformers.AutoModel, tmp_path, {}, cut):
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights=False, task_type="FEATURE_EXTRACTION")
        adapted = get_peft_model(model, config)
        hidden.append(adapted(input_ids=IDS).last_hidden_state)
        (hidden[-1][:, -1] * torch.arange(32)).sum().backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.grad is not None})
    torch.testing.assert_close(hidden[1], hidden[0], rtol=1e-4, atol=1e-5)
    expected, found = gradients
    assert found.keys() == expected.keys()
    assert found
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


def test_the_head_is_saved_with_the_adapter_and_loads_in_plain_peft(tmp_path: Path) -> None:
    plain, remote = both(Pair("llama"), SEQUENCE, tmp_path / "base", LABELS)
    torch.manual_seed(3)
    trained: Any = get_peft_model(remote, LoraConfig(r=4, init_lora_weights=False, task_type="SEQ_CLS")).eval()
    trained.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    expected = loaded(input_ids=IDS).logits
    assert expected.shape == (3, 4)
    torch.testing.assert_close(trained(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_the_head_is_told_is_in_the_configuration() -> None:
    names = {0: "bad", 1: "good"}
    model = Pair("llama").remote(head=Head(SEQUENCE, {"id2label": names, "problem_type": "regression"}))
    assert model.config.id2label == names
    assert model.config.problem_type == "regression"
    assert model.score.weight.shape == (2, 32)
    assert model.score.weight.requires_grad


def test_a_head_that_transformers_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="no AutoModelForMaskedLM for a base of model type 'llama'"):
        Pair("llama").remote(head=Head(transformers.AutoModelForMaskedLM, {}))
