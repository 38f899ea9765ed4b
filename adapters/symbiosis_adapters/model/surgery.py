"""Builds the model: the real transformers class, without the weights that stay in the daemon.

The skeleton is made on the meta device, so nothing large is ever allocated and no random number is drawn. Layers
in the catalogue become remote, small tensors are fetched, and then nothing may be left on meta: a forgotten buffer
would fail much later and far away.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from symbiosis_adapters.connection.cores import watch_forwards
from symbiosis_adapters.connection.unpicklable import refuse_pickling
from symbiosis_adapters.deferred.checkpoints import undefer_checkpoints
from symbiosis_adapters.deferred.functions import give_functions_values
from symbiosis_adapters.layers.exact_types import pass_for_linears
from symbiosis_adapters.layers.experts import FrozenExperts, install_expert_rules
from symbiosis_adapters.layers.making import make_remote
from symbiosis_adapters.layers.modules import form
from symbiosis_adapters.layers.passages import add_passages
from symbiosis_adapters.model.configuration import blaming_fields, configure
from symbiosis_adapters.model.heads import CAUSAL_LM, Head, Places
from symbiosis_adapters.model.replicas import mark_base, share_with_replicas
from symbiosis_adapters.model.saving import save_own_only
from symbiosis_adapters.model.ties import untie
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.table import install_rules
from symbiosis_adapters.trips.cut import Cut, Plan, plan
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenSiblings, FrozenTable
from symbiosis_adapters.trips.rows import Rows
from symbiosis_adapters.trips.siblings import SiblingGroup
from symbiosis_adapters.weights.lenders import Lending
from symbiosis_adapters.weights.lending import BorrowedWeights, Lender
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import RefusedError, RemoteProtocolError
from symbiosis_core.specs import ModelSpec, OpKind, OpSpec, TensorKind, TensorSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["build"]

LARGE_BYTES = 1 << 20
"""Tensors that a client keeps are mapped from this size on, rather than fetched and held by each."""
Fetch = Callable[[TensorSpec], torch.Tensor]
Remote = Callable[[torch.Tensor], torch.Tensor]


def build(
    spec: ModelSpec,
    rows: Rows,
    fetch: Fetch,
    cut: Cut = Cut.GRAPH,
    lender: Lender | None = None,
    head: Head = CAUSAL_LM,
) -> PreTrainedModel:
    """Returns the model of a catalogue, in eval mode, as from_pretrained would.

    `fetch` returns a small tensor of the catalogue; the model keeps it. `lender` has the values of all weights;
    with Cut.LENT there must be one, and no rows are asked for. `head` says what stands on the base.

    Raises:
        RefusedError: the daemon does not lend its weights, and the cut is LENT.
        UsageError: this transformers cannot build the model, or the head's configuration does not fit the base.
        RemoteProtocolError: the catalogue does not fit the model.
    """
    planned = plan(spec, cut)
    model = _skeleton(spec, head)
    places = Places(model)
    untie(model, _parameters(spec), spec.ties, places.path)
    deferral = Deferral(rows) if planned.cut is Cut.GRAPH else None
    with blaming_fields(spec, model.config):
        if planned.cut is Cut.LENT:
            assert lender is not None  # the caller has seen to it
            fetch = _set_lent(model, places, planned, lender.weights(), fetch)
        else:
            _make_remote(model, places, planned, rows, deferral, lender)
            _make_experts(model, places, planned, rows, deferral, lender)
            fetch = _mapping_large(lender, fetch)
        _set_tensors(model, places, spec, fetch, deferral)
        places.initialize_head()
        _refuse_what_is_left(model, spec)
    if spec.generation_config_json and model.can_generate():
        model.generation_config = GenerationConfig.from_dict(json.loads(spec.generation_config_json))
    model.__dict__["symbiosis_plan"] = planned
    refuse_pickling(model)
    mark_base(model, places.beside())
    share_with_replicas()
    if planned.cut is not Cut.LENT:
        save_own_only(model)
        watch_forwards(model)
        pass_for_linears()
    if deferral is not None:
        model.__dict__["symbiosis_deferral"] = deferral
        give_functions_values()
        install_rules()
        install_expert_rules()
        add_passages(model, deferral)
        undefer_checkpoints(model)
    model.eval()
    return model


def _refuse_what_is_left(model: PreTrainedModel, spec: ModelSpec) -> None:
    left = sorted(set(_meta_names(model)))
    if left:
        raise RemoteProtocolError(
            f"the daemon's catalogue of {spec.name} has neither op nor tensor for {', '.join(left)}; the same "
            f"release of transformers is needed on both sides (here {transformers.__version__})"
        )


def _skeleton(spec: ModelSpec, head: Head) -> PreTrainedModel:
    config = configure(spec, head)
    with torch.device("meta"):
        return head.model(config, torch_dtype(spec.dtype))


def _parameters(spec: ModelSpec) -> Iterator[str]:
    """Yields what the daemon calls every parameter: of its layers, whether they have it or not, and the others."""
    for op in spec.ops:
        leaves = ("",) if op.expert >= 0 else (".weight", ".bias")
        yield from (f"{path}{leaf}" for path in op.members for leaf in leaves)
    yield from (tensor.name for tensor in spec.tensors if tensor.kind is TensorKind.PARAMETER)


def _set_lent(
    model: PreTrainedModel, places: Places, planned: Plan, weights: BorrowedWeights, fetch: Fetch
) -> Fetch:
    """Gives the layers of the catalogue their weights. Returns who has the model's other tensors."""
    lent: dict[int, nn.Parameter] = {}
    alive: list[torch.Tensor] = []  # former parameters, so that no id is used twice
    for path, layer in _layers(model, places, planned).items():
        for leaf, old in layer._parameters.items():
            if old is None:
                continue
            if id(old) not in lent:
                lent[id(old)] = nn.Parameter(weights.frozen(f"{path}.{leaf}"), requires_grad=False)
                alive.append(old)
            layer._parameters[leaf] = lent[id(old)]
    for path in planned.experts:
        if (here := places.path(path)) is not None:
            owner, _, leaf = here.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = nn.Parameter(weights.frozen(path), requires_grad=False)
    return lambda tensor: weights.frozen(tensor.name) if tensor.name in weights else fetch(tensor)


