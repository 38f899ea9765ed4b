"""One training run, the same for a shared base and for plain PEFT, and what it means that two runs are equal."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM", "lora_dropout": 0.1}
METHODS: dict[str, PeftConfig] = {
    "lora_qv": LoraConfig(**LORA, target_modules=["q_proj", "v_proj"]),
    "lora_all": LoraConfig(**LORA, target_modules="all-linear"),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
}


def plain(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


Batches = list[torch.Tensor]


def random_batches(steps: int, tokens: int) -> Batches:
    torch.manual_seed(3)
    return [torch.randint(3, 128, (2, tokens + step % 3)) for step in range(steps)]


def text_batches(tokenizer: Any, steps: int, tokens: int) -> Batches:
    """Real English: the language reference that every Python carries."""
    ids = tokenizer(topics["objects"], return_tensors="pt").input_ids[0]
    return [ids[None, step * tokens : (step + 1) * tokens] for step in range(steps)]


def train(
    base: Any, config: PeftConfig, batches: Iterable[torch.Tensor], **more: Any
) -> tuple[Any, list[float], dict[str, torch.Tensor]]:
    """Returns the model, the loss of every step, and the first step's adapter gradients.

    `more` is given to every forward.
    """
    torch.manual_seed(11)
    model = get_peft_model(base, copy.deepcopy(config))  # PEFT writes the base's name into it
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:  # a fresh LoRA has B = 0, and so no gradient for A that could differ
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-4)
    losses, gradients = [], {}
    for step, ids in enumerate(batches):
        loss = model(input_ids=ids, labels=ids, **more).loss
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


def assert_roughly_same_training(ours: tuple[Any, list[float], Any], theirs: tuple[Any, list[float], Any]) -> None:
    """In bfloat16 the losses agree, and the first gradients, as far as roundings let them."""
    assert ours[1] == pytest.approx(theirs[1], rel=2e-4)
    assert ours[2].keys() == theirs[2].keys()
    assert ours[2]
    for name, gradient in theirs[2].items():
        assert gradient.norm() > 0, name
        assert (ours[2][name] - gradient).norm() <= 0.04 * gradient.norm(), name
