"""What every policy does with a lead: rows of it, and of whoever waits for the same, and whether to hold it."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.levels import Cell
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request

__all__ = ["batch", "chunk", "first_come", "first_ready", "put_first", "take_along"]

_ASKED: Final = 8
"""Of how many groups of requests it is asked whether they are better held: it bounds what a decision costs."""


def batch(lead: Request, queues: Queues, max_rows: int, *, exact: bool = False, chunked: bool = True) -> Plan:
    """Returns the next rows of `lead`, and all that may ride with it, by priority: no more than `max_rows` rows.

    `exact`: all that is left of it, alone. `chunked`: of each lane at most its `chunk_rows` rows.
    """
    if exact:
        return Plan(lead.op, lead.direction, (queues.left(lead),))
    key, cells, rows = (lead.op, lead.direction), [], 0
    for level in queues.levels:
        if (cell := level.cells.get(key)) is not None:
            cells.append(cell)
            rows += cell.rows
    parts: list[Part] = []
    if rows <= max_rows and (not chunked or rows <= queues.least_chunk_rows):
        for cell in cells:
            parts += cell.parts.values()
        if parts[0].request is not lead:
            put_first(queues.left(lead), parts)
        return Plan(lead.op, lead.direction, tuple(parts))
    budgets = dict(queues.chunk_rows) if chunked else dict.fromkeys(queues.chunk_rows, max_rows)
    first = chunk(queues.left(lead), min(budgets[lead.lane], max_rows))
    budgets[lead.lane] -= first.rows
    parts, room = [first], max_rows - first.rows
    for cell in cells:
        if room:
            room = take_along(cell, lead, parts, budgets, room)
    return Plan(lead.op, lead.direction, tuple(parts))


def first_come(waiting: Iterable[tuple[Request, int]]) -> Request | None:
    """Returns the request of the least ticket; None where there is none."""
    return min(waiting, key=itemgetter(1), default=(None, 0))[0]


def chunk(left: Part, most: int) -> Part:
    """Returns the first rows of a part, `most` of them at most."""
    return left if left.rows <= most else Part(left.request, left.start, left.start + most)


def put_first(lead: Part, parts: list[Part]) -> None:
    """Puts one of them before the others."""
    if parts[0] is not lead:
        parts.remove(lead)
        parts.insert(0, lead)


def take_along(cell: Cell, lead: Request, parts: list[Part], budgets: dict[str, int], room: int) -> int:
    """Adds rows of all in `cell` but the lead, as far as budgets and room last; returns the room that is left."""
    rows = cell.rows
    if (own := cell.parts.get(lead)) is not None:
        rows -= own.stop - own.start
        if not rows:
            return room
    riders = list(cell.parts.values())
    if own is not None:
        riders.remove(own)
    if rows <= room and rows <= min(budgets.values()):
        parts += riders
        return room - rows
    for rider in riders:
        lane = rider.request.lane
        most = min(budgets[lane], room)
        if not most:
            if not room:
                break
            continue
        part = chunk(rider, most)
        parts.append(part)
        budgets[lane] -= part.rows
        room -= part.rows
    return room


def first_ready(
    heads: Iterable[Request], queues: Queues, known: Known, now_us: int, max_rows: int
) -> tuple[Request | None, int]:
    """Returns the first head that is not better held; or None, and when the first of all holds ends.

    Heads that wait for the same are asked about once, and of different ones no more than `_ASKED`: the next is
    not held. There must be a head.
    """
    earliest: int | None = None
    asked = 0
    same: set[Request] = set()
    for head in heads:
        if head in same:
            continue
        lane = queues.lane(head.lane)
        if asked == _ASKED or not lane.config.max_hold_us:
            return head, 0
        level = lane.level
        until_us = known.convoys.hold_until(head, level, now_us, max_rows)
        if until_us is None:
            return head, 0
        asked += 1
        earliest = until_us if earliest is None else min(earliest, until_us)
        if asked == len(level.cells):
            break  # all others wait for one of these
        same.update(level.cells[head.op, head.direction].parts)
    assert earliest is not None  # the caller has heads
    return None, earliest
