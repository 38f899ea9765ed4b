"""Questions about a tensor that are answered without its value: its shape, its type, where it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symbiosis_adapters.deferred.tensor import Rule, pending, read_size
from symbiosis_adapters.recorded.rules import Rules

__all__ = ["RECORDED"]

RECORDED = Rules()


def _getter(name: str) -> Any:
    return getattr(Tensor, name).__get__


@RECORDED.of(_getter("shape"), Tensor.size)
def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not pending(args[0]):
        return NotImplemented
    read_size()
    shape = args[0]._shape
    return shape[args[1]] if len(args) > 1 and type(args[1]) is int else NotImplemented if kwargs else shape


@RECORDED.of(_getter("ndim"), Tensor.dim)
def _dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    read_size()
    return len(args[0]._shape) if pending(args[0]) else NotImplemented


@RECORDED.of(Tensor.numel)
def _numel(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    read_size()
    return args[0]._shape.numel() if pending(args[0]) else NotImplemented


@RECORDED.of(_getter("dtype"))
def _dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]._dtype if pending(args[0]) else NotImplemented


@RECORDED.of(_getter("requires_grad"))
def _requires_grad(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]._needs_grad if pending(args[0]) else NotImplemented


def _ask_stand_in(function: Any) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or not pending(args[0]):
            return NotImplemented
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    return rule


for _question in (
    *(_getter(name) for name in ("device", "layout", "is_cpu", "is_cuda", "is_sparse", "is_meta", "is_quantized")),
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    torch.is_complex,
    Tensor.element_size,
    Tensor.get_device,
):
    RECORDED[_question] = _ask_stand_in(_question)
