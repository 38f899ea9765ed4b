"""The account of a model's trips that a person can read.

With the cuts `linear` and `siblings` it tells what a forward will do, including what was demoted. With the graph
cut the trips are decided while the model runs, so it tells what the latest forward did: from the moment at which
token ids were looked up until now. A trip made again since then (by gradient checkpointing, or because somebody
looked at the logits after the loss) is told again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from symbiosis_adapters.layers.modules import RemoteEmbedding, RemoteLayer
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.trips.cut import Cut, Plan
from symbiosis_adapters.trips.siblings import Sibling, SiblingGroup
from symbiosis_core.segments import SegmentSpec
from symbiosis_core.specs import Direction, OpSpec

__all__ = ["BlockTrips", "Explanation", "explain"]


class BlockTrips(NamedTuple):
    """The trips of one block in one forward."""

    path: str
    """`model.layers.3`; empty for what stands outside the blocks."""
    trips: tuple[str, ...]
    """Per trip, the layers it serves, relative to `path`; with the graph cut also the bytes of a row."""
    reasons: tuple[str, ...]
    """Why there are more than the cut allows; with the graph cut, per trip, what needed the value it ends with,
    when it was first made."""


class Explanation(NamedTuple):
    """How a model is cut. As text, a table: equal neighbouring blocks share a line."""

    cut: Cut
    blocks: tuple[BlockTrips, ...]
    """None with the graph cut until there was a forward."""
    reasons: tuple[str, ...]
    taken: tuple[str, ...] = ()
    """Layers whose weights somebody has taken, so that they are computed in this process."""

    @property
    def trips_per_forward(self) -> int:
        """Trips of a forward that calls every layer once; with the graph cut, of the latest forward."""
        return sum(len(block.trips) for block in self.blocks)

    def __str__(self) -> str:
        lines = [f"cut: {self.cut}, {self._count()}"]
        for first, last, count in _runs(self.blocks, with_reasons=self.cut is Cut.GRAPH):
            name = first.path or "(outside)"
            if count > 1:
                name += f" ... {last.path.rpartition('.')[2]}"
            each = " each" if count > 1 else ""
            lines.append(f"  {name}: {len(first.trips)}{each}: {', '.join(first.trips)}")
            if self.cut is Cut.GRAPH:
                lines.append(f"    first ended by {', '.join(first.reasons)}")
        blocks = () if self.cut is Cut.GRAPH else self.blocks
        reasons = (*self.reasons, *(reason for block in blocks for reason in block.reasons))
        lines += [f"  not shared: {reason}" for reason in reasons]
        return "\n".join(
            lines + [f"  computed here, with a weight of this process's own: {path}" for path in self.taken]
        )

    def _count(self) -> str:
        if self.cut is Cut.LENT:
            return "no trips: computed here, with the daemon's weights"
        if self.cut is not Cut.GRAPH:
            return f"{self.trips_per_forward} trips per forward"
        if not self.blocks:
            return "trips are decided while it runs; after a forward they are listed here"
        return f"{self.trips_per_forward} trips in the latest forward"


def explain(model: nn.Module) -> Explanation:
    """Returns how a model built by `surgery.build` is cut at this moment. Adapters may be around it."""
    planned: Plan = _attached(model, "symbiosis_plan") or Plan(Cut.LINEAR, {}, {}, (), ())
    deferral: Deferral | None = _attached(model, "symbiosis_deferral")
    layers = [module for module in model.modules() if isinstance(module, RemoteLayer)]
    taken = tuple(layer.remote_path for layer in layers if layer.taken)
    if deferral is not None:
        return Explanation(planned.cut, _made(model, deferral), (), taken)
    blocks: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for layer in layers:
        if layer.taken:
            continue
        path, trip, reason = _trip(layer)
        trips, reasons = blocks.setdefault(path, ({}, {}))
        trips[trip] = None
        if reason:
            reasons[reason] = None
    table = tuple(BlockTrips(path, tuple(trips), tuple(why)) for path, (trips, why) in blocks.items())
    routed = tuple(f"{path}: one trip more for every expert that is hit" for path in planned.experts)
    return Explanation(planned.cut, table, (*planned.reasons, *routed), taken)


def _attached(model: nn.Module, name: str) -> Any:
    """Returns what `surgery.build` left at the model; None if there is no such thing."""
    found = (module.__dict__[name] for module in model.modules() if name in module.__dict__)
    return next(found, None)


_BLOCK = re.compile(r"(.*?\.)(\d+)\.(.+)")


def _trip(layer: RemoteLayer) -> tuple[str, str, str | None]:
    """Returns the block, the trip's name within it, and why it is not shared."""
    op, reason = getattr(layer.remote, "spec", None), None
    if isinstance(layer.remote, Sibling):
        group: SiblingGroup = layer.remote.group
        reason = group.reason
        op = group.fused.spec if reason is None else layer.remote.single.spec
    assert isinstance(op, OpSpec)
    match = _BLOCK.fullmatch(op.name)
    return (match[1] + match[2], match[3], reason) if match else ("", op.name, reason)


