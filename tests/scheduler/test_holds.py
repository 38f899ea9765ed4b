"""The books of holding: every hold is closed once, and where holds do not pay, nobody is held."""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.holds import Holds
from symbiosis_scheduler.meetings import Meeting
from symbiosis_scheduler.plan import Part, Plan
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.travellers import Travellers

FORWARD = Direction.FORWARD


def request(client: int) -> Request:
    return Request(ClientId(client), SlotIndex(0), Generation(1), "inference", OpId(0), FORWARD, 1, 0, 0, 4096)


def plan(*requests: Request) -> Plan:
    return Plan(OpId(0), FORWARD, tuple([Part(each, 0, 1) for each in requests]))


def hold(
    holds: Holds, lead: Request, now_us: int, wait_us: float, worth_us: float, *missing: int, trips: float = 1.0
) -> None:
    """Holds it for these clients, for at most a second."""
    meeting = Meeting(frozenset(map(ClientId, missing)), wait_us, worth_us, trips, 1e6)
    holds.hold(lead, now_us, now_us + 1_000_000, frozenset({lead.client}), meeting)


def test_a_hold_ends_with_what_was_saved_less_what_was_waited() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 100, 200, 1000, 2, 3)
    hold(holds, lead, 150, 999, 999)  # it goes on: the first counts
    holds.started(plan(lead, request(2)), now_us=400)
    holds.started(plan(lead), now_us=500)
    (ended,) = holds.latest
    assert (ended.expected_us, ended.actual_us, ended.waited_us, ended.hit) == (800, 1000 / 2 - 300, 300, True)
    status = holds.status(error_us=-1.0, pause_us=5.0)
    assert (status.count, status.hits, status.expected_us, status.actual_us) == (1, 1, 800, 200)
    assert (status.prediction_error_us, status.pause_us, status.off) == (0.0, 5.0, False)


def test_who_leaves_while_it_is_held_is_forgotten() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 1, 2, 2)
    holds.left(ClientId(1))
    holds.started(plan(lead), 10)
    assert holds.count == 0 and holds.of(lead) is None


def test_who_is_awaited_elsewhere_is_known_and_where_it_is_awaited_it_is_not_elsewhere() -> None:
    holds, lead, other = Holds(), request(1), request(2)
    there = msgspec.structs.replace(other, op=OpId(7))
    assert not holds.awaited_elsewhere(frozenset({ClientId(2)}), there)
    hold(holds, lead, 0, 1, 2, 2)
    assert holds.awaited_elsewhere(frozenset({ClientId(2)}), there)
    assert not holds.awaited_elsewhere(frozenset({ClientId(2)}), other)


def test_a_wait_for_somebody_who_is_met_anew_counts_for_all_the_trips_that_company_lasts() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 3200, 1000, 2, trips=32)
    holds.started(plan(lead, request(2)), 6400)
    (ended,) = holds.latest
    assert (ended.expected_us, ended.actual_us, ended.waited_us) == (900, 800, 6400)


def test_what_is_not_computed_any_more_is_not_held() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 1, 2, 2)
    held = holds.of(lead)
    assert held is not None and held.awaited == {ClientId(2)}
    holds.forget(lead)
    assert holds.of(lead) is None


def test_a_hold_stands_until_something_happens_that_it_rests_on() -> None:
    holds, lead, travellers = Holds(), request(1), Travellers()
    travellers.arrived(request(2))
    hold(holds, lead, 100, 500, 1000, 2)
    held = holds.of(lead)
    assert held is not None
    one, other = frozenset({ClientId(1)}), frozenset({ClientId(1), ClientId(3)})
    assert held.stands(one, 599, travellers.all)
    assert not held.stands(one, 600, travellers.all), "who is awaited is late"
    assert not held.stands(other, 300, travellers.all), "somebody came"
    travellers.arrived(msgspec.structs.replace(request(2), arrived_us=200))
    assert not held.stands(one, 300, travellers.all), "who is awaited has come a step closer"
    travellers.left(ClientId(2))
    assert not held.stands(one, 300, travellers.all), "who is awaited is gone"


def fail(holds: Holds, times: int) -> int:
    """Lets nobody come, as long as holding is allowed, and returns how often it was."""
    held = 0
    for _ in range(times):
        lead = request(1)
        if holds.allowed():
            hold(holds, lead, 0, 10, 100, 2)
            holds.started(plan(lead), 90)
            held += 1
    return held


def test_holding_that_does_not_pay_turns_itself_off_and_tries_again_less_and_less_often() -> None:
    holds = Holds()
    assert fail(holds, 16) == 16 and holds.off
    assert fail(holds, 32) == 0 and not holds.off
    assert fail(holds, 16) == 16 and holds.off
    assert fail(holds, 64) == 0 and not holds.off
    assert fail(holds, 10_000) < 300


def test_a_trial_that_pays_turns_holding_on_for_good() -> None:
    holds = Holds()
    fail(holds, 48)
    for _ in range(200):
        lead = request(1)
        assert holds.allowed()
        hold(holds, lead, 0, 10, 100, 2)
        holds.started(plan(lead, request(2)), 20)
    assert not holds.off and holds.hits == 200
