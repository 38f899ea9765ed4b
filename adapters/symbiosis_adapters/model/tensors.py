"""The tensors that a client has itself, in the place of those on meta: fetched, mapped, or lent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from symbiosis_adapters.model.skeleton import Skeleton
from symbiosis_adapters.model.ties import share_vectors
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.weights.lending import BorrowedWeights, Lender
from symbiosis_core.errors import RefusedError, RemoteProtocolError
from symbiosis_core.specs import ModelSpec, TensorKind, TensorSpec

__all__ = ["Fetch", "mapping_large", "refuse_what_is_left", "set_lent", "set_tensors"]

LARGE_BYTES = 1 << 20
"""Tensors that a client keeps are mapped from this size on, rather than fetched and held by each."""
Fetch = Callable[[TensorSpec], torch.Tensor]


def set_lent(skeleton: Skeleton, weights: BorrowedWeights, fetch: Fetch) -> Fetch:
    """Gives the layers of the catalogue their lent weights. Returns who has the model's other tensors."""
    lent: dict[int, nn.Parameter] = {}
    alive: list[torch.Tensor] = []  # former parameters, so that no id is used twice
    for path, layer in skeleton.layers().items():
        for leaf, old in layer._parameters.items():
            if old is None:
                continue
            if id(old) not in lent:
                lent[id(old)] = nn.Parameter(weights.frozen(f"{path}.{leaf}"), requires_grad=False)
                alive.append(old)
            layer._parameters[leaf] = lent[id(old)]
    for path, owner, leaf in skeleton.experts():
        owner._parameters[leaf] = nn.Parameter(weights.frozen(path), requires_grad=False)
    share_vectors(skeleton.model, lent)
    return lambda tensor: weights.frozen(tensor.name) if tensor.name in weights else fetch(tensor)


def mapping_large(lender: Lender | None, fetch: Fetch) -> Fetch:
    """Returns who has the model's other tensors: large ones, such as experts, are mapped where they are lent."""
    if lender is None:
        return fetch

    def value(tensor: TensorSpec) -> torch.Tensor:
        if tensor.nbytes >= LARGE_BYTES:
            with contextlib.suppress(RefusedError):
                if tensor.name in (weights := lender.weights()):
                    return weights.private(tensor.name)
        return fetch(tensor)

    return value


def set_tensors(skeleton: Skeleton, spec: ModelSpec, fetch: Fetch, deferral: Deferral | None) -> None:
    """Replaces what is on meta by the daemon's tensors, wherever the same object is used.

    Raises:
        RemoteProtocolError: the catalogue has a tensor that this model has not.
    """
    model, places = skeleton.model, skeleton.places
    named: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    layers = skeleton.layers().values()
    of_layers = {id(held) for layer in layers for held in layer._parameters.values() if held is not None}
    fetched: dict[int, torch.Tensor] = {}
    for tensor in spec.tensors:
        if (here := places.path(tensor.name)) is None:
            continue
        old = (named if tensor.kind is TensorKind.PARAMETER else buffers).get(here)
        if old is None or tuple(old.shape) != tensor.shape:
            raise RemoteProtocolError(
                f"{tensor.name} {tensor.shape} is no {tensor.kind} of {type(model).__name__}"
            )
        if id(old) in of_layers:  # see `share_vectors`
            continue
        if id(old) not in fetched:
            value = fetch(tensor)
            is_parameter = tensor.kind is TensorKind.PARAMETER
            fetched[id(old)] = nn.Parameter(value, requires_grad=False) if is_parameter else value
            if deferral is not None:
                deferral.vectors.add(fetched[id(old)], tensor)
    for module in model.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for holder in holders:
            holder.update({key: fetched[id(old)] for key, old in holder.items() if id(old) in fetched})


def refuse_what_is_left(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Raises RemoteProtocolError if anything is left on meta: it would fail much later and far away."""
    left = sorted(set(_meta_names(model)))
    if left:
        raise RemoteProtocolError(
            f"the daemon's catalogue of {spec.name} has neither op nor tensor for {', '.join(left)}; the same "
            f"release of transformers is needed on both sides (here {transformers.__version__})"
        )


def _meta_names(model: PreTrainedModel) -> Iterator[str]:
    """Yields the name of every tensor on meta, in attributes too."""
    for path, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers")}
        for key, value in {**attributes, **module._parameters, **module._buffers}.items():
            values = list(value.values()) if isinstance(value, dict) else value
            inside = values if isinstance(values, list | tuple) else [values]
            if any(isinstance(each, torch.Tensor) and each.is_meta for each in inside):
                yield f"{path}.{key}".lstrip(".")
