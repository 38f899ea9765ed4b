"""Which recording an op or a function goes into, and what stands for its result: the graph cut of one model.

A tensor of the client opens a recording, or joins the thread's latest; a pending one brings its own. Where neither
may grow now (another mode of torch, another thread, autocast, no room) the answer is None, and the op is computed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import Mode, NodeKey, Passage, Recording, StandIn
from symbiosis_adapters.deferred.tensor import Deferred, defer, pending, root_of, value_of
from symbiosis_adapters.recorded.offers import Offer
from symbiosis_adapters.recorded.some_rows import over_some_rows
from symbiosis_adapters.recorded.vectors import Vectors
from symbiosis_adapters.trips.rows import Rows
from symbiosis_adapters.trips.trips import Trips
from symbiosis_core.specs import OpSpec, Plane
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["Deferral"]

_MODES: Final = {(grad, inference): Mode(grad, inference) for grad in (False, True) for inference in (False, True)}


def _mode() -> Mode:
    """Returns what torch is told now; the same object for the same mode."""
    return _MODES[torch.is_grad_enabled(), torch.is_inference_mode_enabled()]


class Deferral:
    """Records for one model over one session. Several threads may use it, each with recordings of its own."""

    def __init__(self, rows: Rows) -> None:
        self.trips: Final = Trips(rows)
        self.vectors: Final = Vectors()
        self._open = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> Deferral:
        return self

    # -- ops -------------------------------------------------------------------------------------------------

    def offer(self, op: OpSpec) -> Offer:
        """Returns what the methods that record take for an op of the catalogue."""
        return Offer.of(op)

    def linear(self, op: Offer, x: Tensor) -> Deferred | None:
        """Records a linear over rows; None where it cannot be."""
        found = self._source(op, x)
        if found is None:
            return None
        recording, ref, needs_grad, lead = found
        return self.add(recording, NodeKey("linear", (ref,), op.id), op.plane_out, lead, needs_grad)

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
            members.append(self.add(recording, node, plane, lead, needs_grad))
            start += plane.width
        return tuple(members)

    def lookup(self, op: Offer, ids: Tensor) -> Deferred | None:
        """Records an embedding of int64 ids of any shape."""
        if type(ids) is not Tensor or not ids.numel() or torch.is_autocast_enabled(ids.device.type):
            return None
        recording = self._recording(ids, ids.numel())
        node = NodeKey("lookup", (recording.input(ids),), op.id)
        return self.add(recording, node, op.plane_out, ids.shape, needs_grad=False)

    def passage(self, passage: Passage, x: Deferred) -> Deferred | None:
        """Records what a module is known to do to a pending tensor; None where nothing may be deferred now."""
        root = root_of(x)
        recording = self.recording_of(root)
        if recording is None:
            return None
        node = NodeKey("passage", (root._index,), passage.id)
        return self.add(recording, node, passage.plane, x._shape[:-1], root._needs_grad)

    # -- recordings ------------------------------------------------------------------------------------------

    def add(
        self, recording: Recording, node: NodeKey, plane: Plane, lead: torch.Size, needs_grad: bool
    ) -> Deferred:
        """Adds a node and returns what stands for it."""
        shape = (*lead, plane.width)
        made = defer(recording, len(recording.nodes), shape, TORCH_DTYPES[plane.dtype], needs_grad=needs_grad)
        recording.add(node, plane, weakref.ref(made))
        return made

    def recording_of(self, x: Deferred) -> Recording | None:
        """Returns the recording of a pending tensor that is no view; None where nothing may be added to it now."""
        recording = x._recording
        if recording is None or not self.grows(recording) or torch.is_autocast_enabled(recording.device.type):
            return None
        return recording

    def grows(self, recording: Recording) -> bool:
        """Whether this thread may now add to a recording. That of another model has another catalogue."""
        return (
            recording.forcing is self
            and not recording.full
            and recording.mode is _mode()
            and recording.thread == threading.get_ident()
        )

    def compute(self, recording: Recording, wanted: Sequence[StandIn]) -> list[Tensor]:
        """See `Forcing.compute`."""
        return self.trips.compute(recording, wanted)

    def _source(self, op: Offer, x: Tensor) -> tuple[Recording, int, bool, torch.Size] | None:
        """Returns where an op on `x` is recorded; None where it must be computed now.

        That is: the recording, the reference of `x`, whether `x` needs a gradient, and its leading sizes.
        """
        if type(x) is Deferred and x._taken is not None:
            some = self._some_rows(x, *x._taken)
            x = x if some is None else some
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

    def _some_rows(self, x: Deferred, whole: Deferred, index: tuple[slice, ...]) -> Deferred | None:
        """Records anew what some rows of a pending tensor are made of; None where its value serves better.

        Once for each tensor: who takes rows of it again will want most of them.
        """
        root = root_of(whole)
        recording = self.recording_of(root) if pending(whole) and x._shape.numel() else None
        if recording is None or root._rows_went or self.trips.is_observed:
            return None
        root._rows_went = True
        x._passed = x._needs_grad
        lead = x._shape[:-1]
        fresh, node = over_some_rows(recording, root._index, whole._shape[:-1], index[:-1], lead.numel())
        return self.add(fresh, node, recording.planes[root._index], lead, root._needs_grad)

    def _recording(self, x: Tensor, rows: int) -> Recording:
        """Returns the recording that a client tensor goes into: the latest if that reads it, else a new one."""
        latest: weakref.ref[Recording] | None = getattr(self._open, "latest", None)
        last = latest() if latest is not None else None
        if last is not None and last.rows == rows and last.reads(x) and self.grows(last):
            return last
        fresh = Recording(self, rows, _mode(), x.device)
        self._open.latest = weakref.ref(fresh)
        return fresh
