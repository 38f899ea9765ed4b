"""Everything that waits, in the orders that policies ask for.

Lanes of equal priority form a *level*, which keeps its requests in two orders (`levels`). A *ticket* numbers
requests in order of arrival; it tells who came before or after an event.

Every change costs O(1) per request concerned (plus O(levels) for a client), whatever else waits or has ever
waited.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from symbiosis_core.config import LaneConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.levels import Cell, Lane, Level
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Queues"]

_TURNS: Final = attrgetter("turns")
_MANY: Final = 8
"""For fewer riders it does not pay to see first whether they are all that waits."""


class _Tickets:
    """Numbers requests."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0


class Queues:
    """Everything that waits. No iterator taken from here survives a change."""

    __slots__ = ("_lanes", "_tickets", "ageing", "chunk_rows", "lanes", "least_chunk_rows", "levels")

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
        self._tickets = _Tickets()
        self._look()

    def __repr__(self) -> str:
        return f"<Queues {len(self)} requests, {self.rows} rows>"

    def __len__(self) -> int:
        return sum([len(lane.waiting) for lane in self.lanes])

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(map(_TURNS, self.levels))

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
        part._lanes = {lane.name: lane for level in part.levels for lane in level.lanes}
        part._look()
        return part

    def has(self, lane: str) -> bool:
        """Whether there is a lane of that name."""
        return lane in self._lanes

    def lane(self, name: str) -> Lane:
        """Returns the lane of that name. Raises KeyError where there is none."""
        return self._lanes[name]

    def left(self, request: Request) -> Part:
        """Returns what has not been taken of a waiting request. Raises KeyError if it does not wait."""
        return self._lanes[request.lane].level.cells[request.op, request.direction].parts[request]

    def taken(self, request: Request) -> int:
        """Returns how many rows of a waiting request have been taken. Raises KeyError if it does not wait."""
        return self.left(request).start

    def held_by(self, client: ClientId) -> int:
        """Returns how many requests of the client wait."""
        return sum([1 + len(level.behind.get(client, ())) for level in self.levels if client in level.turns])

    def push(self, request: Request, taken: int = 0) -> None:
        """Adds a request behind everything that waits. So many of its rows have been taken already."""
        lane = self._lanes[request.lane]
        level = lane.level
        self._tickets.last += 1
        lane.waiting[request] = self._tickets.last
        key = (request.op, request.direction)
        cell = level.cells.get(key)
        if cell is None:
            cell = level.cells[key] = Cell()
        cell.parts[request] = Part(request, taken, request.rows)
        cell.rows += request.rows - taken
        client = request.client
        level.arrived[client] = None
        if level.turns.setdefault(client, request) is not request:
            level.behind.setdefault(client, OrderedDict())[request] = None

    def take(self, *parts: Part) -> None:
        """Takes the next rows of requests for one op; a request without rows left is gone from here.

        Raises:
            LocalProtocolError: some are not the next ones of a waiting request; the policy has a bug.
        """
        first, name = parts[0].request, ""
        key = (first.op, first.direction)
        alone = len(parts) >= _MANY and len(self._lanes[first.lane].level.cells) == 1
        if alone and self._take_whole_levels(key, parts):
            return
        for part in parts:  # the hot loop: 64 riders are nothing special
            request = part.request
            if request.lane != name:
                name = request.lane
                lane = self._lanes[name]
                level, in_lane = lane.level, lane.waiting
                turns, behind, cell = level.turns, level.behind, level.cells.get(key) or Cell()
                in_cell = cell.parts
            left, client = in_cell.get(request), request.client
            if left is part and client not in behind:  # nothing is left of it, nor of its client
                cell.rows -= part.stop - part.start
                del in_lane[request], in_cell[request], turns[client]
                if not in_cell:
                    del level.cells[key]
            elif left is part or _continues(part, left):
                self._cut(part, lane, cell)
            else:
                raise LocalProtocolError(f"rows {part.start} to {part.stop} are not the next ones of {request}")

    def discard(self, request: Request) -> int:
        """Removes what is left of a request, and returns how many rows that was: none if it does not wait."""
        lane = self._lanes[request.lane]
        if request not in lane.waiting:
            return 0
        return self._forget(request, lane, lane.level.cells[request.op, request.direction])

    def remove(self, client: ClientId) -> int:
        """Removes everything of a client and returns how many requests that were."""
        removed = 0
        for level in self.levels:
            level.arrived.pop(client, None)
            while (head := level.turns.get(client)) is not None:
                self.discard(head)
                removed += 1
        return removed

    def noted(self) -> None:
        """A plan was asked for: what comes from now on is new to the policy."""
        for level in self.levels:
            level.arrived.clear()

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
            by_turn = list(level.turns.items())
            by_turn += [(client, request) for client, others in level.behind.items() for request in others]
            by_cell = [(key, request) for key, cell in level.cells.items() for request in cell.parts]
            assert len(by_lane) == len(by_turn) == len(by_cell) == sum(len(lane.waiting) for lane in level.lanes)
            assert by_lane == {request for _, request in by_turn} == {request for _, request in by_cell}
            assert all(client == request.client for client, request in by_turn)
            assert all(key == (request.op, request.direction) for key, request in by_cell)
            assert all(level.behind.values()) and all(cell.parts for cell in level.cells.values())
            for cell in level.cells.values():
                assert cell.rows == sum(part.rows for part in cell.parts.values())
                assert all(part.request is request for request, part in cell.parts.items())
                assert all(part.stop == request.rows for request, part in cell.parts.items())
            tickets = {request: ticket for lane in level.lanes for request, ticket in lane.waiting.items()}
            for client, others in level.behind.items():
                own = [level.turns[client], *others]
                assert sorted(own, key=tickets.__getitem__) == own
        for lane in self.lanes:
            assert all(request.lane == lane.name for request in lane.waiting)
            assert sorted(lane.waiting.values()) == list(lane.waiting.values())
            assert all(0 <= self.taken(request) < request.rows for request in lane.waiting)

    def _look(self) -> None:
        """Keeps ready what plans ask for."""
        self.lanes = tuple(lane for level in self.levels for lane in level.lanes)
        """By priority; equal ones in the order of the configuration."""
        self.ageing = tuple(lane for lane in self.lanes if lane.config.max_wait_us)
        """Those that age."""
        self.chunk_rows: Mapping[str, int] = {lane.name: lane.config.chunk_rows for lane in self.lanes}
        """Of every lane: how many of its rows may be in a plan."""
        self.least_chunk_rows = min(self.chunk_rows.values(), default=0)
        """So many may, whosever they are."""

    def _take_whole_levels(self, key: tuple[OpId, Direction], parts: tuple[Part, ...]) -> bool:
        """Takes `parts` where these are all that waits in some levels, as convoys are; False: they are not.

        It is seen where they stand as policies lay them: the lead, and the others level by level.
        """
        whole = [level for level in self.levels if len(level.cells) == 1 and key in level.cells]
        in_cells = [level.cells[key].parts for level in whole]
        if sum(map(len, in_cells)) != len(parts):
            return False
        there: list[Part] = []
        for in_cell in in_cells:
            there += in_cell.values()
        lead = parts[0]
        if lead is not there[0]:
            if lead not in there:
                return False
            there.remove(lead)
            there.insert(0, lead)
        if tuple(there) != parts:
            return False
        for level in whole:
            level.clear()
        return True

    def _cut(self, part: Part, lane: Lane, cell: Cell) -> None:
        """Takes rows after which the client still has something that waits."""
        request, turns = part.request, lane.level.turns
        if turns[request.client] is request:
            turns.move_to_end(request.client)
        if part.stop == request.rows:
            self._forget(request, lane, cell)
            return
        cell.rows -= part.stop - part.start
        del cell.parts[request]  # else it would keep its old place in the order
        cell.parts[request] = Part(request, part.stop, request.rows)

    def _forget(self, request: Request, lane: Lane, cell: Cell) -> int:
        """Removes a request that waits, and returns how many of its rows were left."""
        level, client = lane.level, request.client
        del lane.waiting[request]
        left = cell.parts.pop(request).rows
        cell.rows -= left
        if not cell.parts:
            del level.cells[request.op, request.direction]
        others = level.behind.get(client)
        if level.turns[client] is not request:
            assert others is not None  # it is one of them
            del others[request]
        elif others is not None:
            level.turns[client] = others.popitem(last=False)[0]
        else:
            del level.turns[client]
        if others is not None and not others:
            del level.behind[client]
        return left


def _continues(part: Part, left: Part | None) -> bool:
    """Whether these are the next rows of what is left."""
    return left is not None and part.start == left.start and part.start < part.stop <= left.stop
