"""What stands where a frozen weight would: its shape, dtype and device, and none of its values.

PEFT, accelerate and transformers ask a base weight for `shape`, `dtype`, `device` and `numel()`, and put adapters
where it is; on the meta device they would put them there too, which fails in backward. So a placeholder is an
nn.Parameter on a real device: one element, expanded with stride 0. It answers questions about itself, can be
moved, viewed and copied, and refuses whatever would read or replace its values, naming the layer and the
operation. What gets around that (C++ code that never asks Python) finds a NaN.

A weight that was merged, decomposed or retyped here would change nothing in the daemon: silently wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import nn

from symbiosis_core.errors import UsageError

__all__ = ["FrozenWeight"]


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_QUESTIONS = _names(
    "__hash__ __len__ _has_compatible_shallow_copy_type can_cast dim element_size empty_like full_like get_device "
    "has_names is_complex is_conj is_contiguous is_floating_point is_inference is_neg is_pinned is_same_size "
    "is_shared is_signed ndimension nelement new_empty new_full new_ones new_tensor new_zeros numel ones_like "
    "promote_types rand_like randint_like randn_like result_type size storage_offset stride zeros_like"
)
"""Answered from shape, dtype and device alone."""
_VIEWS = _names("alias detach expand flatten permute reshape squeeze swapaxes t transpose unsqueeze view")
"""Give another placeholder of the same layer."""
_MOVES = _names("bfloat16 clone cpu cuda double float half pin_memory share_memory_ to type type_as xpu")
"""Give a placeholder too, as long as the dtype stays."""
_PATTERNS = _names("expand_as reshape_as to type_as view_as")
"""Take a second tensor for its shape, dtype or device only."""

_LEND = (
    "Lending real weights to a client is not available yet. Use an adapter that leaves the base weights alone "
    "(for LoRA: default initialization, no DoRA), and merge into a model loaded with plain transformers"
)
_TRAIN = "The base is frozen for all its clients: train adapters, and keep it out of modules_to_save and bias"
_RETYPE = (
    "The daemon computes in its own dtype for all its clients. Use torch.autocast, or a daemon that was started "
    "with the other dtype; adapters may have any dtype"
)


class FrozenWeight(nn.Parameter):
    """A parameter without values. `label` says whose it is: `model.layers.0.self_attn.q_proj.weight`."""

    label: str

    @classmethod
    def of(cls, shape: Iterable[int], dtype: torch.dtype, device: torch.device | str, label: str) -> FrozenWeight:
        """Returns a placeholder; it takes the memory of one element."""
        return cls._guard(torch.full((), torch.nan, dtype=dtype, device=device).expand(*shape), label)

    @classmethod
    def _guard(cls, data: torch.Tensor, label: str) -> FrozenWeight:
        weight = data if isinstance(data, FrozenWeight) else cls(data, requires_grad=False)
        weight.label = label
        return weight

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenWeight:
        copied: FrozenWeight = memo.setdefault(id(self), self.detach())
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise _refusal(self, "saving or pickling it")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"FrozenWeight({self.label}, {tuple(self.shape)}, {self.dtype}, device={self.device})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        first = args[0] if args else None
        with torch._C.DisableTorchFunctionSubclass():
            if name == "__get__":
                return _get(func, *args)
            if name == "__set__":
                return _set(func, *args)
            if name in _QUESTIONS or (name in _PATTERNS and not isinstance(first, FrozenWeight)):
                return func(*args, **kwargs)
            if name in _VIEWS and isinstance(first, FrozenWeight):
                return cls._guard(func(*args, **kwargs), first.label)
            if name in _MOVES and isinstance(first, FrozenWeight):
                return _move(func, first, args[1:], kwargs)
            if name == "requires_grad_" and False in (*args[1:], *kwargs.values()):
                return first
        raise _refusal(_find((args, kwargs)), f"torch's {name}()", _TRAIN if name == "requires_grad_" else _LEND)


def _get(func: Any, weight: FrozenWeight, *_: Any) -> Any:
    """Reads a property. Whatever tensor it gives (`data`, `T`) is a placeholder again."""
    attribute = func.__self__.__name__
    if attribute.startswith("__"):  # the array interfaces
        raise _refusal(weight, f"reading {attribute}")
    value = func(weight)
    return FrozenWeight._guard(value, weight.label) if isinstance(value, torch.Tensor) else value


def _set(func: Any, target: FrozenWeight, value: Any) -> None:
    """Sets a property: only what changes no value and asks for no gradient."""
    attribute = func.__self__.__name__
    if attribute == "requires_grad":
        if value:
            raise _refusal(target, "setting requires_grad", _TRAIN)
    elif attribute == "data":
        if not (isinstance(value, FrozenWeight) and value.shape == target.shape):
            raise _refusal(target, "setting its data")
    elif value is not None:
        raise _refusal(target, f"setting its {attribute}")
    func(target, value)


def _move(func: Any, weight: FrozenWeight, args: Any, kwargs: dict[str, Any]) -> Any:
    """Does to the one element what was asked for the whole."""
    moved = func(weight.as_strided((), ()), *args, **kwargs)
    if not isinstance(moved, torch.Tensor):  # type() without an argument
        return moved
    if moved.dtype != weight.dtype:
        raise _refusal(weight, f"converting it to {moved.dtype}", _RETYPE)
    if moved.device == weight.device and func is not torch.Tensor.clone:
        return weight
    return FrozenWeight._guard(moved.expand(weight.shape), weight.label)


def _find(values: Any) -> FrozenWeight:
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, FrozenWeight):
            return value
        if isinstance(value, tuple | list):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
    raise AssertionError("torch dispatched to FrozenWeight without one among the arguments")


def _refusal(weight: FrozenWeight, attempt: str, remedy: str = _LEND) -> UsageError:
    return UsageError(
        f"{weight.label}: {attempt} is not possible, for its values are in the daemon and only its shape is here. "
        f"{remedy}"
    )
