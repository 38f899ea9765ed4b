"""Every request that is taken is answered exactly once, and nothing of it is kept, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from symbiosis_core.errors import LocalProtocolError, RefusalCode
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.events import (
    Answer,
    Drain,
    Drop,
    Sleep,
    Turn,
)
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold, Part, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from tests.scheduler.desk import Desk, arrival


def test_a_request_is_answered_once_when_its_last_row_is_computed() -> None:
    desk = Desk()
    desk.join(1)
    desk.now_us = 7
    desk.arrive(1, arrival(slot=3, generation=9, rows=10))
    answers: list[Answer] = []
    for _ in range(3):
        assert answers == []
        (plan,) = desk.turn()
        desk.now_us += 1
        answers = desk.done(plan)
    assert answers == [Answer(ClientId(1), SlotIndex(3), Generation(9), None, 7)]
    assert desk.turn() == [] and desk.state.idle


def test_only_a_turn_starts_anything_so_what_came_meanwhile_shares_a_batch() -> None:
    desk = Desk()
    for client in (1, 2, 3):
        desk.join(client, "inference")
        assert desk.arrive(client, arrival()) == []
    (plan,) = desk.turn()
    assert plan.clients == {1, 2, 3}


def test_a_slot_that_was_answered_may_be_published_again() -> None:
    desk = Desk()
    desk.join(1)
    for generation in (1, 2, 3):
        desk.arrive(1, arrival(generation=generation))
        assert [answer.generation for answer in desk.finish()] == [generation]


@pytest.mark.parametrize("running", [False, True])
def test_a_slot_that_is_published_again_before_its_answer_drops_the_client(running: bool) -> None:
    desk = Desk()
    desk.join(1)
    desk.join(2)
    desk.arrive(1, arrival(), arrival(slot=1, op=2))
    plans = desk.turn() if running else []
    desk.arrive(2, arrival(op=1))
    (drop,) = desk.arrive(1, arrival(generation=2), arrival(slot=2))
    assert isinstance(drop, Drop) and drop.client == 1 and "slot 0" in drop.reason
    for plan in plans:
        assert desk.done(plan) == []
    assert [answer.client for answer in desk.finish()] == [2]
    assert desk.arrive(1, arrival(slot=5)) == []
    desk.leave(1)


def test_a_client_that_left_gets_no_answer_and_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=10), arrival(slot=1, op=1))
    (plan,) = desk.turn()
    desk.leave(1)
    assert desk.done(plan) == []
    assert desk.turn() == [] and desk.state.idle


def test_leaving_twice_and_what_unknown_clients_do_is_harmless() -> None:
    desk = Desk()
    desk.join(1)
    for client in (1, 1, 99):
        desk.leave(client)
    assert desk.arrive(99, arrival()) == []
    assert desk.turn() == []


def test_a_client_joins_once_and_in_a_lane_that_exists() -> None:
    desk = Desk()
    desk.join(1)
    with pytest.raises(LocalProtocolError):
        desk.join(1)
    with pytest.raises(LocalProtocolError):
        desk.join(2, "nowhere")


def test_a_call_that_is_not_admitted_is_refused_at_once_and_the_client_lives() -> None:
    desk = Desk()
    desk.join(1)
    desk.now_us = 5
    answers = desk.arrive(1, arrival(0, op=3), arrival(1, rows=41), arrival(2))
    assert answers == [
        Answer(ClientId(1), SlotIndex(0), Generation(1), RefusalCode.UNKNOWN_OP, 5),
        Answer(ClientId(1), SlotIndex(1), Generation(1), RefusalCode.BAD_ROWS, 5),
    ]
    assert [answer.slot for answer in desk.finish()] == [2]


def test_a_draining_state_refuses_what_comes_and_finishes_what_is_there() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=10))
    assert desk.tell(Drain()) == []
    (answer,) = desk.arrive(1, arrival(slot=1))
    assert isinstance(answer, Answer) and answer.refusal is RefusalCode.DRAINING
    assert not desk.state.idle
    assert [answer.refusal for answer in desk.finish()] == [None]
    assert desk.state.idle and desk.state.statistics().draining


def test_a_request_that_fails_is_refused_with_its_code_and_the_rest_of_it_is_not_computed() -> None:
    desk = Desk()
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(1, arrival(rows=2))
    desk.arrive(2, arrival(rows=20))
    (plan,) = desk.turn()
    assert plan.clients == {1, 2}
    answers = desk.done(plan, {plan.parts[1].request: RefusalCode.BAD_INDEX})
    assert [(answer.client, answer.refusal) for answer in answers] == [(1, None), (2, RefusalCode.BAD_INDEX)]
    assert desk.turn() == [] and desk.state.idle


def test_a_failed_request_is_answered_only_when_nothing_writes_to_its_slot_any_more() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=40))
    first, second = desk.turn()
    assert desk.done(first, {first.lead: RefusalCode.FAILED}) == []
    assert [answer.refusal for answer in desk.done(second)] == [RefusalCode.FAILED]


def test_of_two_failures_the_first_is_told() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=40))
    first, second = desk.turn()
    desk.done(first, {first.lead: RefusalCode.BAD_INDEX})
    (answer,) = desk.done(second, {first.lead: RefusalCode.FAILED})
    assert answer.refusal is RefusalCode.BAD_INDEX


def test_an_answer_waits_for_all_chunks_in_whatever_order_they_end() -> None:
    desk = Desk(max_in_flight=3)
    desk.join(1)
    desk.arrive(1, arrival(rows=12))
    first, second, third = desk.turn()
    assert desk.turn() == []
    assert desk.done(third) == desk.done(first) == []
    assert len(desk.done(second)) == 1


def test_a_plan_that_is_not_in_flight_cannot_be_done() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival())
    (plan,) = desk.turn()
    desk.done(plan)
    with pytest.raises(LocalProtocolError):
        desk.done(plan)


# -- other policies --------------------------------------------------------------------------------------------


class Scripted:
    """Answers what a function of the waiting requests says."""

    def __init__(self, decide: Callable[[list[Request]], Decision]) -> None:
        self._decide = decide

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        return self._decide([request for lane in queues.lanes for request in lane.waiting])


def scripted(decide: Callable[[list[Request]], Decision]) -> Desk:
    desk = Desk(lambda _: Scripted(decide))
    desk.join(1)
    desk.arrive(1, arrival(rows=5), arrival(slot=1, op=1))
    return desk


def test_a_policy_that_holds_makes_the_loop_sleep_until_then() -> None:
    desk = scripted(lambda waiting: Hold(until_us=44))
    assert desk.tell(Turn(0)) == [Sleep(44)]
    assert desk.tell(Turn(44)) == [Sleep(44)]


@pytest.mark.parametrize(
    "parts",
    [
        lambda waiting: (),
        lambda waiting: (Part(waiting[0], 0, 6),),
        lambda waiting: (Part(waiting[0], 1, 5),),
        lambda waiting: (Part(waiting[0], 0, 5), Part(waiting[0], 0, 5)),
        lambda waiting: (Part(waiting[0], 0, 5), Part(waiting[1], 0, 1)),
    ],
    ids=["empty", "too many rows", "not the next rows", "twice", "two ops"],
)
def test_a_plan_that_cannot_be_is_the_policys_bug(parts: Callable[[list[Request]], tuple[Part, ...]]) -> None:
    desk = scripted(lambda waiting: Plan(OpId(0), Direction.FORWARD, parts(waiting)))
    with pytest.raises(LocalProtocolError):
        desk.tell(Turn(0))


def test_a_policy_that_forgets_who_waits_is_told_so_instead_of_hanging() -> None:
    desk = scripted(lambda waiting: None)
    with pytest.raises(LocalProtocolError):
        desk.tell(Turn(0))


def test_two_parts_of_one_request_in_a_plan_make_one_answer() -> None:
    desk = scripted(
        lambda waiting: Plan(OpId(0), Direction.FORWARD, (Part(waiting[0], 0, 2), Part(waiting[0], 2, 5)))
    )
    (plan,) = desk.turn()
    assert len(desk.done(plan)) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_what_a_plan_teaches_is_learned_when_the_loop_asks_or_else_before_the_next_event(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, learned = Desk(), []
    monkeypatch.setattr(
        Known, "finished", lambda _, plan, took_us, now_us: learned.append((plan, took_us, now_us))
    )
    desk.join(1)
    desk.arrive(1, arrival())
    (plan,) = desk.turn()
    desk.now_us += 30
    desk.done(plan)
    assert learned == []
    if asked:
        desk.state.reflect()
        assert len(learned) == 1
    desk.arrive(1, arrival(generation=2))
    assert learned == [(plan, 30, desk.now_us)]


def test_whoever_looks_at_what_is_known_sees_it_all() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival())
    (plan,) = desk.turn()
    desk.now_us += 30
    desk.done(plan)
    assert desk.state.known.costs.expected_us(plan.op, plan.direction, 1) == 30
