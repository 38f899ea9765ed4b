"""Training and generation on a shared base equal plain PEFT on the same seed, while others are being served."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM as PlainAutoModel

from symbiosis_adapters import AutoModelForCausalLM, AutoTokenizer
from symbiosis_adapters.placeholder import FrozenWeight
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", "lora_dropout": 0.1}
METHODS: dict[str, PeftConfig] = {
    "lora_qv": LoraConfig(**LORA, target_modules=["q_proj", "v_proj"]),
    "lora_all": LoraConfig(**LORA, target_modules="all-linear"),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
}


@pytest.fixture(scope="module")
def real_daemon(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """The real model, in float32."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("real"), str(smollm2_path), "--dtype", "float32")
    try:
        yield daemon.start()
    finally:
        daemon.close()


def plain(path: Path) -> Any:
    return PlainAutoModel.from_pretrained(path, dtype=torch.float32)


Batches = list[torch.Tensor]


def random_batches(steps: int, tokens: int) -> Batches:
    torch.manual_seed(3)
    return [torch.randint(3, 128, (2, tokens + step % 3)) for step in range(steps)]


def text_batches(tokenizer: Any, steps: int, tokens: int) -> Batches:
    """Real English: the language reference that every Python carries."""
    ids = tokenizer(topics["objects"], return_tensors="pt").input_ids[0]
    return [ids[None, step * tokens : (step + 1) * tokens] for step in range(steps)]


def train(base: Any, config: PeftConfig, batches: Batches) -> tuple[Any, list[float], dict[str, torch.Tensor]]:
    """Returns the model, the loss of every step, and the first step's adapter gradients."""
    torch.manual_seed(11)
    model = get_peft_model(base, copy.deepcopy(config))  # PEFT writes the base's name into it
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:  # a fresh LoRA has B = 0, and so no gradient for A that could differ
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-4)
    losses, gradients = [], {}
    for step, ids in enumerate(batches):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model.eval(), losses, gradients


def assert_same_training(ours: tuple[Any, list[float], Any], theirs: tuple[Any, list[float], Any]) -> None:
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    assert ours[2].keys() == theirs[2].keys()
    for name, gradient in theirs[2].items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        assert (ours[2][name] - gradient).abs().max().item() <= 1e-4 * scale, name


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_equal_plain_peft_while_others_are_served(
    busy_tiny_daemon: DaemonProcess, tiny_path: Path, method: str
) -> None:
    before = busy_tiny_daemon.status()
    assert len(before.clients) == 2
    base = AutoModelForCausalLM.from_pretrained(busy_tiny_daemon.address)
    ours = train(base, METHODS[method], random_batches(20, 24))
    assert_same_training(ours, train(plain(tiny_path), METHODS[method], random_batches(20, 24)))
    after = busy_tiny_daemon.status()
    assert all(now.requests > then.requests for now, then in zip(after.clients, before.clients, strict=False))
    base.symbiosis.close()


def test_the_real_model_trains_and_generates_as_in_plain_peft(
    real_daemon: DaemonProcess, smollm2_path: Path, start_tenant: StartTenant
) -> None:
    """The main job: 20 steps and 64 greedy tokens on SmolLM2 in float32, with two other tenants at work."""
    start_tenant("train", real_daemon.address, 1)
    start_tenant("generate", real_daemon.address, 2)
    base = AutoModelForCausalLM.from_pretrained(real_daemon.address)
    tokenizer = AutoTokenizer.from_pretrained(base)
    batches = text_batches(tokenizer, 20, 24)
    ours = train(base, METHODS["lora_qv"], batches)
    local = train(plain(smollm2_path), METHODS["lora_qv"], batches)
    assert_same_training(ours, local)
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    tokens = [
        model.generate(prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        for model in (ours[0], local[0])
    ]
    assert tokens[0].shape == (1, prompt.shape[1] + 64)
    assert tokens[0].tolist() == tokens[1].tolist()
    occupancy = real_daemon.status().batches
    assert occupancy.clients > occupancy.count, "nobody ever shared a batch, so nothing was tested"
    base.symbiosis.close()


def test_adapters_are_interchangeable_in_both_directions(
    tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    ours, _, _ = train(base, METHODS["lora_all"], random_batches(5, 16))
    theirs, _, _ = train(plain(tiny_path), METHODS["ia3"], random_batches(5, 16))
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    other = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    ids = torch.randint(3, 128, (2, 20))
    with torch.no_grad():
        taken_away = PeftModel.from_pretrained(plain(tiny_path), tmp_path / "ours")
        torch.testing.assert_close(taken_away(ids).logits, ours(ids).logits, rtol=1e-4, atol=1e-5)
        brought_in = PeftModel.from_pretrained(other, tmp_path / "theirs")
        torch.testing.assert_close(brought_in(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-5)
    saved = PeftConfig.from_pretrained(str(tmp_path / "ours"))
    assert saved.base_model_name_or_path == str(tiny_path)
    base.symbiosis.close()
    other.symbiosis.close()


def test_the_client_holds_no_base_weights(tiny_daemon: DaemonProcess, tiny_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    kept = sum(p.nbytes for p in base.parameters() if not isinstance(p, FrozenWeight))
    assert base.num_parameters() == plain(tiny_path).num_parameters()
    assert kept < 0.05 * tiny_daemon.status().memory.base
    base.symbiosis.close()
