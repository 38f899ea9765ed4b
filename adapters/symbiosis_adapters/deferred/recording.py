"""What has been asked of the daemon and not been sent: nodes over client tensors, waiting for somebody to look.

A recording grows node by node. When one value is wanted, `force` has all values computed that are still wanted,
that is, whose `Deferred` is alive: the model's own variables say what the client needs, so intermediate values
never cross. Nodes that nobody can see any more are left out.

Within a recording values have references: `i >= 0` is node i, `-(2 k + 1)` the k-th client tensor and `-(2 k + 2)`
the k-th frozen vector. All client tensors have the same number of rows and are on the same device.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from symbiosis_core.errors import UsageError
from symbiosis_core.segments import MAX_NODES, MAX_PLANES
from symbiosis_core.specs import Plane
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["DTYPES", "Forcing", "Mode", "NodeKey", "Passage", "Recording", "StandIn"]

_FULL_NODES: Final = MAX_NODES // 4
"""A passage is one node here, and several in the segment."""
_FULL_PLANES: Final = MAX_PLANES // 2
_FULL_ROW_BYTES: Final = 5 << 19
"""A segment may have 4 MiB in a row, and one more node can take 1 MiB: the logits of 262144 tokens."""

DTYPES: Final = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}


class Mode(NamedTuple):
    """What torch was told when a recording began; results depend on it."""

    grad: bool
    inference: bool


class NodeKey(NamedTuple):
    """A node, by references. Equal keys are equal work."""

    fn: str
    args: tuple[int, ...]
    op: int = -1
    number: float | None = None
    start: int = 0
    width: int = 0
    dtype: int = 0


class Passage(NamedTuple):
    """What a frozen module does to a value: nodes, relative to it."""

    id: int
    """Its number in its `Deferral`."""
    nodes: tuple[NodeKey, ...]
    """References: `i >= 0` is node i of these, -1 the value, `-(2 k + 2)` the k-th of `tensors`."""
    tensors: tuple[str, ...]
    plane: Plane
    """Of the last node, which is what comes out."""

    def over(self, value: int, vector: Callable[[str], int], first: int) -> list[NodeKey]:
        """Returns the nodes as they are done to `value`, where they stand from index `first` on."""
        inside = {-1: value} | {-2 * k - 2: vector(name) for k, name in enumerate(self.tensors)}
        inside |= {relative: first + relative for relative in range(len(self.nodes))}
        return [node._replace(args=tuple([inside[arg] for arg in node.args])) for node in self.nodes]


class StandIn(Protocol):
    """What stands for a node: a `Deferred`."""

    _recording: Recording | None
    _index: int
    _value: Tensor | None
    _shape: torch.Size
    _dtype: torch.dtype
    _needs_grad: bool
    _passed: bool
    _changes: int

    def _settle(self, value: Tensor) -> None:
        """Stands for `value` from now on."""


class Forcing(Protocol):
    """Computes recordings."""

    def compute(self, recording: Recording, wanted: Sequence[StandIn]) -> list[Tensor]:
        """Returns the values of what is wanted, by rising index, with autograd history where there is one."""


class Recording:
    """Nodes over the rows of some client tensors. Grows in the thread that began it; any may force it."""

    __slots__ = (
        "__weakref__",
        "_lock",
        "_named",
        "_refs",
        "_versions",
        "device",
        "forcing",
        "full",
        "handles",
        "inputs",
        "mode",
        "nodes",
        "planes",
        "row_bytes",
        "rows",
        "tensors",
        "thread",
    )

    def __init__(self, forcing: Forcing, rows: int, mode: Mode, device: torch.device) -> None:
        self.forcing = forcing
        self.rows = rows
        self.mode = mode
        self.device = device
        self.thread = threading.get_ident()
        self.row_bytes = 0
        """Of all nodes."""
        self.full = False
        """Whether no more may be added: what is wanted next begins another recording."""
        self.inputs: list[Tensor] = []
        self.tensors: list[str] = []
        self.nodes: list[NodeKey] = []
        self.planes: list[Plane] = []
        """Of every node."""
        self.handles: list[weakref.ref[StandIn] | None] = []
        """Of every node, what stands for it."""
        self._refs: dict[Any, int] = {}
        self._versions: list[int] = []
        self._named: list[Tensor] = []
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Recording {len(self.nodes)} nodes over {self.rows} rows>"

    def input(self, x: Tensor) -> int:
        """Returns the reference of a client tensor, whose leading sizes multiply to `rows`.

        It may not be modified in place until it is sent; a tensor of the inference mode, which would not tell, is
        copied. What was modified since it was last read is another input.
        """
        ref = self._refs.get(id(x))
        if ref is not None and self._reads_still(ref, x):
            return ref
        if x.is_inference():
            return self._take(x, x.clone(), -1)
        return self._take(x, x, x._version)

    def _take(self, named: Tensor, sent: Tensor, version: int) -> int:
        ref = self._refs[id(named)] = -2 * len(self.inputs) - 1
        self._named.append(named)  # or its id could be given to another tensor
        self.inputs.append(sent)
        self._versions.append(version)
        self.full = self.full or len(self.inputs) >= _FULL_PLANES
        return ref

    def _reads_still(self, ref: int, x: Tensor) -> bool:
        index = -ref // 2
        version = self._versions[index]
        return x._version == version if version >= 0 else torch.equal(x, self.inputs[index])

    def reads(self, x: Tensor) -> bool:
        """Whether a client tensor is one of the inputs."""
        return id(x) in self._refs

    def named(self, index: int) -> Tensor:
        """Returns a client tensor as the client has it, where `inputs` may have a copy."""
        return self._named[index]

    def vector(self, name: str) -> int:
        """Returns the reference of a frozen vector."""
        ref = self._refs.get(name)
        if ref is None:
            ref = self._refs[name] = -2 * len(self.tensors) - 2
            self.tensors.append(name)
            self.full = self.full or len(self.tensors) >= _FULL_PLANES
        return ref

    def add(self, node: NodeKey, plane: Plane, handle: weakref.ref[StandIn] | None) -> None:
        """Adds a node; its index is the number of nodes before. Without a handle nobody can want its value."""
        self.nodes.append(node)
        self.planes.append(plane)
        self.handles.append(handle)
        self.row_bytes += plane.row_bytes
        if len(self.nodes) >= _FULL_NODES or self.row_bytes >= _FULL_ROW_BYTES:
            self.full = True

    def shares_columns(self, index: int) -> bool:
        """Whether somebody has columns of this value, or the value that it is columns of: memory, to torch."""
        node = self.nodes[index]
        if node.fn == "take" and self.handles[node.args[0]] is not None:
            return True
        parts = (handle for other, handle in zip(self.nodes, self.handles, strict=True) if _takes(other, index))
        return any(handle is not None and handle() is not None for handle in parts)

    def has_room_for(self, other: Recording) -> bool:
        """Whether both together are still one segment."""
        return (
            len(self.nodes) + len(other.nodes) < _FULL_NODES
            and len(self.inputs) + len(other.inputs) < _FULL_PLANES
            and len(self.tensors) + len(other.tensors) < _FULL_PLANES
            and self.row_bytes + other.row_bytes < _FULL_ROW_BYTES
        )

    def absorb(self, other: Recording) -> None:
        """Takes over the nodes of a recording of the same thread, over as many rows, in the same mode."""
        moved: dict[int, int] = {}
        for index, named in enumerate(other._named):
            ref = self._refs.get(id(named))
            sent, version = other.inputs[index], other._versions[index]
            if ref is None or not self._sends_same(ref, sent, version):
                ref = self._take(named, sent, version)
            moved[-2 * index - 1] = ref
        moved |= {-2 * index - 2: self.vector(name) for index, name in enumerate(other.tensors)}
        offset = len(self.nodes)
        for node, plane, handle in zip(other.nodes, other.planes, other.handles, strict=True):
            args = tuple(arg + offset if arg >= 0 else moved[arg] for arg in node.args)
            self.add(node._replace(args=args), plane, handle)
            deferred = None if handle is None else handle()
            if deferred is not None and deferred._value is None:
                deferred._recording, deferred._index = self, deferred._index + offset

    def _sends_same(self, ref: int, sent: Tensor, version: int) -> bool:
        index = -ref // 2
        if version != self._versions[index]:
            return False
        return version >= 0 or torch.equal(sent, self.inputs[index])

    def force(self, asked: StandIn) -> None:
        """Computes what `asked` stands for, and with it all others that are alive.

        A loss is computed alone: what it was made of, such as the logits, is rarely looked at and large.
        """
        with self._lock:
            if asked._value is not None:
                return
            wanted = [asked]
            if self.nodes[asked._index].fn != "cross_entropy":
                wanted += self._others_alive(asked)[: _FULL_PLANES - 1]
                wanted.sort(key=_index)
            for deferred, value in zip(wanted, self.forcing.compute(self, wanted), strict=True):
                deferred._settle(value)

    def _others_alive(self, asked: StandIn) -> list[StandIn]:
        alive = [handle() for handle in self.handles if handle is not None]
        return [each for each in alive if each is not None and each is not asked and each._value is None]

    def pass_by(self, nodes: Container[int]) -> None:
        """Notes that values were computed from these nodes, which their own gradients will not see."""
        for handle in self.handles:
            deferred = None if handle is None else handle()
            if deferred is not None and deferred._needs_grad and deferred._index in nodes:
                deferred._passed = True

    def check_versions(self, inputs: Iterable[int]) -> None:
        """Raises UsageError if one of these client tensors is not what it was when it was recorded."""
        for index in inputs:
            x, version = self.inputs[index], self._versions[index]
            if version >= 0 and x._version != version:
                raise UsageError(
                    f"a tensor of shape {tuple(x.shape)} was modified in place after it went into a frozen layer "
                    "and before the layer's result was used; modify a clone, or load with cut='siblings'"
                )


def _takes(node: NodeKey, index: int) -> bool:
    return node.fn == "take" and node.args == (index,)


def _index(deferred: StandIn) -> int:
    return deferred._index
