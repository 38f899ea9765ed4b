"""What a batch costs, by op, direction and rows: learned from batches that were run, asked before the next.

A *curve* keeps one point per power of two of rows: the rows that were seen there and the time they took. A time
is taken into account by moving the point towards it, by at most a step that shrinks with every time seen and ends
at 2 %; so one batch during which the machine was elsewhere does not count for more than any other. Between points
a curve is straight. Beyond them it has the shape of a product that reads its weights once, as it was measured (8
rows cost 1.2 times one row, 256 rows 16 times), and every batch that is run replaces a piece of that guess.

An op that was never run is answered for by all others of its base and direction. Curves can be written down and
taken up again: a *key* names an op by its content, and numbers differ from one daemon to the next.

Batches that are computed beside others (see `tracks`) teach the same curves, though they take longer: a decision
asks what a batch will take as things are, which is what most of the last ones took, and compares batches of the
same op that are stretched alike. A batch that failed teaches nothing. A forward with a loss takes longer where
somebody trains on it (see `slopes`) than where losses are only looked at, so there it has a curve of its own; as
long as one of the two was never run, the other answers for it.

Pure: nothing here looks at a clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from symbiosis_core.ids import FIRST_BASE, BaseId, OpId
from symbiosis_core.segments import Fn, SegmentSpec
from symbiosis_core.specs import Direction, Op

__all__ = ["Costs", "Curve", "Curves", "Point", "cost_key", "usual_shape"]

_BUCKETS: Final = 25
"""Powers of two of rows; `limits.max_rows` is at most 2 ** 24."""
_LEAST_STEP: Final = 0.02
_REMEMBERED: Final = 128
_UNMEASURED_US: Final = 1000.0
"""About what one row through a block of a small model takes. It stands for a few batches after a first start."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One point of a curve, as it is written down."""

    rows: float
    us: float
    seen: int


Curves = dict[str, tuple[tuple[Point, ...], ...]]
"""The points of every op, by its key: forward, backward, and forward with slopes kept, which may be missing."""

_Way = tuple[Direction, bool]
"""A direction, and whether slopes are kept."""
_WAYS: Final[tuple[_Way, ...]] = (
    (Direction.FORWARD, False),
    (Direction.BACKWARD, False),
    (Direction.FORWARD, True),
)


def usual_shape(rows: float) -> float:
    """Returns what so many rows cost, in units of one row, where nothing better is known: flat, then straight."""
    return max(1 + rows / 40, rows / 16)


class Curve:
    """The time of one op in one direction, by rows."""

    __slots__ = ("_expected", "_known", "_rows", "_seen", "_us")

    def __init__(self, points: tuple[Point, ...] = ()) -> None:
        self._rows = [0.0] * _BUCKETS
        self._us = [0.0] * _BUCKETS
        self._seen = [0] * _BUCKETS
        self._known: list[int] = []
        """The buckets that were seen, in order."""
        self._expected: dict[int, float] = {}
        """What was asked since it last learned, by rows: a decision asks for the same few again and again."""
        for point in points:
            bucket = _bucket(int(point.rows))
            self._rows[bucket], self._us[bucket], self._seen[bucket] = point.rows, point.us, point.seen
        self._know()

    def __repr__(self) -> str:
        told = ", ".join(f"{point.rows:.0f} rows {point.us:.0f} us" for point in self.points())
        return f"<Curve {told or 'of nothing'}>"

    def points(self) -> tuple[Point, ...]:
        """Returns what is known, by rows."""
        known = zip(self._rows, self._us, self._seen, strict=True)
        return tuple([Point(rows, us, seen) for rows, us, seen in known if seen])

    def learn(self, rows: int, us: float) -> None:
        """So many rows took so long."""
        self._expected.clear()
        bucket = _bucket(rows)
        seen = self._seen[bucket]
        self._seen[bucket] = seen + 1
        if not seen:
            self._rows[bucket], self._us[bucket] = float(rows), max(us, 1.0)
            self._know()
            return
        step = max(1 / (seen + 1), _LEAST_STEP)
        before = self._us[bucket]
        self._us[bucket] = min(max(us, before * (1 - step), 1.0), before * (1 + step))
        self._rows[bucket] += (rows - self._rows[bucket]) * step

    def expected_us(self, rows: int) -> float | None:
        """Returns how long so many rows will take; None where nothing was ever measured."""
        expected_us = self._expected.get(rows)
        if expected_us is None and self._known:
            expected_us = self._expected[rows] = self._at(rows)
        return expected_us

    def apart_us(self, batches: Iterable[int]) -> float:
        """Returns how long batches of so many rows will take one after the other; 0 where nothing was measured."""
        expected = self._expected
        return sum([expected.get(rows) or self.expected_us(rows) or 0.0 for rows in batches])

    def _at(self, rows: int) -> float:
        """Returns where the curve lies; it has a point."""
        below = above = -1
        for bucket in self._known:
            if self._rows[bucket] <= rows:
                below = bucket
            else:
                above = bucket
                break
        if below < 0 or above < 0:
            at = max(below, above)
            return self._us[at] * usual_shape(rows) / usual_shape(self._rows[at])
        share = (rows - self._rows[below]) / (self._rows[above] - self._rows[below])
        return self._us[below] + share * (self._us[above] - self._us[below])

    def _know(self) -> None:
        self._known = [bucket for bucket, seen in enumerate(self._seen) if seen]


