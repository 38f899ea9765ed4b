"""Gradient checkpointing and deferred tensors.

A checkpoint runs a block again in the backward, from its arguments. The reentrant kind does so in an
autograd.Function, which looks at the tensors and not at torch's functions; so arguments and results are values
there. The other kind gets arguments that are values, and results that are not: what is deferred beyond the end of
a block keeps one tensor of it, and the block's last trip, with most of its work, is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from symbiosis_adapters.deferred.tensor import values_in

__all__ = ["undefer_checkpoints"]


def undefer_checkpoints(model: PreTrainedModel) -> None:
    """Has checkpointing that is switched on in `model` compute what goes into its blocks first."""
    # Not a closure: a copy of the model has to switch itself, and not keep this one alive.
    model.__dict__["_set_gradient_checkpointing"] = partial(_set_gradient_checkpointing, model)


def _set_gradient_checkpointing(
    model: PreTrainedModel,
    enable: bool = True,
    gradient_checkpointing_func: Callable[..., Any] = checkpoint,
    **rest: Any,
) -> Any:
    switch: Callable[..., Any] = type(model)._set_gradient_checkpointing
    return switch(model, enable, _with_values(gradient_checkpointing_func), **rest)


def _with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    reentrant = getattr(function, "keywords", {}).get("use_reentrant", True)

    def run(block: Any, *args: Any, **kwargs: Any) -> Any:
        return function(partial(_run, block) if reentrant else block, *values_in(args), **kwargs)

    return run


def _run(block: Any, *args: Any, **kwargs: Any) -> Any:
    return values_in(block(*args, **kwargs))
