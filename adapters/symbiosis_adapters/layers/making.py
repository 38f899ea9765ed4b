"""How a layer becomes remote: in place, so that every reference to it, its hooks and its attributes stay.

An embedding with a forward of its own (it scales, or shifts positions) keeps it, as long as that asks
`super().forward`; one that reads the table itself is refused. A linear with a forward of its own loses it: the
daemon lends only those that it saw compute x W^T + b.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.layers.modules import RemoteConv1D, RemoteEmbedding, RemoteLayer, RemoteLinear
from symbiosis_adapters.layers.trained import Body
from symbiosis_adapters.trips.remote import FrozenLinear
from symbiosis_adapters.weights.factors import Multiplier
from symbiosis_adapters.weights.lenders import Lending
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import RemoteProtocolError, UsageError

__all__ = ["make_remote", "remote_class"]

_REMOTE: dict[type[nn.Module], type[RemoteLayer]] = {
    nn.Linear: RemoteLinear,
    Conv1D: RemoteConv1D,
    nn.Embedding: RemoteEmbedding,
}


def make_remote(
    layer: nn.Module,
    path: str,
    remote: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype,
    placeholders: dict[int, FrozenWeight],
    lending: Lending | None = None,
    body: Body | None = None,
) -> None:
    """Turns a layer into a remote one, in place.

    `placeholders` maps the id of a former parameter to what stands for it now: weights that were tied stay tied,
    so that a model counts its parameters as plain transformers does. `lending` has the real ones.
    `body` are all layers of the model, where ops may be deferred.

    Raises:
        UsageError: an embedding reads its table by itself, or renormalizes it.
        RemoteProtocolError: the layer is neither a linear nor an embedding.
    """
    if getattr(layer, "max_norm", None) is not None:
        raise UsageError(f"{path} renormalizes its table in every forward (max_norm), which a frozen base forbids")
    layer.__class__ = remote_class(type(layer))
    assert isinstance(layer, RemoteLayer)
    layer.remote, layer.remote_path, layer.labels = remote, path, {}
    for leaf, old in layer._parameters.items():
        if old is not None:
            if id(old) not in placeholders:
                placeholders[id(old)] = FrozenWeight.of(old.shape, dtype, "cpu", f"{path}.{leaf}", lending)
            layer._parameters[leaf] = placeholders[id(old)]
            layer.labels[leaf] = placeholders[id(old)].label
    if isinstance(layer, RemoteEmbedding) and lending is not None:
        layer.takes = lending.takes
    if body is not None:
        layer.body = body
        body.join(layer)
    _let_multiply(layer)


def _let_multiply(layer: RemoteLayer) -> None:
    """Tells a linear's placeholders by what they can be multiplied, should the daemon not lend them."""
    weight, bias, op = layer.weight, layer._parameters.get("bias"), layer._alone
    if isinstance(weight, FrozenWeight) and isinstance(op, FrozenLinear):
        weight.multiplier = Multiplier(op, biased=bias is not None, across=isinstance(layer, Conv1D))
        if isinstance(bias, FrozenWeight):
            bias.computed = weight.multiplier.bias


def remote_class(cls: type[nn.Module]) -> type[RemoteLayer]:
    """Returns the remote form of a layer's class.

    Raises:
        UsageError: an embedding whose forward reads the table itself.
        RemoteProtocolError: nothing of the kind can be remote.
    """
    if cls not in _REMOTE:
        base = next((base for base in (nn.Linear, Conv1D, nn.Embedding) if issubclass(cls, base)), None)
        if base is None:
            raise RemoteProtocolError(f"the daemon offers a {cls.__name__} as an op, not a linear or embedding")
        bases: tuple[type[nn.Module], ...] = (_REMOTE[base], cls)
        if base is nn.Embedding:
            _check_forwards(cls)
            bases = (cls, RemoteEmbedding)
        members = {"__module__": cls.__module__, "__reduce__": _reduced}
        _REMOTE[cls] = type(f"Remote{cls.__name__}", bases, members)
    return _REMOTE[cls]


def _reduced(layer: RemoteLayer) -> str | tuple[Any, ...]:
    """See `object.__reduce__`. A layer of another class since, such as a parametrized one, is not ours."""
    for cls, remote in _REMOTE.items():
        if remote is type(layer):
            return _unbuilt, (cls,), vars(layer)
    return nn.Module.__reduce_ex__(layer, 2)


def _unbuilt(cls: type[nn.Module]) -> RemoteLayer:
    """Returns what a pickled layer is filled into: no module has a class by that name, which was made here."""
    remote = remote_class(cls)
    return remote.__new__(remote)


def _check_forwards(cls: type[nn.Module]) -> None:
    for owner in cls.__mro__[: cls.__mro__.index(nn.Embedding)]:
        forward = owner.__dict__.get("forward")
        if forward is None:
            continue
        code = inspect.unwrap(forward).__code__
        if "forward" not in code.co_names or "__class__" not in code.co_freevars:
            raise UsageError(
                f"{owner.__module__}.{owner.__qualname__} reads its table in a forward of its own, so it cannot "
                "be an op; the daemon has to serve the table as a tensor"
            )
