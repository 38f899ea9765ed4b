"""Whether a model may have got a hook of which a captured graph knows nothing.

torch.compile can guard every module's tables of hooks, and then looks at all of them in every step: 1 ms of a
token of SmolLM2. Every hook that is registered, on whatever, draws a number, and modules that are set into others
are told to whoever asks for it, but for those of `ModuleList.insert`; where such a one is used, the step is traced
anew, for torch's guards know the modules. While neither has happened, nothing has to be looked at. A hook may
stand on a module that a forward uses and its model does not name, so a number that was drawn is a hook.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook, register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

__all__ = ["Hooks"]

_TABLES: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_placed: list[int] = []
"""How many modules were set into others since somebody counts; empty: nobody does."""


class Hooks:
    """What is known of one model's hooks. Those of the model itself do not count: they are not in its graph."""

    def __init__(self) -> None:
        _count_modules()
        self._drawn = self._settled = -1

    def inside(self, model: nn.Module) -> bool:
        """Whether there is one now."""
        self._drawn, self._settled = RemovableHandle.next_id, _placed[0]
        return _found(model)

    def may_have_come(self, model: nn.Module) -> bool:
        """Whether there may be one, where `inside` found none before."""
        if self._drawn != RemovableHandle.next_id:
            return True
        if self._settled != _placed[0]:  # a module may have brought one along
            self._settled = _placed[0]
            return _found(model)
        return False


def _found(model: nn.Module) -> bool:
    inside = (vars(module) for module in model.modules() if module is not model)
    return _has_any_global_hook() or any(state[table] for state in inside for table in _TABLES)


def _count_modules() -> None:
    """Counts, once begun for as long as the process lives."""
    if not _placed:
        _placed.append(0)
        register_module_module_registration_hook(_count)


def _count(*_: Any) -> None:
    if not torch.compiler.is_compiling():  # a trace that took notice of the number would fit once
        _placed[0] += 1
