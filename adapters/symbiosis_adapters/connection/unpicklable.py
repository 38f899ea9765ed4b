"""A model on a shared base cannot be pickled, and says so before any weight is written.

`torch.save(model)` pickles the model's attributes in their order; so what refuses is the first of them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from symbiosis_core.errors import UsageError

__all__ = ["CANNOT_BE_PICKLED", "refuse_pickling"]

CANNOT_BE_PICKLED = (
    "a model on a shared base cannot be pickled, it holds a connection; save the adapter with "
    "save_pretrained, or call from_pretrained in the other process"
)


class _Unpicklable:
    """Can be copied, and not pickled."""

    def __copy__(self) -> _Unpicklable:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Unpicklable:
        return self

    def __reduce__(self) -> str:
        raise UsageError(CANNOT_BE_PICKLED)


def refuse_pickling(model: nn.Module) -> None:
    """Has every attempt to pickle `model`, or what it is part of, end before its weights are looked at."""
    attributes = dict(vars(model))
    vars(model).clear()
    vars(model).update({"symbiosis_unpicklable": _Unpicklable(), **attributes})
