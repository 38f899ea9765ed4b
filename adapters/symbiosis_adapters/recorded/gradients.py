"""Questions about a tensor's gradient: refused where the gradient is not what torch would say it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symbiosis_adapters.deferred.tensor import Deferred, value_of
from symbiosis_adapters.recorded.rules import Rules
from symbiosis_core.errors import UsageError

__all__ = ["RECORDED"]

RECORDED = Rules()


@RECORDED.of(Tensor.retain_grad, Tensor.register_hook)
def _watch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _check_whole(args[0])
    return NotImplemented


@RECORDED.of(torch.autograd.grad, torch.autograd.backward, Tensor.backward)
def _differentiate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs = kwargs.get("inputs", args[1] if len(args) > 1 else None)
    for each in inputs if isinstance(inputs, tuple | list) else (inputs,):
        _check_whole(each)
    return NotImplemented


def _check_whole(x: Any) -> None:
    """Raises if the gradient of `x` is not where torch would look for it."""
    if type(x) is not Deferred:
        return
    value_of(x)
    if x._passed:
        raise UsageError(
            "the gradient of a deferred tensor was asked for after frozen layers had used the tensor, which "
            "they did in the daemon; ask before (retain_grad() in a forward hook), or load with cut='siblings'"
        )
