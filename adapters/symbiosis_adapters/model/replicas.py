"""Models that several processes train together, or one process on several devices.

`DistributedDataParallel` gives every process what the first one has, and averages gradients. The base is the same
for all of them, frozen, and mostly elsewhere: it is left out, by torch's own list of what to leave out. What a
client has beside it (adapters, a head, buffers of its own) is given and averaged as ever. `DataParallel` copies a
model by C++ that would find placeholders, so it is refused.

Both are wrapped once in a process. A model without a shared base notices nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parallel import distributed as ddp

from symbiosis_adapters.deferred.tensor import values_in
from symbiosis_core.errors import UsageError

__all__ = ["mark_base", "share_with_replicas"]

_MARK: Final = "symbiosis_base"
_find_tensors: Final[Callable[[Any], Any]] = ddp._find_tensors


def mark_base(base: nn.Module, beside: Iterator[nn.Module]) -> None:
    """Notes which modules are the base's, before anybody adds adapters. Those `beside` it are the client's."""
    own = {id(module) for module in beside}
    for module in base.modules():
        if id(module) not in own:
            module.__dict__[_MARK] = True


def share_with_replicas() -> None:
    """Has torch's wrappers for several processes know shared bases. May be called again."""
    if getattr(DistributedDataParallel.__init__, _MARK, False):
        return
    _before(DistributedDataParallel, _leave_base_out)
    _after(DataParallel, _refuse)
    ddp._find_tensors = _find_values


def _before(cls: Any, action: Callable[[nn.Module], None]) -> None:
    plain = cls.__init__

    @functools.wraps(plain)
    def initialize(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        action(module)
        plain(self, module, *args, **kwargs)

    vars(initialize)[_MARK] = True
    cls.__init__ = initialize


def _after(cls: Any, action: Callable[[Any], None]) -> None:
    plain = cls.__init__

    @functools.wraps(plain)
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        action(self)

    cls.__init__ = initialize


def _leave_base_out(module: nn.Module) -> None:
    names = {*getattr(module, "_ddp_params_and_buffers_to_ignore", ()), *_of_base(module)}
    if names:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def _of_base(module: nn.Module) -> Iterator[str]:
    """Yields the names of what the base has, all of them: a tied weight has several."""
    for path, part in module.named_modules(remove_duplicate=False):
        if _MARK in part.__dict__ and ".modules_to_save." not in path:  # where PEFT keeps a client's own copies
            held: dict[str, Tensor | None] = {**part._parameters, **part._buffers}
            for name, tensor in held.items():
                if tensor is not None and not tensor.requires_grad:
                    yield f"{path}.{name}".lstrip(".")


def _find_values(output: Any) -> Any:
    """Finds the tensors by whose graphs torch tells which parameters were used: a deferred one has no graph."""
    return [values_in(tensor) for tensor in _find_tensors(output)]


def _refuse(replicated: DataParallel[Any]) -> None:
    if len(replicated.device_ids) > 1 and any(_MARK in part.__dict__ for part in replicated.module.modules()):
        raise UsageError(
            f"DataParallel copies a model to {len(replicated.device_ids)} devices, and the base of this one is in "
            "a daemon. Show the process one GPU (CUDA_VISIBLE_DEVICES=0), or start a process for each with "
            "`accelerate launch` or torchrun: they share the base"
        )
