"""Products of rows with a placeholder that is not lent: which functions of torch make them, as trips."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_adapters.weights.factors import Factor
from symbiosis_adapters.weights.refusals import LEND
from symbiosis_adapters.weights.valueless import Valueless
from symbiosis_adapters.weights.values import with_values, withheld

__all__ = ["PRODUCTS", "factor_of", "product"]

PRODUCTS: Final = {"mm": 1, "matmul": 1, "__matmul__": 1, "linear": 1, "addmm": 2, "addmm_": 2}
"""The functions of torch that multiply rows by a matrix, and where among their arguments that stands."""
_NAMED: Final = frozenset({"alpha", "beta", "bias", "out"})


def factor_of(weight: Valueless) -> Factor | None:
    """Returns what `weight` is in a product that the daemon can compute. Torch functions are off."""
    if weight._origin is None:
        return None if weight.multiplier is None else weight.multiplier.factor()
    whole, make = weight._origin
    factor = factor_of(whole)
    return None if factor is None else factor.seen(make)


def product(name: str, args: Any, kwargs: dict[str, Any], attempt: str) -> Any:
    """Returns what a function among `PRODUCTS` makes of rows and a weight that is not lent.

    NotImplemented where the values serve, or must. `attempt` says what for, should other weights be read for it.

    Raises:
        UsageError: another argument is a weight that is not lent, too.
        RuntimeError: the element types or widths do not fit, as with a matrix that is here.
    """
    place = PRODUCTS[name]
    matrix = args[place] if len(args) > place else None
    if not isinstance(matrix, Valueless) or not withheld(matrix):
        return NotImplemented
    if isinstance(args[place - 1], Valueless) or (factor := factor_of(matrix)) is None:
        return NotImplemented
    before, after, named = [with_values(each, attempt, LEND) for each in (args[:place], args[place + 1 :], kwargs)]
    return _multiplied(name, (*before, factor, *after), named, matrix.dtype)


def _multiplied(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
    """Returns what a function among `PRODUCTS` makes of rows and a factor; NotImplemented for anything else.

    `dtype` is the element type of the matrix, to those who see it. With a `beta` of 0 nothing is read of what the
    product would be added to, so memory that nobody has written will do.

    Raises:
        RuntimeError: the element types or widths do not fit, as with a matrix that is here.
    """
    place = PRODUCTS[name]
    x, matrix = args[place - 1 : place + 1]
    bias = kwargs.get("bias", args[2] if name == "linear" and len(args) > 2 else None)
    if not isinstance(x, Tensor) or not kwargs.keys() <= _NAMED:
        return NotImplemented
    y = _times(x, matrix.transposed() if name == "linear" else matrix, dtype, kwargs.get("out"))
    if bias is not None:
        y = y + bias
    if place == 2:
        added, alpha, beta = args[0], kwargs.get("alpha", 1), kwargs.get("beta", 1)
        if name == "addmm_":
            return (added.mul_(beta) if beta else added.zero_()).add_(y, alpha=alpha)
        y = torch.add(added * beta, y, alpha=alpha) if beta else y * alpha
    out = kwargs.get("out")
    return y if out is None else out.copy_(y)


def _times(x: Tensor, factor: Factor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    device = x.device.type
    if torch.is_autocast_enabled(device) and out is None:
        dtype = torch.get_autocast_dtype(device)
    elif x.dtype != dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {x.dtype} != {dtype}")
    return factor.times(x, dtype)
