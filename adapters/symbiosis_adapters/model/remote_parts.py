"""What of a model the daemon computes: its layers and its experts become remote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from symbiosis_adapters.layers.experts import FrozenExperts
from symbiosis_adapters.layers.making import make_remote
from symbiosis_adapters.layers.trained import Body
from symbiosis_adapters.model.skeleton import Skeleton, no_such_parameter
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.trips.cut import Plan
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenSiblings, FrozenTable
from symbiosis_adapters.trips.rows import Rows
from symbiosis_adapters.trips.siblings import SiblingGroup
from symbiosis_adapters.weights.lenders import Lending
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.specs import OpKind, OpSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["make_parts_remote"]

Remote = Callable[[torch.Tensor], torch.Tensor]


def make_parts_remote(skeleton: Skeleton, rows: Rows, deferral: Deferral | None, lending: Lending | None) -> None:
    """Has `rows` compute what is planned, as `deferral` records it; `lending` has the values.

    Raises:
        RemoteProtocolError: the catalogue does not fit the model.
    """
    body = None if deferral is None else Body()
    _make_layers(skeleton, rows, deferral, lending, body)
    _make_experts(skeleton, rows, deferral, lending, body)


def _make_layers(
    skeleton: Skeleton, rows: Rows, deferral: Deferral | None, lending: Lending | None, body: Body | None
) -> None:
    layers, planned = skeleton.layers(), skeleton.planned
    placeholders: dict[int, FrozenWeight] = {}
    alive: list[torch.Tensor] = []  # former parameters, so that no id is used twice
    for path, remote in _remotes(planned, rows, deferral):
        if path not in layers:
            continue
        alive.extend(layers[path].parameters(recurse=False))
        dtype = torch_dtype(planned.ops[path].dtype)
        make_remote(layers[path], path, remote, dtype, placeholders, lending, body)


def _make_experts(
    skeleton: Skeleton, rows: Rows, deferral: Deferral | None, lending: Lending | None, body: Body | None
) -> None:
    """Makes stacked experts remote, and has the model take them one by one."""
    for path, owner, leaf in skeleton.experts():
        ops = [FrozenLinear(rows, op, deferral) for op in skeleton.planned.experts[path]]
        experts = FrozenExperts.of_ops(ops, path, "cpu", lending)
        experts.body = body
        if owner.get_parameter(leaf).shape != experts.shape:
            raise no_such_parameter(path, skeleton.model)
        owner._parameters[leaf] = experts
    if skeleton.planned.experts:
        skeleton.model.set_experts_implementation("eager")


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
