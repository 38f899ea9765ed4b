"""The graph cut of one model: what is recorded, and the trips that recordings become.

Every distinct recording is taught to the daemon once, as a `Segment`; afterwards it is found by its key, a tuple.
A decode step and a training step of the same model make the same segments, and so do two clients whose adapters
sit at the same places: these are the ones that the daemon can batch.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from symbiosis_adapters.deferred import Deferred, defer, pending, root_of, value_of
from symbiosis_adapters.recording import DTYPES, Mode, NodeKey, Recording, StandIn
from symbiosis_adapters.remote import FrozenLinear
from symbiosis_adapters.rows import Rows
from symbiosis_adapters.segment_rows import Trip, answers
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import Direction, DType, OpSpec, Plane, TensorSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Deferral", "FrozenVector", "Operand"]


class Operand(NamedTuple):
    """One argument of a node: a reference, and what its rows are."""

    ref: int
    plane: Plane
    needs_grad: bool


class FrozenVector(nn.Parameter):
    """A small parameter that was fetched, so that the daemon has its values, too.

    It notices when its `data` is taken: no version counts what is done to that.
    """

    lent = False

    @property
    def data(self) -> Tensor:
        """The values, as any tensor has them."""
        self.lent = True
        values: Tensor = _DATA.__get__(self)
        return values

    @data.setter
    def data(self, value: Tensor) -> None:
        _DATA.__set__(self, value)


_DATA: Final[Any] = Tensor.data


class _Known:
    """What the daemon has under the name of a `FrozenVector`."""

    __slots__ = ("_address", "_values", "_version", "name", "plane", "vector")

    def __init__(self, vector: FrozenVector, spec: TensorSpec) -> None:
        self.vector = vector
        self.name = spec.name
        self.plane = Plane(spec.shape[0], spec.dtype)
        self._values = vector.detach().clone()
        self._version, self._address = vector._version, vector.data_ptr()

    def still(self) -> bool:
        """Whether the vector is what the daemon has. Compares values only where something was done to it."""
        vector = self.vector
        if vector._version == self._version and vector.data_ptr() == self._address and not vector.lent:
            return True
        values = self._values
        if vector.dtype is not values.dtype or not torch.equal(vector.detach(), values.to(vector.device)):
            return False
        self._version, self._address = vector._version, vector.data_ptr()
        return True


class Deferral:
    """Records for one model over one session. Several threads may use it, each with recordings of its own."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._known: dict[int, _Known] = {}
        self._trips: dict[Any, Trip] = {}
        self._open = threading.local()
        self.forced: Final[Counter[str]] = Counter()
        """How often each trip was made, by name; for `explain`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferral:
        return self

    def know(self, parameter: Tensor, spec: TensorSpec) -> None:
        """From now on `parameter`, if it is a frozen vector, is named instead of sent."""
        if len(spec.shape) == 1 and spec.dtype.is_floating and type(parameter) is nn.Parameter:
            parameter.__class__ = FrozenVector  # in place, for modules hold it already
            assert isinstance(parameter, FrozenVector)
            self._known[id(parameter)] = _Known(parameter, spec)

    # -- recording -------------------------------------------------------------------------------------------

    def linear(self, op: OpSpec, x: Tensor) -> Tensor | None:
        """Records a linear over rows; None where it cannot be."""
        recorded = self._linear(op, x)
        if recorded is None and type(x) is Deferred:
            computed: Tensor = FrozenLinear(self._rows, op)(value_of(x))
            return computed
        return recorded

    def _linear(self, op: OpSpec, x: Tensor) -> Deferred | None:
        plane = Plane(*op.row_in(Direction.FORWARD))
        recording = self.recording_of(x, x.shape[:-1])
        if recording is None:
            return None
        operand = self.operand(recording, x, x.shape[:-1])
        if operand is None or operand.plane != plane:
            return None
        node = NodeKey(Fn.LINEAR.value, (operand.ref,), op.id)
        return self.add(recording, node, Plane(*op.row_out(Direction.FORWARD)), x.shape[:-1], [operand])

    def siblings(self, op: OpSpec, x: Tensor) -> tuple[Deferred, ...] | None:
        """Records fused siblings: one linear, of which each member takes its columns."""
        fused = self._linear(op, x)
        if fused is None:
            return None
        recording = fused._recording
        assert recording is not None  # it was just made
        whole = Operand(fused._index, Plane(op.width_out, op.dtype), fused._needs_grad)
        members, start = [], 0
        for width in op.widths_out:
            node = NodeKey(Fn.TAKE.value, (whole.ref,), start=start, width=width)
            members.append(self.add(recording, node, Plane(width, op.dtype), x.shape[:-1], [whole]))
            start += width
        return tuple(members)

    def lookup(self, op: OpSpec, ids: Tensor) -> Deferred | None:
        """Records an embedding of int64 ids of any shape."""
        recording = self.recording_of(ids, ids.shape)
        if recording is None:
            return None
        operand = Operand(recording.input(ids), Plane(1, DType.INT64), needs_grad=False)
        node = NodeKey(Fn.LOOKUP.value, (operand.ref,), op.id)
        return self.add(recording, node, Plane(*op.row_out(Direction.FORWARD)), ids.shape, [operand])

    def recording_of(self, x: Tensor, lead: torch.Size) -> Recording | None:
        """Returns the recording that work on `x` belongs to; None where nothing may be deferred now."""
        mode = Mode(torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if pending(x):
            assert isinstance(x, Deferred)
            recording = root_of(x)._recording
            if recording is not None:
                if torch.is_autocast_enabled(recording.device.type):
                    return None
                if self._grows(recording, mode):
                    return recording
        x = value_of(x)
        if torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
            return None
        rows = lead.numel()
        if not rows:
            return None
        latest: weakref.ref[Recording] | None = getattr(self._open, "latest", None)
        last = latest() if latest is not None else None
        if last is not None and last.rows == rows and last.reads(x) and self._grows(last, mode):
            return last
        fresh = Recording(self, rows, mode, x.device)
        self._open.latest = weakref.ref(fresh)
        return fresh

    def _grows(self, recording: Recording, mode: Mode) -> bool:
        """Whether this thread may now add to a recording. That of another model has another catalogue."""
        return (
            recording.forcing is self
            and recording.mode == mode
            and recording.thread == threading.get_ident()
            and not recording.full
        )

    def operand(self, recording: Recording, x: Tensor, lead: torch.Size) -> Operand | None:
        """Returns `x` as an argument; None if it is nothing that a row can meet."""
        if type(x) is Deferred:
            if pending(x):
                return self._pending_operand(recording, x, lead)
            x = value_of(x)
        if type(x) is FrozenVector:
            known = self._known.get(id(x))
            if known is None or x.requires_grad or x.device != recording.device or not known.still():
                return None
            return Operand(recording.vector(known.name), known.plane, needs_grad=False)
        dtype = DTYPES.get(x.dtype)
        shape = x.shape
        if dtype is None or not dtype.is_floating or len(shape) != len(lead) + 1 or shape[:-1] != lead:
            return None
        if type(x) is not Tensor or not shape[-1] or x.device != recording.device:
            return None
        needs_grad = recording.mode.grad and x.requires_grad
        return Operand(recording.input(x), Plane(shape[-1], dtype), needs_grad)

    def _pending_operand(self, recording: Recording, x: Deferred, lead: torch.Size) -> Operand | None:
        root = root_of(x)
        assert root._recording is not None  # it is pending
        if x._shape[:-1] != lead:
            return None
        if root._recording is not recording:
            other = root._recording
            if other.rows != recording.rows or other.device != recording.device:
                return None
            if not self._grows(other, recording.mode) or not recording.has_room_for(other):
                return None
            recording.absorb(other)
        plane = recording.planes[root._index]
        return Operand(root._index, plane, root._needs_grad)

    def add(
        self, recording: Recording, node: NodeKey, plane: Plane, lead: torch.Size, operands: list[Operand]
    ) -> Deferred:
        """Adds a node and returns what stands for it."""
        needs_grad = any(operand.needs_grad for operand in operands)
        index = len(recording.nodes)
        made = defer(recording, index, (*lead, plane.width), torch_dtype(plane.dtype), needs_grad=needs_grad)
        recording.add(node, plane, weakref.ref(made))
        return made

    # -- trips -----------------------------------------------------------------------------------------------

    def compute(self, recording: Recording, wanted: Sequence[StandIn]) -> list[Tensor]:
        """See `Forcing.compute`."""
        indices = tuple([each._index for each in wanted])
        planes = tuple([(x.shape[-1] if x.dtype is not torch.int64 else 1, x.dtype) for x in recording.inputs])
        key = (tuple(recording.nodes), planes, tuple(recording.tensors), indices)
        trip = self._trips.get(key)
        if trip is None:
            trip = self._trips[key] = self._trip(recording, indices)
        recording.check_versions(trip.inputs)
        self.forced[trip.spec.name] += 1
        if recording.mode.grad:
            recording.pass_by(trip.read)
        return answers(trip, recording, wanted)

    def _trip(self, recording: Recording, wanted: tuple[int, ...]) -> Trip:
        """Makes the segment of what `wanted` is computed from, and teaches it to the daemon."""
        derived = _derived(recording, wanted)
        asked = [node for node in wanted if node not in derived]
        needed = _needed(recording, asked)
        refs = {arg for index in needed for arg in recording.nodes[index].args}
        read = frozenset(ref for ref in refs if ref >= 0)
        inputs = [index for index in range(len(recording.inputs)) if -2 * index - 1 in refs]
        tensors = [index for index in range(len(recording.tensors)) if -2 * index - 2 in refs]
        order = [*[-2 * index - 1 for index in inputs], *[-2 * index - 2 for index in tensors], *needed]
        place = {ref: value for value, ref in enumerate(order)}
        segment = Segment(
            tuple([_plane(recording.inputs[index]) for index in inputs]),
            tuple([recording.tensors[index] for index in tensors]),
            tuple([_node(recording.nodes[index], place) for index in needed]),
            tuple([place[index] for index in asked]),
        )
        return Trip(self._rows, self._rows.learn(segment), tuple(inputs), read, derived)


def _needed(recording: Recording, asked: list[int]) -> list[int]:
    needed = set(asked)
    for index in range(len(recording.nodes) - 1, -1, -1):
        if index in needed:
            needed.update(arg for arg in recording.nodes[index].args if arg >= 0)
    return sorted(needed)


def _derived(recording: Recording, wanted: tuple[int, ...]) -> dict[int, NodeKey]:
    """Returns the wanted nodes that only cast another wanted one, or take columns of it.

    Cheaper done here than sent twice, and columns share the memory of their whole, as they do in torch.
    """
    nodes = {index: recording.nodes[index] for index in wanted}
    return {index: node for index, node in nodes.items() if node.fn in ("cast", "take") and node.args[0] in nodes}


def _plane(x: Tensor) -> Plane:
    return Plane(1 if x.dtype is torch.int64 else x.shape[-1], DTYPES[x.dtype])


def _node(key: NodeKey, place: dict[int, int]) -> Node:
    args = tuple([place[arg] for arg in key.args])
    dtype = DType(key.dtype) if key.dtype else None
    return Node(Fn(key.fn), args, key.op, key.number, key.start, key.width, dtype)
