"""The planner: which frozen layers share a trip. It decides before the model is built, from the catalogue alone.

With the graph cut that is only half of it: there trips are decided while the model runs, see `deferred.tensor`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.specs import ModelSpec, OpKind, OpSpec

__all__ = ["Cut", "Plan", "plan"]


class Cut(StrEnum):
    """How much of a model is one trip."""

    LINEAR = "linear"
    """Every frozen layer on its own."""
    SIBLINGS = "siblings"
    """Linears that read the same tensor go together."""
    GRAPH = "graph"
    """All row-wise frozen work between two attentions goes together: see `deferred.tensor`."""
    LENT = "lent"
    """No trips: the client maps the daemon's weights and computes everything itself."""


class Plan(NamedTuple):
    """What becomes remote, and how."""

    cut: Cut
    ops: dict[str, OpSpec]
    """The op of every remote layer by its module path."""
    experts: dict[str, tuple[OpSpec, ...]]
    """The ops of every parameter of three dimensions, one for each of its matrices, by its path."""
    groups: tuple[OpSpec, ...]
    """Sibling ops in use. No module is in two."""
    reasons: tuple[str, ...]
    """Why the plan falls short of what was requested."""


def plan(spec: ModelSpec, requested: Cut = Cut.GRAPH) -> Plan:
    """Returns how to cut a model.

    Raises:
        RemoteProtocolError: the catalogue contradicts itself.
    """
    single = [op for op in spec.ops if len(op.members) == 1 and op.expert < 0]
    ops = {op.members[0]: op for op in single}
    if len(ops) < len(single):
        raise RemoteProtocolError(f"the catalogue of {spec.name} has two ops for one layer")
    experts: dict[str, tuple[OpSpec, ...]] = {}
    for op in sorted((op for op in spec.ops if op.expert >= 0), key=lambda op: op.expert):
        experts[op.members[0]] = (*experts.get(op.members[0], ()), op)
    if requested is Cut.LENT:
        return Plan(Cut.LENT, ops, experts, (), ())
    groups: list[OpSpec] = []
    reasons: list[str] = []
    taken: set[str] = set()
    for fused in sorted((op for op in spec.ops if len(op.members) > 1), key=lambda op: -len(op.members)):
        _check_group(fused, ops)
        if requested is Cut.LINEAR:
            continue
        if taken.isdisjoint(fused.members):
            groups.append(fused)
            taken.update(fused.members)
        else:
            reasons.append(f"{fused.name}: not used, a member already belongs to another group")
    if requested is not Cut.LINEAR and not groups:
        reasons.append("the daemon offers no sibling ops for this model")
    cut = Cut.GRAPH if requested is Cut.GRAPH else Cut.SIBLINGS if groups else Cut.LINEAR
    return Plan(cut, ops, experts, tuple(sorted(groups, key=lambda op: op.id)), tuple(reasons))


def _check_group(fused: OpSpec, ops: dict[str, OpSpec]) -> None:
    for member, width in zip(fused.members, fused.widths_out, strict=True):
        single = ops.get(member)
        if single is None or fused.kind is not OpKind.LINEAR or single.kind is not OpKind.LINEAR:
            raise RemoteProtocolError(f"{fused.name}: {member} is not offered as a linear of its own")
        if (single.width_in, single.width_out, single.dtype) != (fused.width_in, width, fused.dtype):
            raise RemoteProtocolError(f"{fused.name}: {member} alone has another shape or dtype")
