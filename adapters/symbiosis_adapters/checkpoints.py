"""Gradient checkpointing and deferred tensors.

A checkpoint runs a block again in the backward, from its arguments. The reentrant kind hands these to an
autograd.Function, which looks at the tensors and not at torch's functions; so arguments are values here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from symbiosis_adapters.deferred import Deferred, value_of

__all__ = ["undefer_checkpoints"]


def undefer_checkpoints(model: PreTrainedModel) -> None:
    """From now on checkpointing that is switched on in `model` computes the arguments of its blocks first."""
    switch: Callable[..., Any] = model._set_gradient_checkpointing

    def set_gradient_checkpointing(
        enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **rest: Any
    ) -> Any:
        return switch(enable, _with_values(gradient_checkpointing_func), **rest)

    model.__dict__["_set_gradient_checkpointing"] = set_gradient_checkpointing


def _with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(block: Any, *args: Any, **kwargs: Any) -> Any:
        values = [value_of(arg) if type(arg) is Deferred else arg for arg in args]
        return function(block, *values, **kwargs)

    return run