class Costs:
    """The curves of all ops. An op is introduced before it is run; else it counts to the first base."""

    def __init__(self, saved: Sequence[Curves] = ()) -> None:
        """`saved` is what `written_down` returned, base by base, of daemons on the same models and threads."""
        self._saved = dict(enumerate(saved))
        self._keys: dict[OpId, str] = {}
        self._bases: dict[OpId, BaseId] = {}
        self._with_loss: set[OpId] = set()
        self._curves: dict[tuple[OpId, _Way], Curve] = {}
        self._typical: dict[tuple[BaseId, Direction], Curve] = {}
        self.learned = 0
        """Batches that were taken into account since the start."""
        self.error = 0.0
        """By which share of what was expected the last `_REMEMBERED` batches or so were off, one at most each."""

    def __repr__(self) -> str:
        return f"<Costs of {len(self._curves)} ops and ways, from {self.learned} batches>"

    def introduce(self, op: Op, number: OpId, base: BaseId = FIRST_BASE) -> None:
        """From now on batches may be of this op. What was written down of it is taken up."""
        key = self._keys[number] = cost_key(op)
        self._bases[number] = base
        if _has_loss(op):
            self.tell_apart(number)
        for way, points in zip(_WAYS, self._saved.get(base, {}).get(key, ()), strict=False):
            if points:
                self._curves[number, way] = Curve(points)
                for point in points:
                    self._typical_of(number, way[0]).learn(int(point.rows), point.us)

    def tell_apart(self, op: OpId) -> None:
        """From now on forwards of the op that keep slopes have a curve of their own."""
        self._with_loss.add(op)

    def told_apart(self, op: OpId, direction: Direction, *, kept: bool) -> bool:
        """Whether such a batch goes by the curve for slopes: where something is kept, and that costs something."""
        return kept and direction is Direction.FORWARD and op in self._with_loss

    def learn(self, op: OpId, direction: Direction, rows: int, us: float, *, kept: bool = False) -> None:
        """A batch of so many rows took so long; `kept`: something of it was kept for a backward."""
        expected_us = self.expected_us(op, direction, rows, kept=kept)
        where = op, self._way(op, direction, kept)
        curve = self._curves.get(where)
        if curve is None:
            curve = self._curves[where] = Curve()
        curve.learn(rows, us)
        self._typical_of(op, direction).learn(rows, us)
        self.learned += 1
        if expected_us is not None:
            error = min(abs(us - expected_us) / expected_us, 1.0)
            self.error += (error - self.error) / min(self.learned, _REMEMBERED)

    def expected_us(self, op: OpId, direction: Direction, rows: int, *, kept: bool = False) -> float | None:
        """Returns how long a batch will take; None before anything of that base and direction was run."""
        return self.curve(op, direction, kept=kept).expected_us(rows)

    def curve(self, op: OpId, direction: Direction, *, kept: bool = False) -> Curve:
        """Returns what answers for an op in one direction; to be asked, not to be taught."""
        curves, way = self._curves, self._way(op, direction, kept)
        found = curves.get((op, way))
        if found is None and op in self._with_loss:
            found = curves.get((op, (direction, not way[1])))
        return found or self._typical_of(op, direction)

    def likely_us(self, op: OpId, direction: Direction, rows: int, *, kept: bool = False) -> float:
        """Returns how long a batch will take, by a guess where nothing was measured: for who divides time up."""
        expected_us = self.expected_us(op, direction, rows, kept=kept)
        return _UNMEASURED_US * usual_shape(rows) if expected_us is None else expected_us

    def written_down(self, base: BaseId = FIRST_BASE) -> Curves:
        """Returns a base's curves by key, also those taken over of ops that nobody has asked for yet."""
        known = {
            key: tuple([curve.points() if (curve := self._curves.get((op, way))) else () for way in _WAYS])
            for op, key in self._keys.items()
            if self._bases[op] == base
        }
        return self._saved.get(base, {}) | {key: points for key, points in known.items() if any(points)}

    def _way(self, op: OpId, direction: Direction, kept: bool) -> _Way:
        """Returns which of the ways of an op is meant."""
        return direction, kept and direction is Direction.FORWARD and op in self._with_loss

    def _typical_of(self, op: OpId, direction: Direction) -> Curve:
        """Returns the curve of all ops of that op's base."""
        where = (self._bases.get(op, FIRST_BASE), direction)
        typical = self._typical.get(where)
        if typical is None:
            typical = self._typical[where] = Curve()
        return typical


def _has_loss(op: Op) -> bool:
    return isinstance(op, SegmentSpec) and any(node.fn is Fn.CROSS_ENTROPY for node in op.segment.nodes)


def cost_key(op: Op) -> str:
    """Returns what names an op by its content, in every daemon on the same model."""
    if not isinstance(op, SegmentSpec):
        return op.name
    content = hashlib.blake2b(msgspec.msgpack.encode(op.segment), digest_size=8).hexdigest()
    return f"segment {content}"


def _bucket(rows: int) -> int:
    return min(max(rows - 1, 0).bit_length(), _BUCKETS - 1)
