"""Functions of one value: activations, powers, means, casts."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.recording import DTYPES
from symbiosis_adapters.deferred.tensor import Deferred, Rule, pending
from symbiosis_adapters.recorded.nodes import is_number, record_unary
from symbiosis_adapters.recorded.rules import Rules

__all__ = ["RECORDED"]

RECORDED = Rules()


def _unary(fn: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) != 1 or any(kwargs.values()):  # inplace=False may be said
            return NotImplemented
        return record_unary(args[0], fn)

    return rule


_UNARY: Final[dict[str, tuple[Any, ...]]] = {
    "neg": (torch.neg, Tensor.neg, Tensor.__neg__),
    "rsqrt": (torch.rsqrt, Tensor.rsqrt),
    "silu": (F.silu,),
    "relu": (F.relu, torch.relu, Tensor.relu),
    "sigmoid": (torch.sigmoid, Tensor.sigmoid, F.sigmoid),
    "tanh": (torch.tanh, Tensor.tanh, F.tanh),
}
for _fn, _functions in _UNARY.items():
    RECORDED.of(*_functions)(_unary(_fn))


@RECORDED.of(F.gelu)
def _gelu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "approximate"), args, strict=False)) | kwargs
    fn = {"none": "gelu", "tanh": "gelu_tanh"}.get(said.get("approximate", "none"))
    return NotImplemented if fn is None else record_unary(said["input"], fn)


@RECORDED.of(torch.pow, Tensor.pow, Tensor.__pow__)
def _pow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs or len(args) != 2 or not is_number(args[1]) or args[1] == 0:
        return NotImplemented
    return record_unary(args[0], "pow", number=args[1])


@RECORDED.of(torch.square, Tensor.square)
def _square(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs or len(args) != 1 else record_unary(args[0], "pow", number=2)


@RECORDED.of(torch.mean, Tensor.mean)
def _mean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "dim", "keepdim"), args, strict=False)) | kwargs
    x = said.pop("input", None)
    if not pending(x) or set(said) != {"dim", "keepdim"} or not said["keepdim"]:
        return NotImplemented
    if said["dim"] not in (-1, (-1,), [-1], len(x._shape) - 1):
        return NotImplemented
    return record_unary(x, "mean", width=1)


@RECORDED.of(Tensor.to)
def _to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A cast; moving to another device needs the value."""
    if len(args) == 1 and set(kwargs) == {"dtype"}:
        return _cast(args[0], kwargs["dtype"])
    if kwargs or len(args) != 2:
        return NotImplemented
    x, target = args
    if isinstance(target, Tensor):
        return NotImplemented
    if isinstance(target, torch.dtype):
        return _cast(x, target)
    return x if type(x) is Deferred and torch.device(target) == x.device and pending(x) else NotImplemented


@RECORDED.of(Tensor.float)
def _float(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs else _cast(args[0], torch.float32)


@RECORDED.of(Tensor.type_as)
def _type_as(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, other = args
    if type(x) is not Deferred or x.device != other.device:
        return NotImplemented
    return _cast(x, other.dtype)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    if type(x) is not Deferred or not pending(x):
        return NotImplemented
    if x._dtype is dtype:
        return x
    code = DTYPES.get(dtype)
    if code is None or not code.is_floating:
        return NotImplemented
    return record_unary(x, "cast", dtype=int(code))
