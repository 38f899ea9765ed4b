"""A short training with PEFT, the same on a remote base and on a plain one, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model

from symbiosis_adapters.deferred.tensor import value_of

QUIET = [
    # PEFT asks the hub for the base's config when it saves; "someone/tiny" is not there.
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`"),
]
"""For the tests that save an adapter, or merge one: what PEFT warns of, with a plain base too."""
STEPS = 10
_EPS = 1e-3
"""Of Adam. With its own, 1e-8, a gradient that is nearly nothing is a step of full size in the direction of its
rounding: the last bit of the weights then moves plain PEFT's later gradients by up to 6e-3 from its own."""
QV = ["q_proj", "v_proj"]


def lora(targets: str | list[str], **more: Any) -> Callable[[], PeftConfig]:
    return lambda: LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **more)


def config(cls: type[PeftConfig], **fields: Any) -> Callable[[], PeftConfig]:
    return lambda: cls(task_type="CAUSAL_LM", **fields)


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    """Batches of two rows, the first padded on the left."""
    draw = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        ids = torch.randint(3, 96, (2, 12), generator=draw)
        mask = torch.ones_like(ids)
        mask[0, :4] = 0
        made.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return made


def adapt(model: Any, make: Callable[[], PeftConfig]) -> Any:
    """Returns `model` with an adapter, whose random numbers are the same every time."""
    torch.manual_seed(3)
    return get_peft_model(model, make())


def adapted(model: Any, targets: str | list[str] = "all-linear", **more: Any) -> Any:
    """Returns `model` with a LoRA that does something from the start, in eval mode."""
    return adapt(model, lora(targets, init_lora_weights=False, **more)).eval()


def close(found: Any, expected: Any) -> None:
    """The values agree as they do in float32, computed in another order."""
    torch.testing.assert_close(value_of(found), expected, rtol=1e-4, atol=1e-5)


class Run:
    """What a training of a few steps leaves behind."""

    def __init__(self, model: Any, steps: int = STEPS, autocast: torch.dtype | None = None) -> None:
        self.model = model.train()
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=5e-3, eps=_EPS)
        torch.manual_seed(5)
        for step, batch in enumerate(batches(steps)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                loss = model(**batch).loss
            loss.backward()
            named = model.named_parameters()
            self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
            self.losses.append(loss.item())
            optimizer.step()
            if hasattr(model.base_model, "update_and_allocate"):
                model.base_model.update_and_allocate(step)
        model.eval()

    def check(self, other: Run) -> None:
        """In float32 every step agrees."""
        assert self.losses == pytest.approx(other.losses, rel=1e-5)
        for mine, theirs in zip(self.gradients, other.gradients, strict=True):
            assert mine.keys() == theirs.keys()
            assert mine
            for name, expected in theirs.items():
                scale = max(expected.abs().max().item(), 1e-6)
                torch.testing.assert_close(mine[name], expected, rtol=0, atol=1e-4 * scale, msg=name)

    def check_roughly(self, other: Run) -> None:
        """In bfloat16 the losses agree, and the first gradients; later ones are Adam's choice among roundings.

        Measured, of a LoRA with an alpha of 1 under autocast: a plain model that adds each sum in two halves is
        7e-5 off in its losses and 1.6 % in the norm of a gradient, a float32 one as much, a remote one 7e-5 and
        1.7 %.
        """
        assert self.losses == pytest.approx(other.losses, rel=2e-4)
        assert self.gradients[0].keys() == other.gradients[0].keys()
        for name, expected in other.gradients[0].items():
            assert (self.gradients[0][name] - expected).norm() <= 0.04 * expected.norm(), name


def tokens(model: Any) -> torch.Tensor:
    """Generates 32 tokens greedily from a left-padded batch."""
    batch = batches(1)[0]
    generated: torch.Tensor = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=32,
        do_sample=False,
        eos_token_id=None,
    )
    return generated


def logits(model: Any) -> torch.Tensor:
    batch = batches(1)[0]
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found
