"""How long a side looks: the user's word first, and nothing to look for where there is one core."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_transports.calls import Call
from symbiosis_transports.habits import SHORT_NS, Habit
from symbiosis_transports.notices import LONGEST_LEAD_US
from symbiosis_transports.waiting import SPIN_VARIABLE, Watch, client_kinds, spin_budget_us

CALL = Call(OpId(3), Direction.FORWARD, 4, 0, 64)


def test_one_core_has_nobody_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SPIN_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert spin_budget_us(50) == client_kinds().published(CALL).way.budget_ns == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert spin_budget_us(50) == 50
    assert client_kinds().published(CALL).way.budget_ns == SHORT_NS


@pytest.mark.parametrize(("text", "learns"), [("auto", True), ("7", False), ("0", False)])
def test_the_environment_decides_for_clients_alone(
    monkeypatch: pytest.MonkeyPatch, text: str, learns: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv(SPIN_VARIABLE, text)
    way = client_kinds().published(CALL).way
    assert isinstance(way, Habit) is learns
    for _ in range(1000):
        way.waited(10_000_000)
    assert way.budget_ns == (0 if learns else int(text) * 1000)
    assert spin_budget_us(50) == 50


@pytest.mark.parametrize("text", ["", "-1", "1.5", "fast", "10001"])
def test_a_word_that_is_no_time_says_what_to_write(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SPIN_VARIABLE, text)
    with pytest.raises(UsageError, match="write auto, or microseconds from 0 to 10000"):
        client_kinds()


class Channel:
    """Something is there at the n-th look."""

    def __init__(self, nth: int, *, announced_us: int = 0) -> None:
        self._left = nth
        self._announced_us = announced_us

    def announced_us(self) -> int:
        announced_us, self._announced_us = self._announced_us, 0
        return announced_us

    def waiting(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_the_daemons_looks_and_hits_are_counted() -> None:
    watch = Watch(1)
    channels: Any = [Channel(10**9), Channel(0)]
    assert watch.sees(channels)
    assert not watch.sees([Channel(10**9)])  # type: ignore[list-item]  # all that is asked of it
    assert (watch.looks, watch.hits) == (2, 1)


def test_a_look_of_no_time_is_none() -> None:
    watch = Watch(0)
    assert not watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
    assert watch.looks == 0


@pytest.mark.parametrize(("learns", "looks"), [(True, 4 + 24), (False, 100)])
def test_a_watch_that_learns_looks_less_where_nothing_comes(learns: bool, looks: int) -> None:
    watch = Watch(1, learns=learns)
    for _ in range(100):
        watch.sees([])
    assert watch.looks == looks


def test_what_was_announced_is_looked_for_although_nothing_comes_else() -> None:
    """And its look says nothing about those that nobody asked for."""
    watch = Watch(1)
    for _ in range(8):
        watch.sees([])
    looks = watch.looks
    for _ in range(3):
        assert watch.sees([Channel(0, announced_us=50)])  # type: ignore[list-item]  # all that is asked of it
    assert (watch.looks - looks, watch.hits) == (3, 3)
    assert not watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it


def test_what_is_announced_while_the_daemon_looks_for_others_is_looked_for_as_well() -> None:
    """Or it would sleep, and nobody ring it: whoever announces finds it awake."""

    class Late(Channel):
        def announced_us(self) -> int:
            return super().announced_us() if self._left < 10**9 else 0  # it has looked once

    watch = Watch(1)
    late: Any = Late(10**9, announced_us=50)
    assert not watch.sees([late])
    assert late._left < 10**9
    assert late.announced_us() == 0, "it was asked again"
    assert watch.looks == 1


def test_an_announced_call_is_looked_for_as_long_as_it_says_and_no_longer_than_is_bearable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever says that it is worth a day; the clock ticks at every look."""
    now_ns = 0

    def clock() -> int:
        nonlocal now_ns
        now_ns += 1000
        return now_ns

    monkeypatch.setattr(time, "perf_counter_ns", clock)
    for announced_us, most_us in ((50, 50), (86_400_000_000, LONGEST_LEAD_US), (0, 1)):
        begin_ns = now_ns
        assert not Watch(1).sees([Channel(10**9, announced_us=announced_us)])  # type: ignore[list-item]  # as above
        assert most_us <= (now_ns - begin_ns) // 1000 <= most_us + 3
    assert not Watch(0).sees([Channel(0, announced_us=50)])  # type: ignore[list-item]  # as above


def test_a_look_that_is_interrupted_ends_and_none_begins_until_who_interrupted_was_heard() -> None:
    """It says nothing about looking: nobody knows what would have come."""

    class Interrupting(Channel):
        def waiting(self) -> bool:
            watch.interrupt()
            return super().waiting()

    watch = Watch(60_000_000)
    for _ in range(8):
        assert not watch.sees([Interrupting(10**9)])  # type: ignore[list-item]  # all that is asked of it
        assert not watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
        watch.resume()
    assert (watch.looks, watch.hits) == (8, 0), "no look was left out because others had missed"
    assert watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it


def test_what_came_while_the_daemon_was_put_aside_does_not_show_that_looking_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where its client can have the core only when the look has lasted for its time."""
    now_ns = 0

    def clock() -> int:
        nonlocal now_ns
        now_ns += 100_000
        return now_ns

    watch = Watch(20)
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    for _ in range(100):
        watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
    assert watch.looks == watch.hits == 4 + 24
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    for _ in range(100):
        watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
    assert watch.looks >= 4 + 24 + 97
