"""What fits as a whole is put together at once, and it is what would be put together piece by piece."""

from __future__ import annotations

import random

import pytest

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.filling import batch, chunk, take_along
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from tests.scheduler.counter import request

MAX_ROWS = 24


def waiting(dice: random.Random) -> tuple[DaemonConfig, Queues, list[Request]]:
    """Returns lanes of one to three levels, and what waits there; some of it was begun."""
    lanes = {
        f"l{n}": LaneConfig(priority=dice.randrange(3), chunk_rows=dice.choice((4, 16, 64)))
        for n in range(dice.randrange(1, 4))
    }
    config = DaemonConfig(lanes=lanes, batching=BatchingConfig(max_rows=MAX_ROWS))
    queues, asked = Queues(lanes), list[Request]()
    for client in range(dice.randrange(1, 9)):
        each = request(client, dice.choice(list(lanes)), op=dice.randrange(2), rows=dice.randrange(1, 9))
        queues.push(each, taken=dice.randrange(each.rows))
        asked.append(each)
    return config, queues, asked


def piece_by_piece(lead: Request, queues: Queues) -> list[Part]:
    budgets = dict(queues.chunk_rows)
    parts = [chunk(queues.left(lead), min(budgets[lead.lane], MAX_ROWS))]
    budgets[lead.lane] -= parts[0].rows
    room = MAX_ROWS - parts[0].rows
    for level in queues.levels:
        cell = level.cells.get((lead.op, lead.direction))
        if cell is not None and room:
            room = take_along(cell, lead, parts, budgets, room)
    return parts


def rows(parts: list[Part]) -> list[tuple[ClientId, int, int]]:
    return [(part.request.client, part.start, part.stop) for part in parts]


@pytest.mark.parametrize("seed", range(20))
def test_what_has_room_as_a_whole_is_the_same_batch(seed: int) -> None:
    dice = random.Random(seed)
    at_once = 0
    for _ in range(50):
        config, queues, asked = waiting(dice)
        lead = dice.choice(asked)
        assert rows(list(batch(lead, queues, MAX_ROWS).parts)) == rows(piece_by_piece(lead, queues))

        policy, level = LatencyFirst(config), queues.lane(lead.lane).level
        policy._delayed = [dice.randrange(len(asked) + 1) for _ in queues.levels]
        whole = policy._all(lead, level, queues)
        if whole is not None:
            at_once += 1
            parts, lowest = policy._fill(lead, level, queues)
            assert (rows(whole[0]), whole[1]) == (rows(parts), lowest)
    assert 10 < at_once < 45
