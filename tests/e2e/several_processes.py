"""Trains by torch's DistributedDataParallel, as torchrun starts it: on a plain base, and on a shared one.

Arguments: a folder for results, the base's folder, the daemon's address. Every process has rows of its own.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator  # type: ignore[import-untyped]  # it has no types
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

import symbiosis_adapters

STEPS = 3


def adapted(base: Any) -> Any:
    """A LoRA from random numbers that differ by process: DDP has to give all of them those of the first."""
    torch.manual_seed(int(os.environ["RANK"]))
    return get_peft_model(
        base,
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )


def rows(seed: int) -> torch.Tensor:
    return torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(seed))


def by_hand(base: Any, find_unused: bool) -> dict[str, Any]:
    """Three steps with accelerate: losses, and the gradients of the first, averages over all processes."""
    model = adapted(base)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    if find_unused:
        prepared: Any = DistributedDataParallel(model, find_unused_parameters=True)
    else:
        prepared, optimizer = accelerator.prepare(model, optimizer)
        assert isinstance(prepared, DistributedDataParallel)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        ids = rows(10 * step + accelerator.process_index)
        loss = prepared(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        if not step:
            named = model.named_parameters()
            gradients = {name: p.grad.tolist() for name, p in named if p.grad is not None}
        optimizer.step()
    return {"losses": losses, "gradients": gradients}


def by_trainer(base: Any, folder: Path) -> list[float]:
    """The losses that Trainer logs, averages over all processes."""
    data = [{"input_ids": row, "labels": row} for seed in range(8) for row in rows(seed)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        logging_steps=1,
        learning_rate=5e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(adapted(base), arguments, train_dataset=data)
    trainer.train()
    assert torch.distributed.get_world_size() == 2
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main(folder: Path, path: str, address: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    openers: dict[str, Any] = {
        "plain": lambda: transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        "shared": lambda: symbiosis_adapters.AutoModelForCausalLM.from_pretrained(address),
    }
    for kind, opened in openers.items():
        found = {
            "prepared": by_hand(opened(), find_unused=False),
            "unused": by_hand(opened(), find_unused=True),
            "trainer": by_trainer(opened(), folder / kind),
        }
        (folder / f"{kind}-{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
