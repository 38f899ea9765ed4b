"""Everything that waits, in the orders that policies ask for.

Lanes of equal priority form a *level*. A level keeps its requests in two orders:

- `turns`, by client: the client that has gone without service longest comes first, and its requests stand in
  order of arrival, the *head* first. A client joins at the end and goes to the end when rows of its head are
  taken, so that nobody shuts out a client of the same level, however many requests or chunks he has. Rows of
  its other requests do not count: a client that rides along with others must not lose its turn by that.
- `cells`, by op and direction: in order of arrival, except that a request of which a part was taken goes to the
  end. This is what a batch is filled from: the part that is left of every request is made when it comes, and a
  cell that fits into a batch goes there as it is.

A *lane* keeps its requests in order of arrival, for ageing: the oldest is the first. A *ticket* numbers requests
in order of arrival; it tells who came before or after an event.

Every change costs O(1) per request concerned (plus O(levels) for a client), whatever else waits or has ever
waited. Orders that are asked for their first are `OrderedDict`s: to find it a plain dict walks over every key that
was deleted before it. The others are plain: they are walked as a whole, and that takes half the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from symbiosis_core.config import LaneConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Cell", "Lane", "Level", "Queues"]

_MANY: Final = 8
"""For fewer riders it does not pay to see first whether they are all that waits."""


class Cell:
    """What waits for one op in one direction. Policies read it; only `Queues` changes it."""

    __slots__ = ("parts", "rows")

    def __init__(self) -> None:
        self.parts: dict[Request, Part] = {}
        """What is left of every request."""
        self.rows = 0
        """Of all of them."""

    def __repr__(self) -> str:
        return f"<Cell of {len(self.parts)} requests, {self.rows} rows>"


class Lane:
    """What waits in one lane. Policies read it; only `Queues` changes it."""

    __slots__ = ("config", "level", "name", "rows", "waiting")

    def __init__(self, name: str, config: LaneConfig, level: Level) -> None:
        self.name = name
        self.config = config
        self.level = level
        self.rows = 0
        """Rows that have not been taken."""
        self.waiting: OrderedDict[Request, int] = OrderedDict()
        """Every request with rows left, with its ticket, in order of arrival."""

    def __repr__(self) -> str:
        return f"<Lane {self.name}: {len(self.waiting)} requests, {self.rows} rows>"


class Level:
    """Lanes of one priority. Policies read it; only `Queues` changes it."""

    __slots__ = ("ageing", "cells", "lane_names", "lanes", "priority", "rank", "turns")

    def __init__(self, rank: int, priority: int) -> None:
        self.rank = rank
        """Position in `Queues.levels`: 0 goes first."""
        self.priority = priority
        self.lanes: tuple[Lane, ...] = ()
        self.lane_names: tuple[str, ...] = ()
        self.ageing: tuple[Lane, ...] = ()
        """Those of its lanes that age."""
        self.turns: OrderedDict[ClientId, dict[Request, None]] = OrderedDict()
        self.cells: dict[tuple[OpId, Direction], Cell] = {}

    def __repr__(self) -> str:
        return f"<Level {self.rank}: {', '.join(lane.name for lane in self.lanes)}>"

    @property
    def count(self) -> int:
        """How many requests wait in all its lanes."""
        lanes = self.lanes
        return len(lanes[0].waiting) if len(lanes) == 1 else sum([len(lane.waiting) for lane in lanes])

    def heads(self) -> Iterator[Request]:
        """Yields the oldest request of every client, the client whose turn it is first."""
        for requests in self.turns.values():
            yield next(iter(requests))


class _Tickets:
    """Numbers requests."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0


