"""What has been asked of the daemon and not been sent: nodes over client tensors, waiting for somebody to look.

A recording grows node by node. When one value is wanted, `force` has all values computed that are still wanted,
that is, whose `Deferred` is alive: the model's own variables say what the client needs, so intermediate values
never cross. Nodes that nobody can see any more are left out.

Within a recording values have references: `i >= 0` is node i, `-(2 k + 1)` the k-th client tensor and `-(2 k + 2)`
the k-th frozen vector. All client tensors have the same number of rows.
"""

from __future__ import annotations

import weakref
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Plane
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["DTYPES", "Forcing", "Mode", "NodeKey", "Recording", "StandIn"]

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


class StandIn(Protocol):
    """What stands for a node: a `Deferred`."""

    _recording: Recording | None
    _index: int
    _value: Tensor | None
    _shape: torch.Size
    _dtype: torch.dtype
    _needs_grad: bool

    def _settle(self, value: Tensor) -> None:
        """Stands for `value` from now on."""


class Forcing(Protocol):
    """Computes recordings."""

    def compute(self, recording: Recording, wanted: tuple[int, ...], shapes: list[torch.Size]) -> list[Tensor]:
        """Returns the values of the nodes `wanted`, in these shapes, with autograd history where there is one."""


class Recording:
    """Nodes over the rows of some client tensors. For one thread."""

    __slots__ = (
        "__weakref__",
        "_named",
        "_refs",
        "_versions",
        "forcing",
        "handles",
        "inputs",
        "mode",
        "nodes",
        "planes",
        "rows",
        "tensors",
    )

    def __init__(self, forcing: Forcing, rows: int, mode: Mode) -> None:
        self.forcing = forcing
        self.rows = rows
        self.mode = mode
        self.inputs: list[Tensor] = []
        self.tensors: list[str] = []
        self.nodes: list[NodeKey] = []
        self.planes: list[Plane] = []
        """Of every node."""
        self.handles: list[weakref.ref[StandIn]] = []
        """Of every node, what stands for it."""
        self._refs: dict[Any, int] = {}
        self._versions: list[int] = []
        self._named: list[Tensor] = []

    def __repr__(self) -> str:
        return f"<Recording {len(self.nodes)} nodes over {self.rows} rows>"

    def input(self, x: Tensor) -> int:
        """Returns the reference of a client tensor, whose leading sizes multiply to `rows`.

        It may not be modified in place until it is sent; a tensor of the inference mode, which would not tell, is
        copied.
        """
        ref = self._refs.get(id(x))
        if ref is not None:
            return ref
        if x.is_inference():
            return self._take(x, x.clone(), -1)
        return self._take(x, x, x._version)

    def _take(self, named: Tensor, sent: Tensor, version: int) -> int:
        ref = self._refs[id(named)] = -2 * len(self.inputs) - 1
        self._named.append(named)  # or its id could be given to another tensor
        self.inputs.append(sent)
        self._versions.append(version)
        return ref

    def reads(self, x: Tensor) -> bool:
        """Whether a client tensor is one of the inputs."""
        return id(x) in self._refs

    def vector(self, name: str) -> int:
        """Returns the reference of a frozen vector."""
        ref = self._refs.get(name)
        if ref is None:
            ref = self._refs[name] = -2 * len(self.tensors) - 2
            self.tensors.append(name)
        return ref

    def add(self, node: NodeKey, plane: Plane, handle: weakref.ref[StandIn]) -> None:
        """Adds a node; its index is the number of nodes before."""
        self.nodes.append(node)
        self.planes.append(plane)
        self.handles.append(handle)

    def absorb(self, other: Recording) -> None:
        """Takes over the nodes of a recording over as many rows, in the same mode."""
        moved: dict[int, int] = {}
        for index, named in enumerate(other._named):
            ref = self._refs.get(id(named))
            sent, version = other.inputs[index], other._versions[index]
            moved[-2 * index - 1] = self._take(named, sent, version) if ref is None else ref
        moved |= {-2 * index - 2: self.vector(name) for index, name in enumerate(other.tensors)}
        offset = len(self.nodes)
        for node, plane, handle in zip(other.nodes, other.planes, other.handles, strict=True):
            args = tuple(arg + offset if arg >= 0 else moved[arg] for arg in node.args)
            self.add(node._replace(args=args), plane, handle)
            deferred = handle()
            if deferred is not None and deferred._value is None:
                deferred._recording, deferred._index = self, deferred._index + offset

    def force(self, index: int) -> None:
        """Computes node `index`, and with it all others that are alive.

        A loss is computed alone: what it was made of, such as the logits, is rarely looked at and large.
        """
        wanted = {
            node: deferred
            for node, handle in enumerate(self.handles)
            if (deferred := handle()) is not None and deferred._value is None
        }
        if self.nodes[index].fn == "cross_entropy":
            wanted = {index: wanted[index]}
        self._check_versions()
        values = self.forcing.compute(self, tuple(wanted), [deferred._shape for deferred in wanted.values()])
        for deferred, value in zip(wanted.values(), values, strict=True):
            deferred._settle(value)

    def _check_versions(self) -> None:
        for x, version in zip(self.inputs, self._versions, strict=True):
            if version >= 0 and x._version != version:
                raise UsageError(
                    f"a tensor of shape {tuple(x.shape)} was modified in place after it went into a frozen layer "
                    "and before the layer's result was used; modify a clone, or load with cut='siblings'"
                )
