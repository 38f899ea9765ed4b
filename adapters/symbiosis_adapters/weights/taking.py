"""Taking a weight: what stood for it becomes an ordinary parameter, over memory of this process's own.

Its layer is computed here from then on (`RemoteLayer`), for nobody can know what the weight holds now.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from symbiosis_adapters.weights.lenders import NOBODY
from symbiosis_adapters.weights.refusals import LEND, asker
from symbiosis_adapters.weights.valueless import Valueless, note_change, root_of
from symbiosis_adapters.weights.values import checked, lent, read
from symbiosis_core.errors import DaemonGoneError, RefusedError

__all__ = ["lent_copy", "take"]


def take(weight: Valueless, attempt: str, remedy: str = LEND) -> None:
    """Makes a placeholder, in place, an ordinary parameter over memory of this process's own.

    What it is a view of is taken with it, and so are all other views of that.

    Raises:
        UsageError: the daemon does not lend. `attempt` says what the values were wanted for.
    """
    root = root_of(weight)
    lending = root.lending or NOBODY
    note_change()
    with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(False), torch.no_grad():
        values = lent(root, attempt, remedy, lambda: checked(root, lending.private(root.label), root.dtype))
        _become(root, values, nn.Parameter if root._is_param else torch.Tensor)
    if root._is_param:  # a copy is no layer's
        lending.takes.note(values.nbytes, asker())


def _become(weight: Valueless, values: torch.Tensor, kind: type[torch.Tensor]) -> None:
    views = [view for known in weight._views if (view := known()) is not None]
    weight.data = values
    weight.__class__ = kind  # type: ignore[assignment]  # modules and optimizers hold this very object
    for view in views:
        assert view._origin is not None  # it is a view
        _become(view, view._origin[1](weight), kind)
    for attribute in ("label", "lending", "multiplier", "computed", "_origin", "_views", "_shown", "_apart"):
        vars(weight).pop(attribute, None)


def lent_copy(weight: Valueless) -> torch.Tensor | None:
    """Returns the values in memory that nobody else has; None where they cannot be had, which is tried only once.

    The placeholder stays one.
    """
    lending = weight.lending or NOBODY
    if lending.withheld:
        return None
    root = root_of(weight)
    with torch._C.DisableTorchFunctionSubclass(), contextlib.suppress(RefusedError, DaemonGoneError):
        return checked(root, lending.private(root.label), root.dtype) if root is weight else read(weight).clone()
    return None
