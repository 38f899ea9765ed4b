"""The adapter of every contender: LoRA on q and v with seeded weights, the very same in two processes.

PEFT starts with B = 0, an adapter that does nothing; here B is small and not zero, so that adapters matter, and
those of two seeds differ.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model

__all__ = ["digest", "parameters", "restore", "snapshot", "with_adapter"]

_RANK: Final = 8
_SPREAD_B: Final = 0.02
"""Standard deviation of B."""


def with_adapter(base: Any, seed: int) -> Any:
    """Returns the PEFT model. Adapter weights are drawn on the CPU in the order of their names."""
    model = get_peft_model(
        base,
        LoraConfig(task_type="CAUSAL_LM", r=_RANK, lora_alpha=2 * _RANK, target_modules=["q_proj", "v_proj"]),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(parameters(model).items()):
            spread = _SPREAD_B if "lora_B" in name else 1 / math.sqrt(parameter.shape[-1])
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Returns what is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """Returns a copy of the adapter's weights."""
    return {name: parameter.detach().clone() for name, parameter in parameters(model).items()}


def restore(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Puts such a copy back, and forgets gradients."""
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            parameter.copy_(weights[name])
            parameter.grad = None


def digest(weights: dict[str, torch.Tensor]) -> str:
    """Returns the same for the same names and values."""
    told = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        told.update(name.encode())
        told.update(weight.float().cpu().numpy().tobytes())
    return told.hexdigest()[:16]