def _mapping_large(lender: Lender | None, fetch: Fetch) -> Fetch:
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


def _make_remote(
    model: PreTrainedModel,
    places: Places,
    planned: Plan,
    rows: Rows,
    deferral: Deferral | None,
    lending: Lending | None,
) -> None:
    layers = _layers(model, places, planned)
    placeholders: dict[int, FrozenWeight] = {}
    alive: list[torch.Tensor] = []  # former parameters, so that no id is used twice
    for path, remote in _remotes(planned, rows, deferral):
        if path not in layers:
            continue
        alive.extend(layers[path].parameters(recurse=False))
        make_remote(layers[path], path, remote, torch_dtype(planned.ops[path].dtype), placeholders, lending)


def _layers(model: PreTrainedModel, places: Places, planned: Plan) -> dict[str, nn.Module]:
    """Returns the layers of the catalogue that this model has, by the daemon's path."""
    layers = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for path, op in planned.ops.items():
        if (here := places.path(path)) is None:
            continue
        layer = layers.get(here)
        if layer is None or form(layer) != (op.kind, op.width_in, op.width_out):
            raise RemoteProtocolError(f"{path} is an op of the daemon, but no layer of {type(model).__name__}")
        found[path] = layer
    return found


def _make_experts(
    model: PreTrainedModel,
    places: Places,
    planned: Plan,
    rows: Rows,
    deferral: Deferral | None,
    lending: Lending | None,
) -> None:
    """Makes stacked experts remote, and has the model take them one by one."""
    for path, ops in planned.experts.items():
        if (here := places.path(path)) is None:
            continue
        owner, _, leaf = here.rpartition(".")
        experts = FrozenExperts.of_ops([FrozenLinear(rows, op, deferral) for op in ops], path, "cpu", lending)
        old = dict(model.named_parameters(remove_duplicate=False)).get(here)
        if old is None or old.shape != experts.shape:
            raise RemoteProtocolError(
                f"{path} is ops of the daemon, but no such parameter of {type(model).__name__}"
            )
        model.get_submodule(owner)._parameters[leaf] = experts
    if planned.experts:
        model.set_experts_implementation("eager")


def _remotes(planned: Plan, rows: Rows, deferral: Deferral | None) -> Iterator[tuple[str, Remote]]:
    """Yields every remote layer's path and what computes it."""
    grouped = {member for fused in planned.groups for member in fused.members}
    for path, op in planned.ops.items():
        if path not in grouped:
            kind = FrozenTable if op.kind is OpKind.EMBEDDING else FrozenLinear
            yield path, kind(rows, op, deferral)
    for fused in planned.groups:
        group = _group(fused, planned, rows, deferral)
        for index, member in enumerate(fused.members):
            yield member, group.member(index)


def _group(fused: OpSpec, planned: Plan, rows: Rows, deferral: Deferral | None) -> SiblingGroup:
    singles = tuple(FrozenLinear(rows, planned.ops[member], deferral) for member in fused.members)
    return SiblingGroup(FrozenSiblings(rows, fused, singles, deferral))


def _set_tensors(
    model: PreTrainedModel, places: Places, spec: ModelSpec, fetch: Fetch, deferral: Deferral | None
) -> None:
    """Replaces what is on meta by the daemon's tensors, wherever the same object is used."""
    named: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    fetched: dict[int, torch.Tensor] = {}
    for tensor in spec.tensors:
        if (here := places.path(tensor.name)) is None:
            continue
        old = (named if tensor.kind is TensorKind.PARAMETER else buffers).get(here)
        if old is None or tuple(old.shape) != tensor.shape:
            raise RemoteProtocolError(
                f"{tensor.name} {tensor.shape} is no {tensor.kind} of {type(model).__name__}"
            )
        if id(old) not in fetched:
            value = fetch(tensor)
            is_parameter = tensor.kind is TensorKind.PARAMETER
            fetched[id(old)] = nn.Parameter(value, requires_grad=False) if is_parameter else value
            if deferral is not None:
                deferral.know(fetched[id(old)], tensor)
    for module in model.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for holder in holders:
            holder.update({key: fetched[id(old)] for key, old in holder.items() if id(old) in fetched})


def _meta_names(model: PreTrainedModel) -> Iterator[str]:
    """Yields the name of every tensor on meta, in attributes too."""
    for path, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers")}
        for key, value in {**attributes, **module._parameters, **module._buffers}.items():
            values = list(value.values()) if isinstance(value, dict) else value
            inside = values if isinstance(values, list | tuple) else [values]
            if any(isinstance(each, torch.Tensor) and each.is_meta for each in inside):
                yield f"{path}.{key}".lstrip(".")
