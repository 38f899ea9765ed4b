"""A class of parameters of somebody's own that is made of a placeholder, such as bitsandbytes' quantised ones.

It shares the memory of what it is given, in C++ that never asks Python, and would find a NaN. So the call of such
a class is wrapped, once in a process: it is given values, in memory of its own. `nn.Parameter` itself asks.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from symbiosis_adapters.weights.refusals import LEND
from symbiosis_adapters.weights.valueless import Valueless
from symbiosis_adapters.weights.values import read, values_of

__all__ = ["give_parameters_values"]

_Kinds: Final[Any] = type(nn.Parameter)


def give_parameters_values() -> None:
    """Has every class of parameters in this process be given values. May be called again."""
    _Kinds.__call__ = _made_of_values


def _made_of_values(cls: Any, *args: Any, **kwargs: Any) -> Any:
    if cls is not nn.Parameter:
        args = tuple([_valued(cls, each) for each in args])
        kwargs = {name: _valued(cls, each) for name, each in kwargs.items()}
    return super(_Kinds, cls).__call__(*args, **kwargs)


def _valued(cls: type[Any], given: Any) -> Any:
    if not isinstance(given, Valueless):
        return given
    return values_of(given, f"making a {cls.__name__} of it", LEND, lambda weight: read(weight).clone())
