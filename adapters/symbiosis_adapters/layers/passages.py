"""Frozen modules whose whole forward is row-wise: recorded once, then passed through in one step.

A norm makes eight nodes and an MLP five, each of them a function call that torch dispatches to us. After the first
forward it is known what such a module does to a deferred tensor; from then on its forward adds one node, a
*passage*, that stands for all of them. A passage is only taken where nothing can have changed since: the same
submodules and parameters, still frozen and unmodified, the same plain attributes, no hooks inside. A module that
does anything else in its forward (asks for a size, needs a value, brings in another tensor) has none, nor has one
with a module inside that was not there when the model was built: an adapter may be idle only for now.

The class of a module is exchanged for a subclass of the same name, as with remote layers: a wrapper in the
instance would still belong to the original after a deep copy.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as every_module

from symbiosis_adapters.deferred.recording import Passage
from symbiosis_adapters.deferred.tensor import Deferred, pending
from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.vectors import Known
from symbiosis_adapters.recorded.watching import derivations, watch, watched
from symbiosis_adapters.weights.placeholder import FrozenWeight

__all__ = ["add_passages"]

_MOST_MODULES: Final = 12
"""Inside of a module that may be passed: more are checked more slowly than they are recorded."""
_MOST_FAILURES: Final = 3
_classes: dict[type[nn.Module], type[nn.Module]] = {}


def add_passages(model: nn.Module, deferral: Deferral) -> None:
    """Lets the modules of `model` be passed in one step, where their forwards turn out to allow it."""
    for module in model.modules():
        if not isinstance(module, RemoteLayer) and _takes_one_tensor(module):
            module.__dict__["symbiosis_passages"] = _Passages(deferral)
            module.__class__ = _passable(type(module))


def _takes_one_tensor(module: nn.Module) -> bool:
    """Whether a module may be one that is passed: small, and with a forward of one argument."""
    if sum(1 for _ in module.modules()) > _MOST_MODULES:
        return False
    parameters = list(inspect.signature(type(module).forward).parameters.values())
    return len(parameters) == 2 and all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)


def _passable(cls: type[nn.Module]) -> type[nn.Module]:
    if cls not in _classes:
        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _classes[cls] = type(cls.__name__, (_Passable, cls), named)
    return _classes[cls]


class _Part(NamedTuple):
    """What a module inside was like when the forward was recorded."""

    module: nn.Module
    children: tuple[nn.Module | None, ...]
    parameters: tuple[tuple[Any, type, torch.dtype | None], ...]
    """With their types: a placeholder that was taken is the same object, and no placeholder any more; and with
    their element types, for either may have been cast."""
    vectors: tuple[Known, ...]
    """Of the parameters those that have values: a remote layer's have none."""
    attributes: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, module: nn.Module, deferral: Deferral) -> _Part:
        parameters = tuple([(each, type(each), _dtype_of(each)) for each in module._parameters.values()])
        vectors = tuple([known for each, _, _ in parameters if (known := deferral.vectors.of(each)) is not None])
        attributes = tuple([(k, v) for k, v in vars(module).items() if type(v) in (bool, int, float, str)])
        return cls(module, tuple(module._modules.values()), parameters, vectors, attributes)

    def same(self) -> bool:
        module = self.module
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        state = module.__dict__
        for name, value in self.attributes:
            if state.get(name) != value:
                return False
        children, parameters = module._modules, module._parameters
        if len(children) != len(self.children) or len(parameters) != len(self.parameters):
            return False
        for child, before in zip(children.values(), self.children, strict=True):
            if child is not before:
                return False
        for now, (then, kind, dtype) in zip(parameters.values(), self.parameters, strict=True):
            if now is not then or type(now) is not kind or _dtype_of(now) is not dtype:
                return False
        for known in self.vectors:
            if not known.still() or known.vector is None or known.vector.requires_grad:
                return False
        return True


def _dtype_of(parameter: Any) -> torch.dtype | None:
    """Returns the element type of a vector; of a placeholder the daemon's, where its own is wider: else None."""
    if isinstance(parameter, FrozenWeight):  # asked without a call of torch's functions, which is dear
        return parameter.held
    return None if parameter is None else parameter.dtype


class _Known(NamedTuple):
    """A forward that was recorded."""

    passage: Passage
    parts: tuple[_Part, ...]

    def holds(self) -> bool:
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return False
        return all(part.same() for part in self.parts)


class _Passages:
    """What is known of one module, by the rank and the type of what it is given. Copies begin anew."""

    __slots__ = ("deferral", "failures", "known")

    def __init__(self, deferral: Deferral) -> None:
        self.deferral = deferral
        self.known: dict[tuple[int, torch.dtype], _Known] = {}
        self.failures = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Passages:
        return _Passages(self.deferral)


class _Passable(nn.Module):
    """A module that knows passages."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or type(args[0]) is not Deferred or not pending(args[0]):
            return super().forward(*args, **kwargs)
        x = args[0]
        passages: _Passages = self.__dict__["symbiosis_passages"]
        key = (len(x._shape), x._dtype)
        known = passages.known.get(key)
        if known is not None:
            if known.holds():
                passed = passages.deferral.passage(known.passage, x)
                return super().forward(x) if passed is None else passed
            del passages.known[key]
            passages.failures += 1
        if passages.failures >= _MOST_FAILURES:
            return super().forward(x)
        before = watch(passages.deferral, x)
        if before is None:
            return super().forward(x)
        with derivations(passages.deferral):
            output = super().forward(x)
        self._learn(passages, key, watched(passages.deferral, before, x, output))
        return output

    def _learn(self, passages: _Passages, key: tuple[int, torch.dtype], passage: Passage | None) -> None:
        parts = tuple([_Part.of(module, passages.deferral) for module in self.modules()])
        # A module that came later, such as a tuner's layer, may do something else tomorrow.
        ours = all(isinstance(module, RemoteLayer | _Passable) for module in self.modules())
        if passage is None or not ours or not all(part.same() for part in parts):
            passages.failures += 1
        else:
            passages.known[key] = _Known(passage, parts)
