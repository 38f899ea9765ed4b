"""A model on the meta device: its modules stand, and none of its tensors is there.

So nothing large is ever allocated, and no random number is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from symbiosis_adapters.layers.modules import form
from symbiosis_adapters.model.configuration import configure
from symbiosis_adapters.model.heads import Head, Places
from symbiosis_adapters.model.ties import untie
from symbiosis_adapters.trips.cut import Plan
from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.specs import ModelSpec, TensorKind
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Skeleton", "no_such_parameter"]


class Skeleton(NamedTuple):
    """The model of a catalogue, where in it stands what the daemon names, and what is to become remote."""

    model: PreTrainedModel
    places: Places
    planned: Plan

    @classmethod
    def of(cls, spec: ModelSpec, head: Head, planned: Plan) -> Skeleton:
        """Returns the skeleton of a catalogue's model with that head; what the daemon has not tied is untied.

        Raises:
            UsageError: this transformers cannot build it, or the head's configuration does not fit the base.
        """
        config = configure(spec, head)
        with torch.device("meta"):
            model = head.model(config, torch_dtype(spec.dtype))
        places = Places(model)
        untie(model, _parameters(spec), spec.ties, places.path)
        return cls(model, places, planned)

    def layers(self) -> dict[str, nn.Module]:
        """Returns the layers of the catalogue that this model has, by the daemon's path.

        Raises:
            RemoteProtocolError: one of them is no such layer here.
        """
        layers = dict(self.model.named_modules(remove_duplicate=False))
        found = {}
        for path, op in self.planned.ops.items():
            if (here := self.places.path(path)) is None:
                continue
            layer = layers.get(here)
            if layer is None or form(layer) != (op.kind, op.width_in, op.width_out):
                raise RemoteProtocolError(
                    f"{path} is an op of the daemon, but no layer of {type(self.model).__name__}"
                )
            found[path] = layer
        return found

    def experts(self) -> Iterator[tuple[str, nn.Module, str]]:
        """Yields the stacked experts that this model has: the daemon's path, and whose parameter of what name.

        Raises:
            RemoteProtocolError: one of them is no parameter here.
        """
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        for path in self.planned.experts:
            if (here := self.places.path(path)) is None:
                continue
            if here not in parameters:
                raise no_such_parameter(path, self.model)
            owner, _, leaf = here.rpartition(".")
            yield path, self.model.get_submodule(owner), leaf


def no_such_parameter(path: str, model: PreTrainedModel) -> RemoteProtocolError:
    """Returns the error for experts that fit nothing in the model."""
    return RemoteProtocolError(f"{path} is ops of the daemon, but no such parameter of {type(model).__name__}")


def _parameters(spec: ModelSpec) -> Iterator[str]:
    """Yields what the daemon calls every parameter: of its layers, whether they have it or not, and the others."""
    for op in spec.ops:
        leaves = ("",) if op.expert >= 0 else (".weight", ".bias")
        yield from (f"{path}{leaf}" for path in op.members for leaf in leaves)
    yield from (tensor.name for tensor in spec.tensors if tensor.kind is TensorKind.PARAMETER)