def _made(model: nn.Module, deferral: Deferral) -> tuple[BlockTrips, ...]:
    """Returns the trips of the latest forward, each in the block that it begins in.

    Trips are counted by the ops that they go through. If several differ in their rows only, as with a loss and
    with logits, the sizes of each are told, and what first needed each.
    """
    sizes: dict[str, dict[str, None]] = {}
    needs: dict[str, dict[str, None]] = {}
    for trip in deferral.trips.known():
        sizes.setdefault(trip.spec.name, {})[_row_bytes(trip.spec)] = None
        needs.setdefault(trip.spec.name, {})[trip.needed] = None
    blocks: dict[str, tuple[list[str], list[str]]] = {}
    for name, count in _latest(model, deferral).items():
        path, text = _within(name)
        trips, reasons = blocks.setdefault(path, ([], []))
        trips += [f"{text} ({' or '.join(sizes[name])})"] * count
        reasons += [" or ".join(needs[name])] * count
    return tuple(BlockTrips(path, tuple(trips), tuple(why)) for path, (trips, why) in blocks.items())


def _latest(model: nn.Module, deferral: Deferral) -> dict[str, int]:
    """Returns how often each trip was made since token ids were last looked up; never looked up: all, once."""
    begun = [
        layer.trips_before
        for layer in model.modules()
        if isinstance(layer, RemoteEmbedding) and layer.trips_before is not None
    ]
    if not begun:
        return dict.fromkeys(deferral.trips.made, 1)
    before = max(begun, key=lambda trips: sum(trips.values()))
    counts = {name: count - before.get(name, 0) for name, count in deferral.trips.made.items()}
    return {name: count for name, count in counts.items() if count > 0}


def _within(name: str) -> tuple[str, str]:
    """Returns the block that a trip begins in, and its ops relative to that."""
    ops = name.split(" > ")
    match = _BLOCK.fullmatch(ops[0])
    if match is None:
        return "", name
    here, following = match[1] + match[2] + ".", f"{match[1]}{int(match[2]) + 1}."
    relative = [op.removeprefix(here) if op.startswith(here) else op.replace(following, "next ", 1) for op in ops]
    return here[:-1], " > ".join(relative)


def _row_bytes(spec: SegmentSpec) -> str:
    """Returns what a row of a segment takes on its way there and back, and, if asked for, its gradient."""
    forward, backward = (
        [sum(plane.row_bytes for plane in planes) for planes in (spec.planes_in(way), spec.planes_out(way))]
        for way in Direction
    )
    told = f"{forward[0]} B in, {forward[1]} B out"
    return f"{told}; backward {backward[0]} in, {backward[1]} out" if backward[1] else told


def _runs(blocks: tuple[BlockTrips, ...], *, with_reasons: bool) -> Iterator[tuple[BlockTrips, BlockTrips, int]]:
    """Yields the first, the last and the number of neighbouring blocks with the same trips."""
    start = 0
    kinds = [(block.trips, block.reasons if with_reasons else ()) for block in blocks]
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or kinds[end] != kinds[start]:
            yield blocks[start], blocks[end - 1], end - start
            start = end
