"""Levels: lanes of one priority, and what waits in them, in two orders.

- `turns`, by client: the client that has gone without service longest comes first, with its *head*, the oldest of
  its requests. A client joins at the end and goes to the end when rows of its head are taken, so that nobody
  shuts out a client of the same level, however many requests or chunks he has. Rows of its other requests, those
  `behind`, do not count: a client that rides along with others must not lose its turn by that. Most have none.
- `cells`, by op and direction: in order of arrival, except that a request of which a part was taken goes to the
  end. This is what a batch is filled from: the part that is left of every request is made when it comes, and a
  cell that fits into a batch goes there as it is.

A *lane* keeps its requests in order of arrival, for ageing: the oldest is the first. Policies read all of it; only
`queues` changes it.

Orders that are asked for their first are `OrderedDict`s: to find it a plain dict walks over every key that was
deleted before it. The others are plain: they are walked as a whole, and that takes half the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Cell", "Lane", "Level"]


class Cell:
    """What waits for one op in one direction."""

    __slots__ = ("parts", "rows")

    def __init__(self) -> None:
        self.parts: dict[Request, Part] = {}
        """What is left of every request."""
        self.rows = 0
        """Of all of them."""

    def __repr__(self) -> str:
        return f"<Cell of {len(self.parts)} requests, {self.rows} rows>"


class Lane:
    """What waits in one lane."""

    __slots__ = ("config", "level", "name", "waiting")

    def __init__(self, name: str, config: LaneConfig, level: Level) -> None:
        self.name = name
        self.config = config
        self.level = level
        self.waiting: OrderedDict[Request, int] = OrderedDict()
        """Every request with rows left, with its ticket, in order of arrival."""

    def __repr__(self) -> str:
        return f"<Lane {self.name}: {len(self.waiting)} requests, {self.rows} rows>"

    @property
    def rows(self) -> int:
        """Rows that have not been taken, counted one request after the other."""
        cells = self.level.cells
        return sum([cells[each.op, each.direction].parts[each].rows for each in self.waiting])


class Level:
    """Lanes of one priority."""

    __slots__ = ("arrived", "behind", "cells", "lane_names", "lanes", "priority", "rank", "turns")

    def __init__(self, rank: int, priority: int) -> None:
        self.rank = rank
        """Position in `Queues.levels`: 0 goes first."""
        self.priority = priority
        self.lanes: tuple[Lane, ...] = ()
        self.lane_names: tuple[str, ...] = ()
        self.turns: OrderedDict[ClientId, Request] = OrderedDict()
        """The oldest request of every client, the client whose turn it is first."""
        self.behind: dict[ClientId, OrderedDict[Request, None]] = {}
        """What a client asks for besides, in order of arrival; nothing empty."""
        self.cells: dict[tuple[OpId, Direction], Cell] = {}
        self.arrived: dict[ClientId, None] = {}
        """Whose requests have come since a plan was asked for last, in order of their first."""

    def __repr__(self) -> str:
        return f"<Level {self.rank}: {', '.join(lane.name for lane in self.lanes)}>"

    def heads(self) -> Iterator[Request]:
        """Returns the oldest request of every client, the client whose turn it is first."""
        return iter(self.turns.values())

    def clear(self) -> None:
        """Forgets everything that waits."""
        self.turns.clear()
        self.behind.clear()
        self.cells.clear()
        for lane in self.lanes:
            lane.waiting.clear()
