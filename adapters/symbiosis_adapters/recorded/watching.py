"""Watches what a module does to a pending tensor: that becomes a passage, its nodes relative to the tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from symbiosis_adapters.deferred.recording import NodeKey, Passage, Recording
from symbiosis_adapters.deferred.tensor import Deferred, root_of, sizes_read
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.derived import Derivations

__all__ = ["Watch", "derivations", "watch", "watched"]


class Watch(NamedTuple):
    """What a recording was like before a module began."""

    recording: Recording
    nodes: int
    sizes_read: int


def watch(deferral: Deferral, x: Deferred) -> Watch | None:
    """Begins to watch what is done to a pending tensor; None where nothing may be deferred now."""
    recording = deferral.recording_of(root_of(x))
    return None if recording is None else Watch(recording, len(recording.nodes), sizes_read())


def derivations(deferral: Deferral) -> Derivations:
    """Returns what sees vectors being made of this model's frozen ones; see `derived`."""
    vectors = deferral.vectors
    return Derivations(lambda x: vectors.of(x) is not None and not x.requires_grad)


def watched(deferral: Deferral, before: Watch, x: Deferred, output: Any) -> Passage | None:
    """Returns what was done to `x`, if it was done to nothing else, gave one value and left nothing behind."""
    recording, source = before.recording, root_of(x)
    last = len(recording.nodes) - 1
    if type(output) is not Deferred or output._recording is not recording or source._recording is not recording:
        return None
    if output._index != last or last < before.nodes or output._shape[:-1] != x._shape[:-1]:
        return None
    handles = [handle for handle in recording.handles[before.nodes : last] if handle is not None]
    left = any(handle() is not None for handle in handles)
    if sizes_read() != before.sizes_read or left:
        return None
    trips = deferral.trips
    relative = _relative(recording, before.nodes, source._index, trips.passages)
    return None if relative is None else trips.keep(*relative, recording.planes[last])


def _relative(
    recording: Recording, start: int, source: int, passages: Mapping[int, Passage]
) -> tuple[tuple[NodeKey, ...], tuple[str, ...]] | None:
    """Returns the nodes from `start` on relative to node `source`; None if they read anything else."""
    nodes: list[NodeKey] = []
    tensors: list[str] = []
    place = {source: -1}

    def vector(name: str) -> int:
        if name not in tensors:
            tensors.append(name)
        return -2 * tensors.index(name) - 2

    for index in range(start, len(recording.nodes)):
        node = recording.nodes[index]
        if any(arg not in place and (arg >= 0 or arg % 2) for arg in node.args):
            return None
        args = tuple([place[arg] if arg >= 0 else vector(recording.tensors[-arg // 2 - 1]) for arg in node.args])
        if node.fn == "passage":
            nodes += passages[node.op].over(args[0], vector, len(nodes))
        else:
            nodes.append(node._replace(args=args))
        place[index] = len(nodes) - 1
    return tuple(nodes), tuple(tensors)
