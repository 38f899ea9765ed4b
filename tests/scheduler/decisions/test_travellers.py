"""Where clients are and when they are due is learned per place, and how far off that was is known."""

from __future__ import annotations

from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers

ONE = ClientId(1)
THINKING_US = {0: 100, 1: 5000}
SERVICE_US = 1000.0


def request(op: int, now_us: int, rows: int = 1) -> Request:
    return Request(
        ONE, SlotIndex(0), Generation(1), "inference", OpId(op), Direction.FORWARD, rows, now_us, 0, 4096
    )


def travel(travellers: Travellers, rounds: int, now_us: int = 0, rows: int = 1) -> int:
    """Goes through two ops again and again, and returns when the last answer came."""
    for _ in range(rounds):
        for op in (0, 1):
            asked = request(op, now_us, rows)
            travellers.arrived(asked)
            now_us += 1000
            travellers.answered(
                Plan(OpId(op), Direction.FORWARD, (Part(asked, 0, rows),)), frozenset({ONE}), now_us
            )
            now_us += THINKING_US[op]
    return now_us - THINKING_US[1]


def asked_last(travellers: Travellers, now_us: int, lane: str = "inference", most: int = 9) -> list[ClientId]:
    return [each.client for each in travellers.active([lane], most, now_us)]


def test_thinking_is_known_by_place() -> None:
    travellers = Travellers()
    answered_us = travel(travellers, 20)
    assert travellers.all[ONE].due_us(answered_us, SERVICE_US) == answered_us + THINKING_US[1]
    assert travellers.error.usual < 50 < travellers.pause.usual


def test_who_is_overdue_is_expected_any_moment() -> None:
    travellers = Travellers()
    now_us = travel(travellers, 20) + THINKING_US[1] + 10
    assert now_us <= travellers.all[ONE].due_us(now_us, SERVICE_US) < now_us + THINKING_US[1]


def test_who_waits_for_an_answer_comes_after_it() -> None:
    travellers = Travellers()
    now_us = travel(travellers, 20) + THINKING_US[1]
    travellers.arrived(request(0, now_us))
    usual_us = travellers.all[ONE].thinking.usual
    assert usual_us > 0 and travellers.all[ONE].due_us(now_us, SERVICE_US) == now_us + SERVICE_US + usual_us


def test_one_long_pause_changes_nothing() -> None:
    """A human reads an answer for a minute, and the next prompt's tokens come as before."""
    travellers = Travellers()
    now_us = travel(travellers, 20) + 60_000_000
    answered_us = travel(travellers, 1, now_us)
    assert travellers.all[ONE].due_us(answered_us, SERVICE_US) == answered_us + THINKING_US[1]


def test_it_is_known_how_many_requests_lie_between_a_client_and_a_place() -> None:
    travellers = Travellers()
    travellers.starts.add(OpId(0))
    travellers.arrived(request(0, 0))
    traveller = travellers.all[ONE]
    assert traveller.trips_to((OpId(1), Direction.FORWARD)) is None, "it was never there"
    travel(travellers, 3, 1000)
    to = {op: traveller.trips_to((OpId(op), Direction.FORWARD)) for op in (0, 1, 2)}
    assert to == {0: 1, 1: 2, 2: None}


def test_who_asked_last_is_named_first_and_who_fell_silent_not_at_all() -> None:
    travellers = Travellers()
    travellers.arrived(request(0, 1000))
    two = Request(
        ClientId(2), SlotIndex(0), Generation(1), "inference", OpId(0), Direction.FORWARD, 1, 2000, 0, 4096
    )
    travellers.arrived(two)
    assert asked_last(travellers, 3000) == [ClientId(2), ONE]
    assert asked_last(travellers, 3000, most=1) == [ClientId(2)]
    assert asked_last(travellers, 3000, lane="training") == []
    assert asked_last(travellers, 101_500) == [ClientId(2)]


def test_a_forward_with_more_rows_than_the_one_before_reads_a_prompt() -> None:
    travellers = Travellers()
    travellers.starts.add(OpId(0))
    now_us, seen = 0, []
    for rows in (30, 1, 1, 7, 1):
        now_us = travel(travellers, 1, now_us, rows) + 5000
        seen.append(travellers.all[ONE].first_token)
    assert seen == [True, False, False, True, False]


def test_token_ids_that_come_in_several_requests_begin_one_forward() -> None:
    """As a client sends a prompt that does not fit into a slot: it reads a prompt until the next ids."""
    travellers = Travellers()
    travellers.starts.add(OpId(0))
    begun, prompts = [], []
    for at, (op, rows) in enumerate([(0, 20), (0, 20), (0, 5), (1, 45), (0, 1), (1, 1), (0, 30), (0, 7), (1, 37)]):
        begun.append(travellers.begins(ONE, OpId(op), Direction.FORWARD))
        asked = request(op, 1000 * at, rows)
        travellers.arrived(asked)
        prompts.append(travellers.all[ONE].first_token)
    traveller = travellers.all[ONE]
    assert [at for at, each in enumerate(begun) if each] == [0, 4, 6]
    assert prompts == [True, True, True, True, False, False, True, True, True]
    assert (traveller.forwards, traveller.started_us, traveller.trip, traveller.trips) == (3, 6000, 2, 2)
    assert not travellers.begins(ONE, OpId(0), Direction.BACKWARD)


def test_nothing_is_known_of_who_left() -> None:
    travellers = Travellers()
    travel(travellers, 1)
    travellers.left(ONE)
    assert not travellers.all


def test_a_way_that_is_not_taken_any_more_is_forgotten() -> None:
    """Nobody waits at a place where a client does not come by since it has another adapter."""
    travellers = Travellers()
    travellers.starts.add(OpId(0))
    now_us = travel(travellers, 3)
    place = (OpId(1), Direction.FORWARD)
    for _ in range(2):
        assert travellers.all[ONE].trips_to(place) is not None
        for op in (0, 2):
            now_us += 5000
            asked = request(op, now_us)
            travellers.arrived(asked)
            travellers.answered(
                Plan(OpId(op), Direction.FORWARD, (Part(asked, 0, 1),)), frozenset({ONE}), now_us + 1000
            )
    assert travellers.all[ONE].trips_to(place) is None


def test_who_was_waited_for_in_vain_is_not_expected_for_longer_and_longer_until_it_has_come() -> None:
    travellers = Travellers()
    now_us = travel(travellers, 2)
    traveller = travellers.all[ONE]
    traveller.distrust()
    first = traveller.distrusted
    traveller.distrust()
    assert traveller.distrusted == 2 * first > 0
    travel(travellers, first, now_us + 5000)
    assert not traveller.distrusted, "two requests a round"
    traveller.trust()
    traveller.distrust()
    assert traveller.distrusted == first


def test_chance_meetings_teach_nothing_of_how_long_company_lasts_where_it_is_held_together() -> None:
    travellers = Travellers()
    for step in range(400):
        pair = [
            Request(ClientId(n), SlotIndex(0), Generation(1), "x", OpId(0), Direction.FORWARD, 1, 0, 0, 4096)
            for n in (1, 2)
        ]
        for each in pair:
            travellers.arrived(each)
        plan = Plan(OpId(0), Direction.FORWARD, tuple([Part(each, 0, 1) for each in pair]))
        together = frozenset({ClientId(1), ClientId(2)})
        for clients in [together] if step % 2 else [frozenset({client}) for client in together]:
            travellers.answered(plan, clients, step)
    assert travellers.lasting >= 8
