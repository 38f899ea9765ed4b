"""An autograd.Function of somebody's own, and deferred tensors.

`apply` ties its graph to the very tensors that it is given, in C++ that never asks Python; so they must be values.
Models write such functions (Bloom's GELU), PEFT does, and users do. Their `apply` is wrapped once in a process:
what is deferred among the arguments is computed first. A function that is given none notices nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from symbiosis_adapters.deferred.tensor import Deferred, value_of

__all__ = ["give_functions_values"]

_apply: Final[Any] = torch.autograd.Function.apply


def give_functions_values() -> None:
    """Has every autograd.Function of this process be given values. May be called again."""
    # torch types `apply` as a method that is never assigned; ours takes and gives the same.
    torch.autograd.Function.apply = classmethod(_apply_to_values)  # type: ignore[assignment,method-assign]


def _apply_to_values(cls: Any, *args: Any, **kwargs: Any) -> Any:
    if Deferred in map(type, args):
        args = tuple([value_of(arg) if type(arg) is Deferred else arg for arg in args])
    return _apply.__func__(cls, *args, **kwargs)
