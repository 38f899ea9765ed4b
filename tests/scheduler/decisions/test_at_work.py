"""A plan is told how many clients compute meanwhile: those of this host that were answered a moment ago."""

from __future__ import annotations

import msgspec
import pytest

from symbiosis_core.config import BatchingConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.at_work import AtWork
from symbiosis_scheduler.decisions.events import Adopt, ClientJoined, Run, Turn
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.state import SchedulerState
from tests.scheduler.desk import CONFIG, OPS, SLOT_BYTES, Desk, arrival

EXACT = msgspec.structs.replace(CONFIG, batching=BatchingConfig(max_rows=16, exact=True))


def run(desk: Desk) -> Run:
    [run] = desk.tell(Turn(desk.now_us))
    assert isinstance(run, Run)
    return run


def answered(desk: Desk, client: int, *, here: bool = True) -> None:
    """The client joins, and is served once."""
    desk.tell(ClientJoined(ClientId(client), "training", SLOT_BYTES, here=here))
    desk.arrive(client, arrival())
    desk.finish()


def company(desk: Desk, client: int = 9) -> int | None:
    """Returns what the plan of one more client is told."""
    desk.join(client)
    desk.arrive(client, arrival(op=1))
    return run(desk).company


def test_who_was_answered_computes_and_who_waits_does_not() -> None:
    desk = Desk()
    for client in (1, 2, 3):
        answered(desk, client)
    desk.arrive(2, arrival(generation=2))
    desk.arrive(3, arrival(generation=2))
    assert run(desk).company == 1, "1 computes; 2 is in the plan, and 3 waits for the next one"


@pytest.mark.parametrize(("later_us", "seen"), [(100_000, 1), (100_001, 0)])
def test_who_does_not_come_back_is_not_waited_for(later_us: int, seen: int) -> None:
    desk = Desk()
    answered(desk, 1)
    desk.now_us = later_us
    assert company(desk) == seen


def test_who_left_computes_nothing_here() -> None:
    desk = Desk()
    answered(desk, 1)
    desk.leave(1)
    assert company(desk) == 0


def test_a_client_of_another_host_has_cores_of_its_own() -> None:
    desk = Desk()
    answered(desk, 1, here=False)
    assert company(desk) == 0


def test_a_client_with_one_more_request_open_waits_for_that() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(), arrival(slot=1, op=1))
    desk.done(run(desk).plan)
    assert run(desk).company == 0


@pytest.mark.parametrize("adopted", [False, True])
def test_exact_plans_are_told_of_no_company_for_their_bits_depend_on_threads(adopted: bool) -> None:
    desk = Desk()
    if adopted:
        desk.tell(Adopt(EXACT, LatencyFirst(EXACT)))
    else:
        desk.state = SchedulerState([OPS], EXACT, LatencyFirst(EXACT))
    answered(desk, 1)
    assert company(desk) is None


def test_who_is_answered_again_is_counted_once_and_from_then_on() -> None:
    at_work = AtWork()
    for client, now_us in ((1, 0), (2, 50_000), (1, 90_000)):
        at_work.answered(ClientId(client), now_us)
    assert [at_work.count(now_us) for now_us in (90_000, 150_000, 150_001, 190_000, 190_001)] == [2, 2, 1, 1, 0]
