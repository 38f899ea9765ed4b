"""A notice pays or does not, and which it is, is found out; in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from symbiosis_transports.notices import LONGEST_LEAD_US, Notice

WAKE_NS = 40_000
RING_NS = 4_000
WORK_NS = 10_000
World = Callable[[int, int], tuple[int, int]]
"""How long a call's rows take to be written and its answer to come, where the one alone and the lead are given."""


def two_cores(fill_ns: int, lead_us: int) -> tuple[int, int]:
    """Who was announced finds the daemon looking, unless that has slept again by then."""
    if not lead_us:
        return fill_ns, WAKE_NS + WORK_NS
    looks = fill_ns <= WAKE_NS + 1000 * lead_us
    return fill_ns + RING_NS, (max(WAKE_NS - fill_ns, 0) if looks else WAKE_NS) + WORK_NS


def one_core(fill_ns: int, lead_us: int) -> tuple[int, int]:
    """While the daemon looks, nobody writes: it was woken on the core of whoever rang."""
    return fill_ns + 1000 * lead_us, WAKE_NS // 4 + WORK_NS


def awake(fill_ns: int, lead_us: int) -> tuple[int, int]:
    """Others keep the daemon awake."""
    return fill_ns, WORK_NS


def run(notice: Notice, world: World, fill_ns: int, calls: int) -> list[int]:
    """Returns the leads of so many calls."""
    leads = []
    for _ in range(calls):
        leads.append(notice.lead_us)
        notice.answered(*world(fill_ns, notice.lead_us))
    return leads


def time_ns(world: World, fill_ns: int, leads: list[int]) -> int:
    return sum(sum(world(fill_ns, lead_us)) for lead_us in leads)


@pytest.mark.parametrize("fill_ns", [40_000, 70_000, 150_000])
def test_where_the_daemon_wakes_while_rows_are_written_it_is_told(fill_ns: int) -> None:
    leads = run(Notice(), two_cores, fill_ns, 5000)
    assert 1000 * leads[-1] >= fill_ns
    assert sum(lead > 0 for lead in leads) > 4900 - 8 * 10
    assert time_ns(two_cores, fill_ns, leads) < 1.03 * time_ns(two_cores, fill_ns, [leads[-1]] * 5000)


@pytest.mark.parametrize("world", [one_core, awake])
@pytest.mark.parametrize("fill_ns", [30_000, 70_000, 150_000])
def test_where_it_brings_nothing_there_is_none_but_a_try_now_and_then(world: World, fill_ns: int) -> None:
    leads = run(Notice(), world, fill_ns, 5000)
    assert leads[-1] == 0
    assert 3 <= sum(lead > 0 for lead in leads) <= 8 * 8
    assert time_ns(world, fill_ns, leads) < 1.03 * time_ns(world, fill_ns, [0] * 5000)


@pytest.mark.parametrize(
    ("fill_ns", "wait_ns"), [(1000, 50_000), (19_000, 50_000), (10**6, 50_000), (70_000, 10**6)]
)
def test_what_is_written_at_once_or_takes_long_anyway_is_never_announced(fill_ns: int, wait_ns: int) -> None:
    leads = run(Notice(), lambda fill_ns, lead_us: (fill_ns, wait_ns), fill_ns, 5000)
    assert set(leads) == {0}


def test_what_has_changed_is_found_out_and_no_daemon_is_asked_to_look_for_long() -> None:
    notice = Notice()
    assert run(notice, two_cores, 70_000, 400)[-1] > 0
    assert run(notice, one_core, 70_000, 9000)[-1] == 0
    assert run(notice, two_cores, 70_000, 9000)[-1] > 0
    leads = run(notice, lambda fill_ns, lead_us: (fill_ns, 10_000 if lead_us else 300_000), 400_000, 9000)
    assert max(leads) == LONGEST_LEAD_US
