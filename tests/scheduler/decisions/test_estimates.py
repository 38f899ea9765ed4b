"""What is usual is the middle of the last few, so nothing that happens once changes it."""

from __future__ import annotations

from symbiosis_scheduler.decisions.estimates import Estimate


def of(*times_us: float) -> Estimate:
    estimate = Estimate()
    for us in times_us:
        estimate.add(us)
    return estimate


def test_nothing_is_known_of_nothing() -> None:
    assert not of().known and of().usual < 0


def test_the_usual_is_the_middle_and_strays_as_far_as_the_middle_half() -> None:
    estimate = of(100, 200, 300, 400, 500)
    assert (estimate.usual, estimate.deviation, estimate.at(1)) == (300, 100, 500)


def test_two_times_that_are_out_of_the_way_move_neither() -> None:
    before, after = of(*[1000, 1010, 990] * 3), of(*[1000, 1010, 990] * 3, 60_000_000, 9_000_000)
    assert abs(after.usual - before.usual) <= 10 and after.deviation <= 20


def test_what_was_long_ago_is_forgotten() -> None:
    assert of(10_000_000, *[150] * 5).usual == 150
    assert of(*[150] * 9, *[300] * 5).usual == 300