class Queues:
    """Everything that waits. No iterator taken from here survives a change."""

    __slots__ = ("_lanes", "_tickets", "lanes", "levels")

    def __init__(self, lanes: Mapping[str, LaneConfig]) -> None:
        priorities = sorted({config.priority for config in lanes.values()})
        self.levels = tuple(Level(rank, priority) for rank, priority in enumerate(priorities))
        self._lanes = {
            name: Lane(name, config, self.levels[priorities.index(config.priority)])
            for name, config in lanes.items()
        }
        for level in self.levels:
            level.lanes = tuple(lane for lane in self._lanes.values() if lane.level is level)
            level.lane_names = tuple(lane.name for lane in level.lanes)
            level.ageing = tuple(lane for lane in level.lanes if lane.config.max_wait_us)
        self.lanes = tuple(lane for level in self.levels for lane in level.lanes)
        """By priority; equal ones in the order of the configuration."""
        self._tickets = _Tickets()

    def __repr__(self) -> str:
        return f"<Queues {len(self)} requests, {self.rows} rows>"

    def __len__(self) -> int:
        return sum([len(lane.waiting) for lane in self.lanes])

    @property
    def rows(self) -> int:
        """Rows that wait, in all lanes."""
        return sum([lane.rows for lane in self.lanes])

    @property
    def tickets(self) -> int:
        """The ticket of the newest request: how many there have ever been."""
        return self._tickets.last

    def part(self, start: int, stop: int | None = None) -> Queues:
        """Returns these very queues, seen from the levels `start` to `stop` (exclusive) alone."""
        part = object.__new__(Queues)
        part._tickets = self._tickets
        part.levels = self.levels[start:stop]
        part.lanes = tuple(lane for level in part.levels for lane in level.lanes)
        part._lanes = {lane.name: lane for lane in part.lanes}
        return part

    def has(self, lane: str) -> bool:
        """Whether there is a lane of that name."""
        return lane in self._lanes

    def lane(self, name: str) -> Lane:
        """Returns the lane of that name. Raises KeyError where there is none."""
        return self._lanes[name]

    def taken(self, request: Request) -> int:
        """Returns how many rows of a waiting request have been taken. Raises KeyError if it does not wait."""
        return self._lanes[request.lane].level.cells[request.op, request.direction].parts[request].start

    def held_by(self, client: ClientId) -> int:
        """Returns how many requests of the client wait."""
        return sum([len(level.turns[client]) for level in self.levels if client in level.turns])

    def push(self, request: Request, taken: int = 0) -> None:
        """Adds a request behind everything that waits. So many of its rows have been taken already."""
        lane = self._lanes[request.lane]
        level = lane.level
        self._tickets.last += 1
        lane.waiting[request] = self._tickets.last
        lane.rows += request.rows - taken
        key = (request.op, request.direction)
        cell = level.cells.get(key)
        if cell is None:
            cell = level.cells[key] = Cell()
        cell.parts[request] = Part(request, taken, request.rows)
        cell.rows += request.rows - taken
        own = level.turns.get(request.client)
        if own is None:
            own = level.turns[request.client] = {}
        own[request] = None

    def take(self, *parts: Part) -> None:
        """Takes the next rows of requests for one op; a request without rows left is gone from here.

        Raises:
            LocalProtocolError: some are not the next ones of a waiting request; the policy has a bug.
        """
        first, name = parts[0].request, ""
        key = (first.op, first.direction)
        if len(parts) >= _MANY and self._take_whole_levels(key, parts):
            return
        for part in parts:  # the hot loop: 64 riders are nothing special
            request = part.request
            if request.lane != name:
                name = request.lane
                lane = self._lanes[name]
                turns, cell = lane.level.turns, lane.level.cells.get(key) or Cell()
                in_lane, in_cell = lane.waiting, cell.parts
            left = in_cell.get(request)
            if left is not part and not _continues(part, left):
                raise LocalProtocolError(f"rows {part.start} to {part.stop} are not the next ones of {request}")
            client, stop = request.client, part.stop
            if stop < request.rows or len(turns[client]) > 1:
                self._cut(part, lane, cell)
                continue
            rows = stop - part.start
            lane.rows -= rows
            cell.rows -= rows
            del in_lane[request], in_cell[request], turns[client]
            if not in_cell:
                del lane.level.cells[key]

    def discard(self, request: Request) -> int:
        """Removes what is left of a request, and returns how many rows that was: none if it does not wait."""
        lane = self._lanes[request.lane]
        if request not in lane.waiting:
            return 0
        return self._forget(request, lane, lane.level.cells[request.op, request.direction])

    def remove(self, client: ClientId) -> int:
        """Removes everything of a client and returns how many requests that were."""
        removed = [request for level in self.levels for request in level.turns.get(client, ())]
        for request in removed:
            self.discard(request)
        return len(removed)

    def moved_to(self, lanes: Mapping[str, LaneConfig]) -> Queues:
        """Returns queues of other lanes with all that waits here, in order of arrival.

        Raises:
            KeyError: something waits in a lane that is not among them.
        """
        fresh = Queues(lanes)
        waiting = [(ticket, request) for lane in self.lanes for request, ticket in lane.waiting.items()]
        for _, request in sorted(waiting, key=lambda each: each[0]):
            fresh.push(request, self.taken(request))
        return fresh

    def check(self) -> None:
        """Asserts that all orders tell of the same requests, and that nothing empty is kept."""
        for level in self.levels:
            by_lane = {request for lane in level.lanes for request in lane.waiting}
            by_turn = [(client, request) for client, own in level.turns.items() for request in own]
            by_cell = [(key, request) for key, cell in level.cells.items() for request in cell.parts]
            assert len(by_lane) == len(by_turn) == len(by_cell) == sum(len(lane.waiting) for lane in level.lanes)
            assert by_lane == {request for _, request in by_turn} == {request for _, request in by_cell}
            assert all(client == request.client for client, request in by_turn)
            assert all(key == (request.op, request.direction) for key, request in by_cell)
            assert all(level.turns.values()) and all(cell.parts for cell in level.cells.values())
            for cell in level.cells.values():
                assert cell.rows == sum(part.rows for part in cell.parts.values())
                assert all(part.request is request for request, part in cell.parts.items())
                assert all(part.stop == request.rows for request, part in cell.parts.items())
            tickets = {request: ticket for lane in level.lanes for request, ticket in lane.waiting.items()}
            for own in level.turns.values():
                assert sorted(own, key=tickets.__getitem__) == list(own)
        for lane in self.lanes:
            assert all(request.lane == lane.name for request in lane.waiting)
            assert sorted(lane.waiting.values()) == list(lane.waiting.values())
            assert lane.rows == sum(request.rows - self.taken(request) for request in lane.waiting)
            assert all(0 <= self.taken(request) < request.rows for request in lane.waiting)

    def _take_whole_levels(self, key: tuple[OpId, Direction], parts: Sequence[Part]) -> bool:
        """Takes `parts` where these are all that waits in some levels, as convoys are; False: they are not."""
        given, emptied = set(parts), list[Level]()
        for level in self.levels:
            cell = level.cells.get(key)
            if cell is not None and len(level.cells) == 1 and given.issuperset(cell.parts.values()):
                emptied.append(level)
        if len(given) != len(parts) or sum([len(level.cells[key].parts) for level in emptied]) != len(parts):
            return False
        for level in emptied:
            level.turns.clear()
            level.cells.clear()
            for lane in level.lanes:
                lane.waiting.clear()
                lane.rows = 0
        return True

    def _cut(self, part: Part, lane: Lane, cell: Cell) -> None:
        """Takes rows after which the client still has something that waits."""
        request, turns = part.request, lane.level.turns
        if next(iter(turns[request.client])) is request:
            turns.move_to_end(request.client)
        if part.stop == request.rows:
            self._forget(request, lane, cell)
            return
        rows = part.stop - part.start
        lane.rows -= rows
        cell.rows -= rows
        del cell.parts[request]  # else it would keep its old place in the order
        cell.parts[request] = Part(request, part.stop, request.rows)

    def _forget(self, request: Request, lane: Lane, cell: Cell) -> int:
        """Removes a request that waits, and returns how many of its rows were left."""
        level = lane.level
        del lane.waiting[request]
        left = cell.parts.pop(request).rows
        lane.rows -= left
        cell.rows -= left
        if not cell.parts:
            del level.cells[request.op, request.direction]
        own = level.turns[request.client]
        del own[request]
        if not own:
            del level.turns[request.client]
        return left


def _continues(part: Part, left: Part | None) -> bool:
    """Whether these are the next rows of what is left."""
    return left is not None and part.start == left.start and part.start < part.stop <= left.stop
