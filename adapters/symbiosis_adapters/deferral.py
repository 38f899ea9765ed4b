"""The graph cut of one model: what is recorded, and the trips that recordings become.

Every distinct recording is taught to the daemon once, as a `Segment`; afterwards it is found by its key, a tuple.
A decode step and a training step of the same model make the same segments, and so do two clients whose adapters
sit at the same places: these are the ones that the daemon can batch.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from symbiosis_adapters.deferred import Deferred, defer, pending, root_of, sizes_read, value_of
from symbiosis_adapters.derived import Derivations, Derived, derivation_of
from symbiosis_adapters.recording import DTYPES, Mode, NodeKey, Passage, Recording, StandIn
from symbiosis_adapters.rows import Rows
from symbiosis_adapters.segment_rows import Trip, answers
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import Direction, DType, OpSpec, Plane, TensorSpec
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["Deferral", "FrozenVector", "Known", "Offer", "Operand", "Watch"]


class Operand(NamedTuple):
    """One argument of a node: a reference, and what its rows are."""

    ref: int
    plane: Plane
    needs_grad: bool
    frozen: bool = False
    """Whether it is a frozen vector: the same for every row."""


class Offer(NamedTuple):
    """An op of the catalogue, with all that recording it asks for."""

    id: int
    dtype: torch.dtype
    """Of the rows that it takes."""
    tail: tuple[int, ...]
    plane_in: Plane
    plane_out: Plane
    members: tuple[Plane, ...]
    """What each takes of the output, where it is siblings."""

    @classmethod
    def of(cls, op: OpSpec) -> Offer:
        """Returns the offer of an op."""
        (plane_in,), (plane_out,) = op.planes_in(Direction.FORWARD), op.planes_out(Direction.FORWARD)
        members = tuple([Plane(width, op.dtype) for width in op.widths_out])
        return cls(op.id, TORCH_DTYPES[plane_in.dtype], (op.width_in,), plane_in, plane_out, members)


class Watch(NamedTuple):
    """What a recording was like before a module began."""

    recording: Recording
    nodes: int
    sizes_read: int


_MODES: Final = {(grad, inference): Mode(grad, inference) for grad in (False, True) for inference in (False, True)}


def _mode() -> Mode:
    """Returns what torch is told now; the same object for the same mode."""
    return _MODES[torch.is_grad_enabled(), torch.is_inference_mode_enabled()]


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


class Known:
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


Observer = Callable[[Trip, Recording, Sequence[StandIn], Sequence[Tensor]], None]
"""Is told of a trip that was made: of what recording, for whom, and the values."""


class Deferral:
    """Records for one model over one session. Several threads may use it, each with recordings of its own."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._known: dict[int, Known] = {}
        self._trips: dict[Any, Trip] = {}
        self._passages: list[Passage] = []
        self._open = threading.local()
        self.forced: Final[Counter[str]] = Counter()
        """How often each trip was made, by name; for `explain`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferral:
        return self

    def frozen(self, parameter: Any) -> Known | None:
        """Returns what the daemon has under the name of a parameter; None if it is no vector of this model."""
        return self._known.get(id(parameter)) if type(parameter) is FrozenVector else None

    def known(self, names: Iterable[str]) -> list[Known]:
        """Returns what the daemon has under these names of frozen vectors."""
        wanted = set(names)
        return [known for known in self._known.values() if known.name in wanted]

    def know(self, parameter: Tensor, spec: TensorSpec) -> None:
        """From now on `parameter`, if it is a frozen vector, is named instead of sent."""
        if len(spec.shape) == 1 and spec.dtype.is_floating and type(parameter) is nn.Parameter:
            parameter.__class__ = FrozenVector  # in place, for modules hold it already
            assert isinstance(parameter, FrozenVector)
            self._known[id(parameter)] = Known(parameter, spec)

    # -- recording -------------------------------------------------------------------------------------------

    def offer(self, op: OpSpec) -> Offer:
        """Returns what the methods that record take for an op of the catalogue."""
        return Offer.of(op)

    def linear(self, op: Offer, x: Tensor) -> Deferred | None:
        """Records a linear over rows; None where it cannot be."""
        found = self._source(op, x)
        if found is None:
            return None
        recording, ref, needs_grad, lead = found
        return self._add(recording, NodeKey("linear", (ref,), op.id), op.plane_out, lead, needs_grad)

    def siblings(self, op: Offer, x: Tensor) -> tuple[Deferred, ...] | None:
        """Records fused siblings: one linear, of which each member takes its columns."""
        found = self._source(op, x)
        if found is None:
            return None
        recording, ref, needs_grad, lead = found
        fused, start, members = len(recording.nodes), 0, []
        recording.add(NodeKey("linear", (ref,), op.id), op.plane_out, None)
        for plane in op.members:
            node = NodeKey("take", (fused,), -1, None, start, plane.width)
            members.append(self._add(recording, node, plane, lead, needs_grad))
            start += plane.width
        return tuple(members)

    def lookup(self, op: Offer, ids: Tensor) -> Deferred | None:
        """Records an embedding of int64 ids of any shape."""
        if type(ids) is not Tensor or not ids.numel() or torch.is_autocast_enabled(ids.device.type):
            return None
        recording = self._recording(ids, ids.numel())
        node = NodeKey("lookup", (recording.input(ids),), op.id)
        return self._add(recording, node, op.plane_out, ids.shape, needs_grad=False)

    def passage(self, passage: Passage, x: Deferred) -> Deferred | None:
        """Records what a module is known to do to a pending tensor; None where nothing may be deferred now."""
        root = root_of(x)
        recording = self.recording_of(root)
        if recording is None:
            return None
        node = NodeKey("passage", (root._index,), passage.id)
        return self._add(recording, node, passage.plane, x._shape[:-1], root._needs_grad)

    def recording_of(self, x: Deferred) -> Recording | None:
        """Returns the recording of a pending tensor that is no view; None where nothing may be added to it now."""
        recording = x._recording
        if recording is None or not self._grows(recording) or torch.is_autocast_enabled(recording.device.type):
            return None
        return recording

    def _source(self, op: Offer, x: Tensor) -> tuple[Recording, int, bool, torch.Size] | None:
        """Returns where an op on `x` is recorded; None where it must be computed now.

        That is: the recording, the reference of `x`, whether `x` needs a gradient, and its leading sizes.
        """
        if type(x) is Deferred and pending(x):
            root = root_of(x)
            recording = self.recording_of(root)
            if recording is not None:
                if recording.planes[root._index] != op.plane_in:
                    return None
                return recording, root._index, root._needs_grad, x._shape[:-1]
        x = value_of(x)
        shape = x.shape
        if type(x) is not Tensor or x.dtype is not op.dtype or shape[-1:] != op.tail or not x.numel():
            return None
        if torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
            return None
        lead = shape[:-1]
        recording = self._recording(x, lead.numel())
        return recording, recording.input(x), recording.mode.grad and x.requires_grad, lead

    def _recording(self, x: Tensor, rows: int) -> Recording:
        """Returns the recording that a client tensor goes into: the latest if that reads it, else a new one."""
        latest: weakref.ref[Recording] | None = getattr(self._open, "latest", None)
        last = latest() if latest is not None else None
        if last is not None and last.rows == rows and last.reads(x) and self._grows(last):
            return last
        fresh = Recording(self, rows, _mode(), x.device)
        self._open.latest = weakref.ref(fresh)
        return fresh

    def _grows(self, recording: Recording) -> bool:
        """Whether this thread may now add to a recording. That of another model has another catalogue."""
        return (
            recording.forcing is self
            and not recording.full
            and recording.mode is _mode()
            and recording.thread == threading.get_ident()
        )

    def operand(self, recording: Recording, x: Tensor, lead: torch.Size) -> Operand | None:
        """Returns `x` as an argument; None if it is nothing that a row can meet."""
        if type(x) is Deferred:
            if pending(x):
                return self._pending_operand(recording, x, lead)
            x = value_of(x)
        if type(x) is FrozenVector:
            return self._frozen_operand(recording, x)
        if (derived := derivation_of(x)) is not None:
            return self._derived_operand(recording, derived)
        dtype = DTYPES.get(x.dtype)
        shape = x.shape
        if dtype is None or not dtype.is_floating or len(shape) != len(lead) + 1 or shape[:-1] != lead:
            return None
        if type(x) is not Tensor or not shape[-1] or x.device != recording.device:
            return None
        needs_grad = recording.mode.grad and x.requires_grad
        return Operand(recording.input(x), Plane(shape[-1], dtype), needs_grad)

    def _frozen_operand(self, recording: Recording, x: Tensor) -> Operand | None:
        known = self._known.get(id(x))
        if known is None or x.requires_grad or x.device != recording.device or not known.still():
            return None
        return Operand(recording.vector(known.name), known.plane, needs_grad=False, frozen=True)

    def _derived_operand(self, recording: Recording, derived: Derived) -> Operand | None:
        """Has the daemon make what was made here of a frozen vector."""
        operand = self._frozen_operand(recording, derived.vector)
        if operand is None:
            return None
        for node in derived.nodes:
            plane = Plane(operand.plane.width, DType(node.dtype) if node.dtype else operand.plane.dtype)
            recording.add(node._replace(args=(operand.ref,)), plane, None)
            operand = operand._replace(ref=len(recording.nodes) - 1, plane=plane)
        return operand

    def _pending_operand(self, recording: Recording, x: Deferred, lead: torch.Size) -> Operand | None:
        root = root_of(x)
        assert root._recording is not None  # it is pending
        if x._shape[:-1] != lead:
            return None
        if root._recording is not recording:
            other = root._recording
            if other.rows != recording.rows or other.device != recording.device:
                return None
            if not self._grows(other) or not recording.has_room_for(other):
                return None
            recording.absorb(other)
        plane = recording.planes[root._index]
        return Operand(root._index, plane, root._needs_grad)

    def add(
        self, recording: Recording, node: NodeKey, plane: Plane, lead: torch.Size, operands: Sequence[Operand]
    ) -> Deferred:
        """Adds a node and returns what stands for it."""
        return self._add(recording, node, plane, lead, any(operand.needs_grad for operand in operands))

    def _add(
        self, recording: Recording, node: NodeKey, plane: Plane, lead: torch.Size, needs_grad: bool
    ) -> Deferred:
        shape = (*lead, plane.width)
        made = defer(recording, len(recording.nodes), shape, TORCH_DTYPES[plane.dtype], needs_grad=needs_grad)
        recording.add(node, plane, weakref.ref(made))
        return made

    def replace(self, x: Deferred, other: Deferred) -> bool:
        """Lets `x` stand for what `other`, which nobody else has, stands for: it was changed in place.

        Returns False, and leaves it, where that would not look as it does with a tensor that has a value.
        """
        recording = other._recording
        if recording is None or x._recording is not recording or x._needs_grad != other._needs_grad:
            return False
        same = (x._shape, x._dtype) == (other._shape, other._dtype)
        if not same or recording.shares_columns(x._index):
            return False
        recording.handles[x._index] = None
        recording.handles[other._index] = weakref.ref(x)
        x._index, x._changes = other._index, x._changes + 1
        return True

    # -- passages --------------------------------------------------------------------------------------------

    def watch(self, x: Deferred) -> Watch | None:
        """Begins to watch what is done to a pending tensor; None where nothing may be deferred now."""
        recording = self.recording_of(root_of(x))
        return None if recording is None else Watch(recording, len(recording.nodes), sizes_read())

    def derivations(self) -> Derivations:
        """Returns what sees vectors being made of this model's frozen ones; see `derived`."""
        return Derivations(lambda x: type(x) is FrozenVector and id(x) in self._known and not x.requires_grad)

    def watched(self, watch: Watch, x: Deferred, output: Any) -> Passage | None:
        """Returns what was done to `x`, if it was done to nothing else, gave one value and left nothing behind."""
        recording, source = watch.recording, root_of(x)
        last = len(recording.nodes) - 1
        if (
            type(output) is not Deferred
            or output._recording is not recording
            or source._recording is not recording
        ):
            return None
        if output._index != last or last < watch.nodes or output._shape[:-1] != x._shape[:-1]:
            return None
        left = [
            handle
            for handle in recording.handles[watch.nodes : last]
            if handle is not None and handle() is not None
        ]
        if sizes_read() != watch.sizes_read or left:
            return None
        relative = _relative(recording, watch.nodes, source._index, self._passages)
        if relative is None:
            return None
        passage = Passage(len(self._passages), *relative, recording.planes[last])
        self._passages.append(passage)
        return passage

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
        values = answers(trip, recording, wanted)
        observer: Observer | None = getattr(self._open, "observer", None)
        if observer is not None:
            observer(trip, recording, wanted, values)
        return values

    @property
    def is_observed(self) -> bool:
        """Whether somebody writes this thread's trips down, to make them again when numbers may have changed."""
        return getattr(self._open, "observer", None) is not None

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Tells `observer` of all trips that this thread makes inside."""
        self._open.observer = observer
        try:
            yield
        finally:
            self._open.observer = None

    def _trip(self, recording: Recording, wanted: tuple[int, ...]) -> Trip:
        """Makes the segment of what `wanted` is computed from, and teaches it to the daemon."""
        derived = _derived(recording, wanted)
        asked = [node for node in wanted if node not in derived]
        needed = _needed(recording, asked)
        refs = {arg for index in needed for arg in recording.nodes[index].args}
        inputs = [index for index in range(len(recording.inputs)) if -2 * index - 1 in refs]
        tensors = self._tensors(recording, needed, refs)
        place = {-2 * index - 1: value for value, index in enumerate(inputs)}
        vectors = {name: len(inputs) + value for value, name in enumerate(tensors)}
        place |= {-2 * k - 2: vectors[name] for k, name in enumerate(recording.tensors) if name in vectors}
        nodes: list[Node] = []
        first = len(inputs) + len(tensors)
        for index in needed:
            node = recording.nodes[index]
            if node.fn != "passage":
                nodes.append(_node(node, place))
            else:
                passage, (value,) = self._passages[node.op], node.args
                inside = {-1: place[value]} | {-2 * k - 2: vectors[name] for k, name in enumerate(passage.tensors)}
                for relative, inner in enumerate(passage.nodes):
                    nodes.append(_node(inner, inside))
                    inside[relative] = first + len(nodes) - 1
            place[index] = first + len(nodes) - 1
        segment = Segment(
            tuple([_plane(recording.inputs[index]) for index in inputs]),
            tuple(tensors),
            tuple(nodes),
            tuple([place[index] for index in asked]),
        )
        read = frozenset(ref for ref in refs if ref >= 0)
        return Trip(self._rows, self._rows.learn(segment), tuple(inputs), read, derived)

    def _tensors(self, recording: Recording, needed: list[int], refs: set[int]) -> list[str]:
        """Returns the frozen vectors that the needed nodes read, those inside of passages too."""
        own = [name for k, name in enumerate(recording.tensors) if -2 * k - 2 in refs]
        passages = [
            self._passages[node.op] for node in map(recording.nodes.__getitem__, needed) if node.fn == "passage"
        ]
        return list(dict.fromkeys([*own, *[name for passage in passages for name in passage.tensors]]))


def _relative(
    recording: Recording, start: int, source: int, passages: list[Passage]
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
        if node.fn != "passage":
            nodes.append(node._replace(args=args))
        else:
            passage, inside = passages[node.op], {-1: args[0]}
            inside |= {-2 * k - 2: vector(name) for k, name in enumerate(passage.tensors)}
            for relative, inner in enumerate(passage.nodes):
                nodes.append(inner._replace(args=tuple([inside[arg] for arg in inner.args])))
                inside[relative] = len(nodes) - 1
        place[index] = len(nodes) - 1
    return tuple(nodes), tuple(tensors)


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
