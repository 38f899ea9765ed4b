"""Looking pays or does not, and which it is, is found out; in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from symbiosis_transports.habits import LONGEST_LOOK_NS, LONGEST_REST_NS, SHORT_NS, Habit

World = Callable[[int], int]
"""How long an answer takes that is looked for so long."""
WAKE_NS = 50_000


def two_cores(service_ns: int) -> World:
    """A look costs the answer nothing; who sleeps has to be woken."""
    return lambda budget_ns: service_ns if service_ns <= budget_ns else service_ns + WAKE_NS


def one_core(service_ns: int) -> World:
    """What one side looks, the other cannot compute, and it has an equal share."""
    return lambda budget_ns: min(2 * service_ns, service_ns + budget_ns) + WAKE_NS // 5


def run(habit: Habit, world: World, calls: int) -> list[int]:
    """Returns the budgets of so many calls."""
    budgets = []
    for _ in range(calls):
        budgets.append(habit.budget_ns)
        habit.waited(world(habit.budget_ns))
    return budgets


def time_ns(world: World, budgets: list[int]) -> int:
    return sum(map(world, budgets))


@pytest.mark.parametrize("service_ns", [5_000, 15_000, 40_000, 100_000, 250_000])
def test_where_a_core_is_free_a_look_outlasts_the_answer_and_is_no_longer_than_it_must(service_ns: int) -> None:
    world = two_cores(service_ns)
    budgets = run(Habit(), world, 5000)
    assert budgets[-1] >= service_ns
    assert max(budgets) <= max(SHORT_NS, (service_ns + WAKE_NS) * 5 // 4)
    best = min(time_ns(world, [budget] * 5000) for budget in (0, SHORT_NS))
    assert time_ns(world, budgets) <= best * 1.05


@pytest.mark.parametrize("service_ns", [40_000, 100_000, 250_000, 2_000_000])
def test_where_both_sides_share_a_core_that_is_not_given_away_it_sleeps_at_once(service_ns: int) -> None:
    world = one_core(service_ns)
    budgets = run(Habit(), world, 5000)
    assert budgets[-1] == 0
    best = min(time_ns(world, [budget] * 5000) for budget in (0, SHORT_NS))
    assert time_ns(world, budgets) <= best * 1.05


@pytest.mark.parametrize("service_ns", [450_000, 700_000, 1_000_000])
def test_long_answers_are_looked_for_when_they_are_about_to_come(service_ns: int) -> None:
    habit = Habit()
    run(habit, two_cores(service_ns), 5000)
    assert habit.budget_ns > service_ns > habit.rest_ns + 70_000, "a rest may end late"
    assert habit.budget_ns - habit.rest_ns < (service_ns + WAKE_NS) * 0.7


def test_short_answers_leave_no_time_to_rest() -> None:
    habit = Habit()
    run(habit, two_cores(100_000), 5000)
    assert (habit.budget_ns, habit.rest_ns) == (125_000, 0)


@pytest.mark.parametrize(("rests", "longest_ns"), [(True, LONGEST_REST_NS), (False, LONGEST_LOOK_NS)])
def test_what_takes_longer_than_a_core_is_worth_is_slept_for_and_no_long_look_is_ever_tried(
    rests: bool, longest_ns: int
) -> None:
    budgets = run(Habit(rests=rests), two_cores(longest_ns + 1), 5000)
    assert set(budgets) == {0, SHORT_NS}
    assert budgets.count(SHORT_NS) <= 16


def test_what_changes_is_noticed_both_ways() -> None:
    habit = Habit()
    assert run(habit, two_cores(100_000), 2000)[-1] == 125_000
    assert run(habit, one_core(100_000), 8000)[-1] == 0
    assert run(habit, two_cores(100_000), 8000)[-1] == 125_000


def test_trials_become_rare_where_nothing_changes() -> None:
    habit = Habit()
    world = one_core(100_000)
    early, late = run(habit, world, 1000), run(habit, world, 20_000)
    assert sum(map(bool, early)) > 16
    assert sum(map(bool, late)) / 20_000 < 0.005


def test_late_answers_do_not_decide_while_most_are_in_time() -> None:
    """One in four is as late as a time slice."""
    habit, chance = Habit(), random.Random(7)
    world = two_cores(100_000)
    budgets = []
    for _ in range(20_000):
        budgets.append(habit.budget_ns)
        habit.waited(world(habit.budget_ns) + 3_000_000 * (chance.random() < 0.25))
    assert sum(budget == 125_000 for budget in budgets) > 18_000


def test_a_fitted_look_ends_where_others_want_the_core_and_comes_back_ever_later() -> None:
    """Looks that take time from others are given up, although they are the fastest for this client."""
    switches, fitted = 0, []
    habit = Habit(lambda: switches)
    world = two_cores(200_000)
    for call in range(30_000):
        fitted.append(habit.budget_ns > SHORT_NS)
        switches += habit.budget_ns > SHORT_NS and call % 16 == 0  # one in 3.2 ms of looking
        habit.waited(world(habit.budget_ns))
    assert any(fitted[:500])
    assert sum(fitted[-15_000:]) < 15_000 * 0.05


def test_who_was_crowded_for_long_and_then_for_long_was_not_is_shy_no_more() -> None:
    """A crowd of a moment then costs as little as if it were the first."""
    switches = 0
    habit = Habit(lambda: switches)

    def looks(calls: int, one_in: int | None = None) -> int:
        """Returns how many of so many calls were looked for. Of these one in so many loses its core."""
        nonlocal switches
        looked = 0
        for _ in range(calls):
            if habit.budget_ns > SHORT_NS:
                looked += 1
                switches += one_in is not None and looked % one_in == 0
            habit.waited(two_cores(200_000)(habit.budget_ns))
        return looked

    looks(40_000, one_in=16)
    assert looks(4000, one_in=16) < 400
    looks(60_000)
    assert looks(4000) > 3900
    while looks(1, one_in=1):
        pass
    assert looks(1000) > 500


def test_a_core_that_somebody_takes_at_every_look_is_not_looked_on_for_long() -> None:
    """Not even where that would be faster."""
    looked, budgets = 0, []
    habit = Habit(lambda: looked)
    world = two_cores(100_000)
    for _ in range(5000):
        budgets.append(habit.budget_ns)
        looked += habit.budget_ns > 0
        habit.waited(world(habit.budget_ns))
    assert 8 <= sum(budget > SHORT_NS for budget in budgets) < 100


def test_what_happens_on_any_core_now_and_then_ends_no_look() -> None:
    """The kernel's own threads take the core once in ten milliseconds."""
    switches, fitted = 0.0, []
    habit = Habit(lambda: int(switches))
    world = two_cores(200_000)
    for _ in range(30_000):
        fitted.append(habit.budget_ns > SHORT_NS)
        switches += habit.budget_ns / 10_000_000
        habit.waited(world(habit.budget_ns))
    assert sum(fitted[-15_000:]) > 15_000 * 0.9


