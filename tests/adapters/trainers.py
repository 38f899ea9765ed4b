"""transformers' Trainer for a few steps on the CPU, and the losses that it logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments


def few_steps(folder: Path, **more: Any) -> TrainingArguments:
    """Four steps, a loss for each, and a checkpoint after two; or as `more` has it."""
    given: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "report_to": [],
        "seed": 1,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(folder), **{**given, **more})


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
