"""A batch, LoRA on both bases, and what equality of the two is."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from symbiosis_adapters.deferred import value_of

IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0
LABELS = IDS.masked_fill(MASK == 0, -100)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
QV = ["q_proj", "v_proj"]


def adapt(base: Any, targets: Any = "all-linear", **more: Any) -> Any:
    """Returns `base` with LoRA that does something, in eval mode."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", **more)
    return get_peft_model(base, config).eval()


def gradients(model: Any) -> dict[str, Tensor]:
    """Returns copies of all gradients, by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(mine: Any, theirs: Any) -> None:
    """The same parameters have gradients, and the same ones."""
    found, expected = gradients(mine), gradients(theirs)
    assert found.keys() == expected.keys()
    assert found
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()), msg=name)


def close(found: Any, expected: Any) -> None:
    """The values agree as they do in float32, computed in another order."""
    torch.testing.assert_close(value_of(found), expected, rtol=1e-4, atol=1e-5)
