"""What of a recording becomes a segment: the nodes that what is wanted needs, numbered as a `Segment` has it.

Pure, and done once for every distinct recording. A passage, one node here, is written out there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import DTYPES, NodeKey, Passage, Recording
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import DType, Plane

__all__ = ["Draft", "draft", "needed_by"]


class Draft(NamedTuple):
    """A segment, and how the recording that it was made of feeds it. The fields are those of a `Trip`."""

    segment: Segment
    inputs: tuple[int, ...]
    read: frozenset[int]
    derived: dict[int, NodeKey]


def draft(recording: Recording, wanted: tuple[int, ...], passages: Mapping[int, Passage]) -> Draft:
    """Returns the segment of what `wanted` is computed from. `passages` are all that a node may name."""
    derived = _derived(recording, wanted)
    asked = [node for node in wanted if node not in derived]
    needed = needed_by(recording, asked)
    refs = {arg for index in needed for arg in recording.nodes[index].args}
    inputs = [index for index in range(len(recording.inputs)) if -2 * index - 1 in refs]
    tensors = _tensors(recording, needed, refs, passages)
    place = {-2 * index - 1: value for value, index in enumerate(inputs)}
    vectors = {name: len(inputs) + value for value, name in enumerate(tensors)}
    place |= {-2 * k - 2: vectors[name] for k, name in enumerate(recording.tensors) if name in vectors}
    nodes: list[Node] = []
    first = len(inputs) + len(tensors)
    for index in needed:
        node = recording.nodes[index]
        args = tuple([place[arg] for arg in node.args])
        if node.fn == "passage":
            written = passages[node.op].over(args[0], vectors.__getitem__, first + len(nodes))
        else:
            written = [node._replace(args=args)]
        nodes += map(_node, written)
        place[index] = first + len(nodes) - 1
    segment = Segment(
        tuple([_plane(recording.inputs[index]) for index in inputs]),
        tuple(tensors),
        tuple(nodes),
        tuple([place[index] for index in asked]),
    )
    return Draft(segment, tuple(inputs), frozenset(ref for ref in refs if ref >= 0), derived)


def _derived(recording: Recording, wanted: tuple[int, ...]) -> dict[int, NodeKey]:
    """Returns the wanted nodes that only cast another wanted one, or take columns of it.

    Cheaper done here than sent twice, and columns share the memory of their whole, as they do in torch.
    """
    nodes = {index: recording.nodes[index] for index in wanted}
    return {index: node for index, node in nodes.items() if node.fn in ("cast", "take") and node.args[0] in nodes}


def needed_by(recording: Recording, asked: list[int]) -> list[int]:
    """Returns the nodes that these are computed from, themselves included, in order."""
    needed = set(asked)
    for index in range(len(recording.nodes) - 1, -1, -1):
        if index in needed:
            needed.update(arg for arg in recording.nodes[index].args if arg >= 0)
    return sorted(needed)


def _tensors(
    recording: Recording, needed: list[int], refs: set[int], passages: Mapping[int, Passage]
) -> list[str]:
    """Returns the frozen vectors that the needed nodes read, those inside of passages too."""
    own = [name for k, name in enumerate(recording.tensors) if -2 * k - 2 in refs]
    nodes = [recording.nodes[index] for index in needed]
    inside = [name for node in nodes if node.fn == "passage" for name in passages[node.op].tensors]
    return list(dict.fromkeys([*own, *inside]))


def _node(key: NodeKey) -> Node:
    dtype = DType(key.dtype) if key.dtype else None
    return Node(Fn(key.fn), key.args, key.op, key.number, key.start, key.width, dtype)


def _plane(x: Tensor) -> Plane:
    return Plane(1 if x.dtype is torch.int64 else x.shape[-1], DTYPES[x.dtype])
