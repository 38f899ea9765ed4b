"""All threads compute as long as they are faster than one; nothing is presumed about when that is."""

from __future__ import annotations

from itertools import cycle

import pytest

from symbiosis_core.thread_trial import ThreadTrial


def run(
    trial: ThreadTrial, count: int, *, one_us: float, all_us: float, kinds: int = 1, cold: float = 1
) -> list[bool]:
    """Has that many computed, of several kinds in turn; returns which of them by all threads.

    The first of every kind takes `cold` times as long.
    """
    chosen: list[bool] = []
    for index, kind in enumerate(cycle(range(kinds))):
        if index == count:
            return chosen
        chosen.append(trial.all_threads(kind))
        us = (kind + 1) * (all_us if chosen[-1] else one_us)
        trial.took(kind, us * (cold if index < kinds else 1), all_threads=chosen[-1])
    raise AssertionError


def test_one_thread_is_known_before_others_are_tried() -> None:
    assert run(ThreadTrial(), 8, one_us=3, all_us=2, kinds=2) == [False] * 8
    assert run(ThreadTrial(), 12, one_us=3, all_us=2, kinds=2)[8:] == [True] * 4


@pytest.mark.parametrize("kinds", [1, 3, 31, 37, 62, 74])
def test_all_threads_stay_where_they_are_faster_and_one_is_looked_at_now_and_then(kinds: int) -> None:
    chosen = run(ThreadTrial(), 3800 * kinds, one_us=3, all_us=2, kinds=kinds)
    assert sum(chosen[4 * kinds :]) == pytest.approx(3796 * kinds * 37 / 38, rel=1e-3)
    assert {index % kinds for index, each in enumerate(chosen) if not each and index > 4 * kinds} == set(
        range(kinds)
    )


def test_where_all_are_slower_they_are_tried_ever_less() -> None:
    """64 of one thread after the first trial of 32, then 128, to 4096 at last: 10 trials, and 5 then."""
    trial = ThreadTrial()
    first, second = (sum(run(trial, 20_000, one_us=2, all_us=3)) for _ in range(2))
    assert (first, second) == (320, 160)


@pytest.mark.parametrize("kinds", [1, 31, 37])
def test_what_gets_slower_is_given_up_within_a_few_and_what_gets_faster_found_again(kinds: int) -> None:
    trial = ThreadTrial()
    assert sum(run(trial, 1000, one_us=3, all_us=2, kinds=kinds)) > 800
    contended = run(trial, 1000, one_us=3, all_us=15, kinds=kinds)
    assert True in contended[:2] and sum(contended) < 20
    again = run(trial, 2000, one_us=3, all_us=2, kinds=kinds)
    assert sum(again[-64:]) >= 60


@pytest.mark.parametrize("kinds", [1, 31, 36, 37, 74])
def test_a_machine_that_gets_faster_or_slower_as_a_whole_is_judged_by_its_own_times(kinds: int) -> None:
    for all_us, share in ((4, 0.8), (6, 0.05)):
        trial = ThreadTrial()
        run(trial, 100 * kinds, one_us=50, all_us=40, kinds=kinds)
        chosen = run(trial, 1000 * kinds + 40_000, one_us=5, all_us=all_us, kinds=kinds)
        last = chosen[-(len(chosen) // 4) :]
        assert (sum(last) > share * len(last)) is (all_us < 5)


@pytest.mark.parametrize("cold", [5, 50])
def test_a_cold_start_is_not_what_all_threads_are_held_against(cold: float) -> None:
    trial = ThreadTrial()
    chosen = run(trial, 31 * 40, one_us=2, all_us=3, kinds=31, cold=cold)
    assert sum(chosen) < 200


def test_kinds_that_come_no_more_are_forgotten() -> None:
    trial = ThreadTrial()
    for kind in range(10_000):
        trial.took(kind, 1, all_threads=False)
    assert len(trial._kinds) <= 4096
