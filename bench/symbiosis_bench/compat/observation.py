"""One adapted model, put through all that a cell compares, step by step.

A step that fails ends neither the observation nor the steps after it that do not need it. What failed is kept as
the exception, to be told from the outside.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from symbiosis_bench.compat.adapting import adapt, beside
from symbiosis_bench.compat.batches import batch
from symbiosis_bench.compat.cell import Step
from symbiosis_bench.compat.methods import Method

__all__ = ["NEEDED", "Observation", "Trips", "observe"]

_NEW_TOKENS = 6


NEEDED = (Step.ADAPT, Step.LOSS, Step.GRADIENTS, Step.LOGITS)
"""Without these a method does nothing: where plain PEFT fails in one, there is nothing to compare."""


class Trips(NamedTuple):
    """How a forward went."""

    cut: str
    per_block: float


class Observation(NamedTuple):
    """What was seen: by step either a value or why there is none."""

    values: dict[Step, Any]
    errors: dict[Step, Exception]
    trips: Trips | None


def observe(
    model: PreTrainedModel,
    plain: PreTrainedModel,
    method: Method,
    folder: Path,
    trips: Callable[[Any], Trips] | None = None,
) -> Observation:
    """Returns what `method` on `model` does. `plain` is a plain model of the same base, which stays as it is.

    `trips` tells of an adapted model how its latest forward went.
    """
    values: dict[Step, Any] = {}
    errors: dict[Step, Exception] = {}
    told: Trips | None = None

    @contextlib.contextmanager
    def attempt(step: Step) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever a method raises is the cell's result
            errors[step] = error

    with attempt(Step.ADAPT):
        adapted = adapt(model, method, folder)
        values[Step.ADAPT] = adapted.get_nb_trainable_parameters()
    if errors:
        return Observation(values, errors, None)
    more = beside(method)
    with attempt(Step.LOSS):
        adapted.train()
        torch.manual_seed(5)
        loss = adapted(**batch(), **more).loss
        values[Step.LOSS] = loss.item()
    if not errors:
        with attempt(Step.GRADIENTS):
            loss.backward()
            named = adapted.named_parameters()
            values[Step.GRADIENTS] = {name: each.grad.clone() for name, each in named if each.grad is not None}
    adapted.eval()
    with attempt(Step.LOGITS), torch.no_grad():
        values[Step.LOGITS] = _logits(adapted, method)
        told = trips(adapted) if trips is not None else None
    with attempt(Step.TOKENS):
        values[Step.TOKENS] = _tokens(adapted, more)
    with attempt(Step.RELOAD), tempfile.TemporaryDirectory(dir=folder) as saved:
        adapted.save_pretrained(saved)
        base = copy.deepcopy(plain)
        base.config.use_cache = model.config.use_cache  # which X-LoRA wants off
        again = PeftModel.from_pretrained(base, saved).eval()
        with torch.no_grad():
            values[Step.RELOAD] = _logits(again, method)
    with attempt(Step.MERGE), torch.no_grad():
        values[Step.MERGE] = adapted.merge_and_unload()(**_question()).logits.clone()
    return Observation(values, errors, told)


def _question() -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch().items() if key != "labels"}


def _logits(model: Any, method: Method) -> torch.Tensor:
    asked = batch() if method.recipe == "cpt" else _question()  # CPT's forward wants labels
    logits: torch.Tensor = model(**asked, **beside(method)).logits
    return logits.clone()  # a deferred tensor would wait for somebody to look, and the daemon may be gone by then


def _tokens(model: Any, more: dict[str, torch.Tensor]) -> torch.Tensor:
    generated: torch.Tensor = model.generate(
        **_question(), **more, max_new_tokens=_NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return generated
