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


class Clock:
    """Stands still unless somebody looks, who takes a microsecond, or it is told to go on.

    Nobody else wants the core.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1
        monkeypatch.setattr(time, "perf_counter_ns", self._ask)
        monkeypatch.setattr("symbiosis_transports.waiting.Switches", lambda: lambda: 0)

    def _ask(self) -> int:
        self.now_ns += 1000
        return self.now_ns


class Coming(Channel):
    """The next call is published at a given time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(10**9)
        self.clock, self.comes_ns = clock, 0

    def waiting(self) -> bool:
        return self.clock.now_ns >= self.comes_ns


def idle(watch: Watch, clock: Clock, gap_ns: int, *, wake_ns: int = 40_000, count: int = 1000) -> list[int]:
    """Has so many calls come, each so long after the daemon became idle; who sleeps is woken.

    Returns how long each look was.
    """
    channel: Any = Coming(clock)
    looks = []
    for _ in range(count):
        began_ns = clock.now_ns
        channel.comes_ns = began_ns + gap_ns
        hit = watch.sees([channel])
        looks.append(clock.now_ns - began_ns)
        if not hit:
            clock.now_ns = max(clock.now_ns, channel.comes_ns) + wake_ns
        watch.came()
    return looks


@pytest.mark.parametrize("gap_us", [50, 150, 300])
def test_the_daemon_looks_for_what_usually_comes_soon(gap_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Watch(20)
    looks = idle(watch, clock, gap_us * 1000)
    assert looks[-1] >= gap_us * 1000
    assert sum(looks[-500:]) > 500 * gap_us * 900, "nearly every look lasts until something comes"


def test_the_daemon_does_not_look_for_what_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Watch(20)
    looks = idle(watch, clock, 5_000_000)
    assert sum(look > 5_000 for look in looks[-500:]) < 50


def test_what_others_lose_by_a_look_is_seen_in_when_the_next_call_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the client computes on the daemon's core: it loses what the look lasts."""
    clock, watch = Clock(monkeypatch), Watch(20)
    channel: Any = Coming(clock)
    looks = []
    for _ in range(2000):
        began_ns = clock.now_ns
        channel.comes_ns = 1 << 62
        watch.sees([channel])
        looks.append(clock.now_ns - began_ns)
        clock.now_ns += 150_000
        watch.came()
    assert sum(look > 5_000 for look in looks[-1000:]) < 50


def test_who_learns_nothing_looks_for_as_long_as_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Watch(20, learns=False)
    assert {20 <= look // 1000 <= 24 for look in idle(watch, clock, 150_000)} == {True}


def test_a_brief_look_is_short_and_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Watch(20)
    idle(watch, clock, 150_000)
    learned = repr(watch)
    channel: Any = Coming(clock)
    channel.comes_ns = 1 << 62
    for _ in range(100):
        began_ns = clock.now_ns
        assert not watch.sees([channel], briefly=True)
        assert clock.now_ns - began_ns <= 24_000
        clock.now_ns += 50_000_000
        watch.came()
    assert repr(watch).partition(",")[0] == learned.partition(",")[0]


def test_what_was_announced_is_looked_for_although_nothing_comes_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its look says nothing about those that nobody asked for."""
    clock, watch = Clock(monkeypatch), Watch(20)
    idle(watch, clock, 5_000_000)
    looks = watch.looks
    for _ in range(3):
        assert watch.sees([Channel(0, announced_us=50)])  # type: ignore[list-item]  # all that is asked of it
        watch.came()
    assert watch.looks - looks == 3
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


def test_a_look_that_is_interrupted_ends_and_none_begins_until_who_interrupted_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says nothing about looking: nobody knows what would have come."""

    class Interrupting(Channel):
        def waiting(self) -> bool:
            watch.interrupt()
            return super().waiting()

    watch = Watch(60_000_000)
    assert watch._habit is not None
    taught: list[int] = []
    monkeypatch.setattr(watch._habit, "waited", taught.append)
    for _ in range(8):
        assert not watch.sees([Interrupting(10**9)])  # type: ignore[list-item]  # all that is asked of it
        assert not watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
        watch.resume()
        watch.came()
    assert (watch.looks, watch.hits, taught) == (8, 0, [])
    assert watch.sees([Channel(0)])  # type: ignore[list-item]  # all that is asked of it
