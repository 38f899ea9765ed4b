"""A copy of a model and its arguments that shares all tensors: a trace of it is one of the moment it was taken.

A trace goes on for many steps, and the client may change anything between them. Guards are made at a trace's end,
so they would hold for what the client has made of the model, and the graph for what it was before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["snapshot"]


def snapshot(model: nn.Module, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns both, copied as one. Tensors are shared: a cache that grows into new ones is held as it was."""
    memo: dict[int, Any] = {}
    for module in model.modules():  # a parameter's own way to be copied asks no mode
        for store in (module._parameters, module._buffers):
            memo |= {id(tensor): tensor for tensor in store.values() if tensor is not None}
    with _SharedTensors():
        copied: tuple[nn.Module, dict[str, Any]] = copy.deepcopy((model, arguments), memo)
    return copied


class _SharedTensors(TorchFunctionMode):
    """A copy of a tensor is that tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            return args[0]
        return func(*args, **(kwargs or {}))
