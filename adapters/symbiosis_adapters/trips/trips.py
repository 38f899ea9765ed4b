"""The trips of one model: what its recordings become when somebody looks.

Every distinct recording is taught to the daemon once, as a `Segment`; afterwards it is found by its key, a tuple.
A decode step and a training step of the same model make the same segments, and so do two clients whose adapters
sit at the same places: these are the ones that the daemon can batch.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import NodeKey, Passage, Recording, StandIn
from symbiosis_adapters.trips.drafting import draft
from symbiosis_adapters.trips.needs import what_needs_it
from symbiosis_adapters.trips.rows import Rows
from symbiosis_adapters.trips.segment_rows import Trip, answers
from symbiosis_core.specs import Plane

__all__ = ["Observer", "Trips"]

Observer = Callable[[Trip, Recording, Sequence[StandIn], Sequence[Tensor]], None]
"""Is told of a trip that was made: of what recording, for whom, and the values."""


class Trips:
    """Makes the trips of one model over one session. Several threads may use it."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._known: dict[Any, Trip] = {}
        self._observed = threading.local()
        self.passages: Final[dict[int, Passage]] = {}
        """All that recordings of this model may name, by their numbers."""
        self._numbers = itertools.count()  # no two threads draw the same, as they might a list's length
        self.made: Final[Counter[str]] = Counter()
        """How often each trip was made, by name; for `explain`."""

    def known(self) -> list[Trip]:
        """Returns the trips that the daemon was taught."""
        return list(self._known.values())

    def keep(self, nodes: tuple[NodeKey, ...], tensors: tuple[str, ...], plane: Plane) -> Passage:
        """Returns a new passage, which recordings may name from now on."""
        passage = Passage(next(self._numbers), nodes, tensors, plane)
        self.passages[passage.id] = passage
        return passage

    def compute(self, recording: Recording, wanted: Sequence[StandIn]) -> list[Tensor]:
        """See `Forcing.compute`."""
        indices = tuple([each._index for each in wanted])
        planes = tuple([(x.shape[-1] if x.dtype is not torch.int64 else 1, x.dtype) for x in recording.inputs])
        key = (tuple(recording.nodes), planes, tuple(recording.tensors), indices)
        trip = self._known.get(key)
        if trip is None:
            trip = self._known[key] = self._learn(recording, indices)
        recording.check_versions(trip.inputs)
        self.made[trip.spec.name] += 1
        if recording.mode.grad:
            recording.pass_by(trip.read)
        values = answers(trip, recording, wanted)
        observer: Observer | None = getattr(self._observed, "observer", None)
        if observer is not None:
            observer(trip, recording, wanted, values)
        return values

    def _learn(self, recording: Recording, wanted: tuple[int, ...]) -> Trip:
        """Teaches the daemon the segment of what `wanted` is computed from."""
        drafted = draft(recording, wanted, self.passages)
        spec = self._rows.learn(drafted.segment)
        return Trip(self._rows, spec, drafted.inputs, drafted.read, drafted.derived, what_needs_it())

    @property
    def is_observed(self) -> bool:
        """Whether somebody writes this thread's trips down, to make them again when numbers may have changed."""
        return getattr(self._observed, "observer", None) is not None

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Tells `observer` of all trips that this thread makes inside."""
        self._observed.observer = observer
        try:
            yield
        finally:
            self._observed.observer = None
