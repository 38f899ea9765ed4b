"""Where clients are and when they are due is learned per place, and how far off that was is known."""

from __future__ import annotations

from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.plan import Part, Plan
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.travellers import Travellers

ONE = ClientId(1)
THINKING_US = {0: 100, 1: 5000}


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
            travellers.answered(Plan(OpId(op), Direction.FORWARD, (Part(asked, 0, rows),)), [ONE], now_us)
            now_us += THINKING_US[op]
    return now_us - THINKING_US[1]


def test_thinking_is_known_by_place() -> None:
    travellers = Travellers()
    answered_us = travel(travellers, 20)
    expected_us, late_us = travellers.all[ONE].due_us(answered_us)
    assert abs(expected_us - answered_us - THINKING_US[1]) < 50
    assert expected_us < late_us < expected_us + 1000
    assert travellers.error.mean < 50 < travellers.pause.mean


def test_who_is_overdue_is_expected_any_moment_until_it_is_late() -> None:
    travellers = Travellers()
    answered_us = travel(travellers, 20)
    now_us = answered_us + THINKING_US[1] + 10
    expected_us, late_us = travellers.all[ONE].due_us(now_us)
    assert now_us <= expected_us <= late_us


def test_a_forward_with_more_rows_than_the_one_before_reads_a_prompt() -> None:
    travellers = Travellers()
    travellers.starts.add(OpId(0))
    now_us, seen = 0, []
    for rows in (30, 1, 1, 7, 1):
        now_us = travel(travellers, 1, now_us, rows) + 5000
        seen.append(travellers.all[ONE].first_token)
    assert seen == [True, False, False, True, False]


def test_nothing_is_known_of_who_left() -> None:
    travellers = Travellers()
    travel(travellers, 1)
    travellers.left(ONE)
    assert not travellers.all
