"""What batches take in virtual time: what those of a trace took.

The time that an op's curve expects, drawn out as one of the recorded ones like it was. Every lane has curves of
its own, beside the first lane and not: their batches had other threads, and shared the cores with others. Where
the daemon has two curves for a forward, with slopes kept and without, so has each of these.
"""

from __future__ import annotations

from typing import NamedTuple

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.simulation.tape import Tape

__all__ = ["Service", "Way"]

_Batch = tuple[OpId, Direction, int, bool]
"""Op, direction and rows, and whether slopes are kept where that costs something."""
_Like = tuple[OpId | None, Direction, bool, int]
"""Op, direction, whether slopes are kept, and bits of the rows; of a whole direction None, False and 0."""


class Way(NamedTuple):
    """How a batch is computed: for the sake of which lane, and whether beside the first."""

    lane: str
    beside: bool


class _Served:
    """The batches that were computed in the same way."""

    def __init__(self) -> None:
        self.costs = Costs()
        self.batches: list[tuple[_Batch, int]] = []
        self.strays: dict[_Like, list[float]] = {}
        """How times were to those expected."""
        self._expected: dict[_Batch, float] = {}

    def expected_us(self, batch: _Batch) -> float:
        found = self._expected.get(batch)
        if found is None:
            op, direction, rows, kept = batch
            found = self._expected[batch] = self.costs.expected_us(op, direction, rows, kept=kept) or 0.0
        return found

    def has_seen(self, batch: _Batch) -> bool:
        """Whether there was any of that op and direction with about as many rows."""
        return _like(batch) in self.strays

    def settle(self) -> None:
        """Compares all that was noted with the curves that were learned of it."""
        self._expected.clear()
        for batch, took_us in self.batches:
            if expected_us := self.expected_us(batch):
                for key in (_like(batch), _any(batch)):
                    self.strays.setdefault(key, []).append(took_us / expected_us)
        self.batches.clear()

    def took_us(self, batch: _Batch, tape: Tape) -> float:
        strays = self.strays.get(_like(batch)) or self.strays.get(_any(batch)) or ()
        return self.expected_us(batch) * tape.next(strays, 1.0)


class Service:
    """All batches of a trace: noted first, and then drawn from."""

    def __init__(self) -> None:
        self._served: dict[Way, _Served] = {}
        self._likest: dict[Way, list[_Served]] = {}
        """All, those first whose way is the likest."""

    def __repr__(self) -> str:
        return f"<Service of {sum(each.costs.learned for each in self._served.values())} batches>"

    def note(self, way: Way, batch: _Batch, took_us: int) -> None:
        """A batch took so long, all that came before it included."""
        served = self._served.get(way)
        if served is None:
            served = self._served[way] = _Served()
            self._likest.clear()
        op, direction, rows, kept = batch
        if kept:
            served.costs.tell_apart(op)
        served.costs.learn(op, direction, rows, took_us, kept=kept)
        served.batches.append((batch, took_us))

    def took_us(self, way: Way, batch: _Batch, tape: Tape) -> float:
        """Returns how long a batch takes: as in the likest way in which there was one with about as many rows.

        Where there was none, as the likest way that knows anything of it would have it: far beyond the rows that
        were seen a curve has the usual shape, which may be wrong by several times.
        """
        likest = self._likest.get(way)
        if likest is None:
            likest = self._likest[way] = self._by_likeness(way)
        for served in likest:
            if served.batches:
                served.settle()
        for served in likest:
            if served.has_seen(batch):
                return served.took_us(batch, tape)
        for served in likest:
            if served.expected_us(batch):
                return served.took_us(batch, tape)
        return 1.0

    def knows(self, way: Way, batch: _Batch) -> bool:
        """Whether there was a batch of that op and direction with about as many rows, computed in that way."""
        served = self._served.get(way)
        return served is not None and served.has_seen(batch)

    def _by_likeness(self, way: Way) -> list[_Served]:
        ways = sorted(self._served, key=lambda each: (each.lane != way.lane, each.beside != way.beside))
        return [self._served[each] for each in ways]


def _like(batch: _Batch) -> _Like:
    """Returns what batches have in common with one that are like it."""
    op, direction, rows, kept = batch
    return op, direction, kept, rows.bit_length()


def _any(batch: _Batch) -> _Like:
    """Returns what all batches of a direction have in common."""
    return None, batch[1], False, 0
