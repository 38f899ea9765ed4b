"""The values behind a placeholder, for what only reads them: as they are lent, for this once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from symbiosis_adapters.weights.lenders import NOBODY, in_own_type
from symbiosis_adapters.weights.refusals import refusal
from symbiosis_adapters.weights.valueless import Valueless, root_of
from symbiosis_core.errors import RefusedError, RemoteProtocolError

__all__ = ["checked", "lasting", "lent", "placeholders_in", "read", "values_of", "with_values", "withheld"]


def read(weight: Valueless) -> torch.Tensor:
    """Returns the lent values. Torch functions are off.

    Raises:
        RefusedError: the daemon does not lend.
    """
    return _as_held(weight).to(weight.dtype)


def _as_held(weight: Valueless) -> torch.Tensor:
    """Returns the lent values before a cast of the whole weight, so that only what is wanted of it is cast."""
    if weight._shown is not None:
        return weight._shown
    if weight._origin is not None:
        whole, make = weight._origin
        return make(_as_held(whole) if whole.dtype is weight.dtype else read(whole))
    if weight.computed is not None and (weight.lending or NOBODY).withheld:
        return weight.computed().to(weight.device)
    try:
        return checked(weight, in_own_type(weight.lending).frozen(weight.label), weight.held or weight.dtype)
    except RefusedError:
        if weight.computed is None:
            raise
        return weight.computed().to(weight.device)


def lasting(weight: Valueless) -> torch.Tensor:
    """Returns the lent values where they stay, for who asks for their address. Torch functions are off.

    What was cast or moved has none until then, and views of one weight lie in the same memory. A copy does not:
    whoever saves tied weights clones all but one, for a file may not hold one memory twice. It costs none, for it
    is another mapping of the same pages.
    """
    if weight._shown is None:
        if weight._origin is not None:
            weight._shown = weight._origin[1](lasting(weight._origin[0]))
        elif weight._apart:
            weight._shown = _apart(weight)
        else:
            weight._shown = read(weight)
    return weight._shown


def _apart(weight: Valueless) -> torch.Tensor:
    """Returns the values of a copy, at an address that nobody else has."""
    try:
        return checked(weight, (weight.lending or NOBODY).private(weight.label), weight.dtype)
    except RefusedError:
        return read(weight).clone()  # what the daemon computes it may have, all the same


def checked(weight: Valueless, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns what was lent for `weight`, on its device.

    Raises:
        RemoteProtocolError: it has another shape, or another type than `dtype`.
    """
    if (values.shape, values.dtype) != (weight.shape, dtype):
        raise RemoteProtocolError(
            f"the daemon lent {weight.label} as {tuple(values.shape)} {values.dtype}, "
            f"not {tuple(weight.shape)} {dtype}"
        )
    return values.to(weight.device)


def withheld(weight: Valueless) -> bool:
    """Whether the values cannot be had; asks where nobody has asked yet."""
    lending = weight.lending or NOBODY
    if not lending.withheld:
        try:
            in_own_type(lending).frozen(root_of(weight).label)
        except RefusedError:
            return True
    return lending.withheld


def lent(weight: Valueless, attempt: str, remedy: str, action: Callable[[], Any]) -> Any:
    """Does what needs the values.

    Raises:
        UsageError: they are not lent; it names `attempt` and `remedy`.
    """
    try:
        return action()
    except RefusedError as error:
        raise refusal(weight.label, attempt, remedy, error) from None


def values_of(
    weight: Valueless, attempt: str, remedy: str, get: Callable[[Valueless], torch.Tensor] = read
) -> Any:
    """Returns what `get` gets of `weight`, or raises as `lent` does."""
    with torch._C.DisableTorchFunctionSubclass():
        return lent(weight, attempt, remedy, partial(get, weight))


def with_values(values: Any, attempt: str, remedy: str) -> Any:
    """Returns `values` with lent ones in the place of placeholders, in tuples, lists and dicts too."""
    if isinstance(values, Valueless):
        return values_of(values, attempt, remedy)
    if isinstance(values, dict):
        return {key: with_values(each, attempt, remedy) for key, each in values.items()}
    if type(values) in (tuple, list):
        return type(values)([with_values(each, attempt, remedy) for each in values])
    return values


def placeholders_in(values: Any) -> Iterator[Valueless]:
    """Yields the placeholders in `values`, in tuples, lists and dicts too."""
    if isinstance(values, Valueless):
        yield values
    elif isinstance(values, tuple | list):
        for each in values:
            yield from placeholders_in(each)
    elif isinstance(values, dict):
        yield from placeholders_in(list(values.values()))
