"""The books of holding: every hold is closed once, and where holds do not pay, nobody is held."""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.costs import Curve, Point
from symbiosis_scheduler.decisions.holds import Holds
from symbiosis_scheduler.decisions.meetings import Meeting
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers

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


def curve(**us: int) -> Curve:
    """Returns what was measured a hundred times: `one` row, `two` rows."""
    return Curve(tuple([Point(rows, us[name], 100) for rows, name in ((1, "one"), (2, "two")) if name in us]))


def test_a_hold_ends_with_what_was_saved_less_what_was_waited() -> None:
    """Saved is what the two take apart, less what they took; the third that was awaited did not come."""
    holds, lead = Holds(), request(1)
    hold(holds, lead, 100, 200, 1000, 2, 3)
    hold(holds, lead, 150, 999, 999)  # it goes on: the first counts
    joint = plan(lead, request(2))
    holds.started(joint, now_us=400)
    holds.started(plan(lead), now_us=500)
    assert holds.count == 0, "it is being computed"
    holds.finished(joint, 1500, curve(one=1000, two=1020))
    holds.finished(joint, 1500, curve(one=1000, two=1020))
    status = holds.status(error_us=-1.0, pause_us=5.0)
    assert (status.count, status.hits, status.expected_us, status.actual_us) == (1, 1, 800, 2000 - 1500 - 300)
    assert (status.prediction_error_us, status.pause_us, status.off) == (0.0, 5.0, False)
    assert (status.waited_us, status.due_error_us) == (300, 100), "the last is late by a hundred at least"


def test_who_is_awaited_instead_of_somebody_who_left_counts_as_come() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 200, 1000, 2)
    hold(holds, lead, 100, 200, 1000, 3)
    joint = plan(lead, request(3))
    holds.started(joint, now_us=300)
    holds.finished(joint, 1100, curve(one=1000, two=1100))
    assert (holds.hits, holds.actual_us) == (1, 2000 - 1100 - 300)


def test_what_a_batch_saved_is_of_those_holds_whose_company_came() -> None:
    """Two of its requests were held, one for somebody who is there and one for somebody who is not."""
    holds, lead, other = Holds(), request(1), request(4)
    hold(holds, lead, 0, 200, 1000, 2)
    hold(holds, other, 0, 200, 1000, 3)
    joint = plan(lead, other, request(2))
    holds.started(joint, now_us=300)
    holds.finished(joint, 1100, curve(one=1000, two=1050))
    assert (holds.count, holds.hits, holds.actual_us) == (2, 1, 1000 + 1050 - 1100 - 2 * 300)


def test_of_a_plan_that_failed_nothing_is_said() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 1, 2, 2)
    joint = plan(lead, request(2))
    holds.started(joint, 10)
    holds.failed(joint)
    holds.finished(joint, 1, curve(one=1000))
    assert holds.count == 0 and holds.actual_us == 0


def test_one_batch_during_which_the_machine_was_elsewhere_does_not_end_holding() -> None:
    holds = Holds()
    for step in range(32):
        lead = request(1)
        hold(holds, lead, 0, 10, 900, 2)
        joint = plan(lead, request(2))
        holds.started(joint, 10)
        holds.finished(joint, 1_000_000 if step == 7 else 1100, curve(one=1000, two=1100))
    assert not holds.off and holds.actual_us > 0


def test_holding_ends_where_a_joint_batch_is_no_cheaper_than_the_curves_say_of_two() -> None:
    """Everybody comes as predicted, and the curve promises that a second row is for nothing. It is not."""
    holds = Holds()
    for _ in range(16):
        assert holds.allowed()
        lead = request(1)
        hold(holds, lead, 0, 10, 980, 2)
        joint = plan(lead, request(2))
        holds.started(joint, 10)
        holds.finished(joint, 2000, curve(one=1000, two=1020))
    assert holds.hits == 16 and holds.expected_us > 0 > holds.actual_us
    assert holds.off and not holds.allowed()


def test_who_leaves_while_it_is_held_is_forgotten() -> None:
    holds, lead = Holds(), request(1)
    hold(holds, lead, 0, 1, 2, 2)
    holds.left(ClientId(1))
    joint = plan(lead)
    holds.started(joint, 10)
    holds.finished(joint, 10, curve(one=10))
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
    joint = plan(lead, request(2))
    holds.started(joint, 6400)
    holds.finished(joint, 1000, curve(one=1000, two=1000))
    assert (holds.expected_us, holds.actual_us, holds.waited_us) == (900, 800, 6400)


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
            alone = plan(lead)
            holds.started(alone, 90)
            holds.finished(alone, 100, curve(one=100))
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
        joint = plan(lead, request(2))
        holds.started(joint, 20)
        holds.finished(joint, 110, curve(one=100))
    assert not holds.off and holds.hits == 200


def test_holds_of_those_who_go_together_to_see_whether_it_pays_turn_nothing_off() -> None:
    """What they cost and bring is told all the same."""
    holds = Holds()
    for _ in range(200):
        lead = request(1)
        meeting = Meeting(frozenset([ClientId(2)]), 100, 0, 1.0, 1e6, foretold=False)
        holds.hold(lead, 0, 1_000_000, frozenset({lead.client}), meeting)
        alone = plan(lead)
        holds.started(alone, now_us=5000)
        holds.finished(alone, 1000, curve(one=1000))
    assert holds.actual_us == -200 * 5000
    assert not holds.off
