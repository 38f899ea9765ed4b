"""All threads compute few rows as long as they are faster than one; nothing is presumed about when that is."""

from __future__ import annotations

from itertools import cycle

from symbiosis_core.thread_trial import ThreadTrial


def run(trial: ThreadTrial, plans: int, *, one_us: float, all_us: float, kinds: int = 1) -> list[bool]:
    """Has that many plans computed, of several kinds in turn; returns which of them by all threads."""
    chosen = []
    for kind, _ in zip(cycle(range(kinds)), range(plans), strict=False):
        chosen.append(trial.all_threads(kind))
        trial.took(kind, (kind + 1) * (all_us if chosen[-1] else one_us), all_threads=chosen[-1])
    return chosen


def test_one_thread_is_known_before_others_are_tried() -> None:
    assert run(ThreadTrial(), 8, one_us=3, all_us=2, kinds=2) == [False] * 8
    assert run(ThreadTrial(), 12, one_us=3, all_us=2, kinds=2)[8:] == [True] * 4


def test_all_threads_stay_where_they_are_faster_and_one_is_looked_at_now_and_then() -> None:
    chosen = run(ThreadTrial(), 3200, one_us=3, all_us=2, kinds=3)
    assert 3050 < sum(chosen) < 3110


def test_where_all_are_slower_they_are_tried_ever_less() -> None:
    """64 plans of one thread after the first trial of 8, then 128, to 4096 at last: 10 trials, and 5 then."""
    trial = ThreadTrial()
    first, second = (sum(run(trial, 20_000, one_us=2, all_us=3)) for _ in range(2))
    assert (first, second) == (320, 160)


def test_what_gets_slower_is_given_up_within_a_few_plans_and_what_gets_faster_found_again() -> None:
    trial = ThreadTrial()
    assert sum(run(trial, 1000, one_us=3, all_us=2)) > 900
    contended = run(trial, 1000, one_us=3, all_us=15)
    assert True in contended[:2] and sum(contended) < 20
    again = run(trial, 2000, one_us=3, all_us=2)
    assert sum(again[-64:]) == 62


def test_a_machine_that_gets_slower_as_a_whole_changes_nothing() -> None:
    trial = ThreadTrial()
    run(trial, 1000, one_us=3, all_us=2)
    assert sum(run(trial, 4000, one_us=5, all_us=4)) > 3600
