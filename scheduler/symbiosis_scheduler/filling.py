"""What every policy does with a lead: rows of it, and of whoever waits for the same, and whether to hold it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.known import Known
from symbiosis_scheduler.plan import Part, Plan
from symbiosis_scheduler.queues import Cell, Queues
from symbiosis_scheduler.request import Request

__all__ = ["batch", "first_ready", "take_along"]

_ASKED: Final = 8
"""Of how many groups of requests it is asked whether they are better held: it bounds what a decision costs."""


def batch(lead: Request, queues: Queues, max_rows: int, *, exact: bool = False, chunked: bool = True) -> Plan:
    """Returns the next rows of `lead`, and all that may ride with it, by priority: no more than `max_rows` rows.

    `exact`: whole and alone. `chunked`: of each lane at most its `chunk_rows` rows.
    """
    if exact:
        return Plan(lead.op, lead.direction, (Part(lead, 0, lead.rows),))
    key = (lead.op, lead.direction)
    budgets = {lane.name: lane.config.chunk_rows if chunked else max_rows for lane in queues.lanes}
    start = queues.taken(lead)
    rows = min(lead.rows - start, budgets[lead.lane], max_rows)
    parts = [Part(lead, start, start + rows)]
    budgets[lead.lane] -= rows
    room = max_rows - rows
    for level in queues.levels:
        if room and (cell := level.cells.get(key)) is not None:
            room = take_along(cell, lead, parts, budgets, room)
    return Plan(lead.op, lead.direction, tuple(parts))


def take_along(cell: Cell, lead: Request, parts: list[Part], budgets: dict[str, int], room: int) -> int:
    """Adds rows of all in `cell` but the lead, as far as budgets and room last; returns the room that is left."""
    for request, start in cell.items():  # the hot loop: 64 riders are nothing special
        lane = request.lane
        rows, budget = request.rows - start, budgets[lane]
        if rows > budget:
            rows = budget
        if rows > room:
            rows = room
        if rows and request is not lead:
            parts.append(Part(request, start, start + rows))
            budgets[lane] = budget - rows
            room -= rows
            if not room:
                break
    return room


def first_ready(
    heads: Iterable[Request], queues: Queues, known: Known, now_us: int, max_rows: int
) -> tuple[Request | None, int]:
    """Returns the first head that is not better held; or None, and when the first of all holds ends.

    Heads that wait for the same are asked about once, and of different ones no more than `_ASKED`: the next is
    not held. There must be a head.
    """
    earliest: int | None = None
    asked: set[tuple[OpId, Direction]] = set()
    for head in heads:
        key = (head.op, head.direction)
        if key in asked:
            continue
        lane = queues.lane(head.lane)
        most_us = lane.config.max_hold_us if len(asked) < _ASKED else 0
        if not most_us:
            return head, 0
        asked.add(key)
        level = lane.level
        until_us = known.convoys.hold_until(head, level.cells[key], level.turns, now_us, most_us, max_rows)
        if until_us is None:
            return head, 0
        earliest = until_us if earliest is None else min(earliest, until_us)
    assert earliest is not None  # the caller has heads
    return None, earliest
