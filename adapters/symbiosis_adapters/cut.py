"""The planner: which frozen layers share a trip, and the account of it that a person can read.

`plan` decides before the model is built, from the catalogue alone; `explain` reports on a built model, with or
without adapters around it, including what was demoted while it ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from torch import nn

from symbiosis_adapters.modules import RemoteLayer
from symbiosis_adapters.siblings import Sibling, SiblingGroup
from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.specs import ModelSpec, OpKind, OpSpec

__all__ = ["BlockTrips", "Cut", "Explanation", "Plan", "explain", "plan"]


class Cut(StrEnum):
    """How much of a model is one trip. Still to come: lent."""

    LINEAR = "linear"
    """Every frozen layer on its own."""
    SIBLINGS = "siblings"
    """Linears that read the same tensor go together."""
    GRAPH = "graph"
    """All row-wise frozen work between two attentions goes together: see `deferred`."""


class Plan(NamedTuple):
    """What becomes remote, and how."""

    cut: Cut
    ops: dict[str, OpSpec]
    """The op of every remote layer by its module path."""
    groups: tuple[OpSpec, ...]
    """Sibling ops in use. No module is in two."""
    reasons: tuple[str, ...]
    """Why the plan falls short of what was requested."""


def plan(spec: ModelSpec, requested: Cut = Cut.GRAPH) -> Plan:
    """Returns how to cut a model.

    Raises:
        RemoteProtocolError: the catalogue contradicts itself.
    """
    single = [op for op in spec.ops if len(op.members) == 1]
    ops = {op.members[0]: op for op in single}
    if len(ops) < len(single):
        raise RemoteProtocolError(f"the catalogue of {spec.name} has two ops for one layer")
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
    return Plan(cut, ops, tuple(sorted(groups, key=lambda op: op.id)), tuple(reasons))


def _check_group(fused: OpSpec, ops: dict[str, OpSpec]) -> None:
    for member, width in zip(fused.members, fused.widths_out, strict=True):
        single = ops.get(member)
        if single is None or fused.kind is not OpKind.LINEAR or single.kind is not OpKind.LINEAR:
            raise RemoteProtocolError(f"{fused.name}: {member} is not offered as a linear of its own")
        if (single.width_in, single.width_out, single.dtype) != (fused.width_in, width, fused.dtype):
            raise RemoteProtocolError(f"{fused.name}: {member} alone has another shape or dtype")


class BlockTrips(NamedTuple):
    """The trips of one block in one forward."""

    path: str
    """`model.layers.3`; empty for what stands outside the blocks."""
    trips: tuple[str, ...]
    """Per trip, the layers it serves, relative to `path`."""
    reasons: tuple[str, ...]
    """Why there are more than the cut allows."""


class Explanation(NamedTuple):
    """How a model is cut. As text, a table: equal neighbouring blocks share a line."""

    cut: Cut
    blocks: tuple[BlockTrips, ...]
    reasons: tuple[str, ...]

    @property
    def trips_per_forward(self) -> int:
        """Trips of a forward that calls every layer once."""
        return sum(len(block.trips) for block in self.blocks)

    def __str__(self) -> str:
        lines = [f"cut: {self.cut}, {self.trips_per_forward} trips per forward"]
        for first, last, count in _runs(self.blocks):
            name = first.path or "(outside)"
            if count > 1:
                name += f" ... {last.path.rpartition('.')[2]}"
            each = " each" if count > 1 else ""
            lines.append(f"  {name}: {len(first.trips)}{each}: {', '.join(first.trips)}")
        reasons = (*self.reasons, *(reason for block in self.blocks for reason in block.reasons))
        return "\n".join(lines + [f"  not shared: {reason}" for reason in reasons])


def explain(model: nn.Module) -> Explanation:
    """Returns how a model built by `surgery.build` is cut at this moment. Adapters may be around it."""
    blocks: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    seen: set[int] = set()
    for layer in model.modules():
        if not isinstance(layer, RemoteLayer) or id(layer) in seen:
            continue
        seen.add(id(layer))
        path, trip, reason = _trip(layer)
        trips, reasons = blocks.setdefault(path, ({}, {}))
        trips[trip] = None
        if reason:
            reasons[reason] = None
    plans = [
        module.__dict__["symbiosis_plan"] for module in model.modules() if "symbiosis_plan" in module.__dict__
    ]
    planned: Plan = plans[0] if plans else Plan(Cut.LINEAR, {}, (), ())
    table = tuple(BlockTrips(path, tuple(trips), tuple(why)) for path, (trips, why) in blocks.items())
    return Explanation(planned.cut, table, planned.reasons)


_BLOCK = re.compile(r"(.*?\.\d+)\.(.+)")


def _trip(layer: RemoteLayer) -> tuple[str, str, str | None]:
    """Returns the block, the trip's name within it, and why it is not shared."""
    op, reason = getattr(layer.remote, "spec", None), None
    if isinstance(layer.remote, Sibling):
        group: SiblingGroup = layer.remote.group
        reason = group.reason
        op = group.fused.spec if reason is None else layer.remote.single.spec
    assert isinstance(op, OpSpec)
    match = _BLOCK.fullmatch(op.name)
    return (match[1], match[2], reason) if match else ("", op.name, reason)


def _runs(blocks: tuple[BlockTrips, ...]) -> Iterator[tuple[BlockTrips, BlockTrips, int]]:
    """Yields the first, the last and the number of neighbouring blocks with the same trips."""
    start = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or blocks[end].trips != blocks[start].trips:
            yield blocks[start], blocks[end - 1], end - start
            start = end