def resting(habit: Habit, service_ns: list[int], calls: int) -> tuple[int, int]:
    """Has calls come that take these times in turns; a rest ends late. Returns what was lost, and rests."""
    lost_ns = rests = 0
    for call in range(calls):
        takes_ns = service_ns[call % len(service_ns)]
        up_ns = habit.rest_ns + 60_000 if habit.rest_ns else 0
        rests += up_ns > 0
        if up_ns > 0 and takes_ns <= up_ns:
            took_ns = up_ns
            habit.overslept()
        else:
            took_ns = takes_ns if takes_ns <= habit.budget_ns else takes_ns + WAKE_NS
        lost_ns += took_ns - takes_ns
        habit.waited(took_ns)
    return lost_ns, rests


def test_who_rests_until_the_answer_is_about_to_come_loses_nothing() -> None:
    habit = Habit()
    resting(habit, [1_000_000], 2000)
    assert habit.rest_ns
    assert resting(habit, [1_000_000], 2000)[0] < 2000 * WAKE_NS * 0.1


def test_answers_that_have_become_faster_are_not_rested_for() -> None:
    habit = Habit()
    resting(habit, [1_000_000], 20_000)
    assert habit.rest_ns
    assert resting(habit, [100_000], 4)[1] == 4
    assert resting(habit, [100_000], 2000)[1] == 0


@pytest.mark.parametrize("service_ns", [[1_000_000, 1_000_000, 100_000], [1_000_000] * 3 + [30_000]])
def test_who_oversleeps_often_sleeps_until_it_is_woken(service_ns: list[int]) -> None:
    habit = Habit()
    resting(habit, service_ns, 20_000)
    lost_ns, rests = resting(habit, service_ns, 20_000)
    assert rests < 20_000 * 0.02
    assert lost_ns < 20_000 * WAKE_NS * 1.05, "no more than by being woken every time"


def test_who_oversleeps_now_and_then_goes_on() -> None:
    habit = Habit()
    resting(habit, [1_000_000], 2000)
    assert resting(habit, [1_000_000] * 15 + [100_000], 5000)[1] > 4000
