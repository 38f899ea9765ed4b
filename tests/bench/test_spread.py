"""Medians come with their spread; processes that run side by side are counted while all of them ran."""

from __future__ import annotations

import pytest

from symbiosis_bench.end_to_end.crowd import Entrant, best
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.memory_share import on_gpu, share
from symbiosis_bench.end_to_end.messages import Measured
from symbiosis_bench.end_to_end.padding import Asked, no_padding, padded_rows
from symbiosis_bench.spread import Spread, mean_occupancy, rate_together, ratios, spread, step_s


def test_a_spread_keeps_its_rounds() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(median=2.0, min=1.0, max=3.0, rounds=(3.0, 1.0, 2.0))


def test_quotients_are_taken_round_by_round() -> None:
    """A round in which the machine was slow for both changes nothing."""
    assert ratios([2.0, 20.0], [1.0, 10.0]).rounds == (2.0, 2.0)


def test_rounds_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_step_is_the_median_of_the_times_between_stamps() -> None:
    assert step_s([0.0, 1.0, 2.0, 12.0]) == 1.0


def test_only_what_all_did_together_counts() -> None:
    """The second was alone before 10 and after 20, where it was fast."""
    together = [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
    alone_too = [*(i / 10 for i in range(100)), *together, *(20 + i / 10 for i in range(1, 50))]
    assert rate_together([together, alone_too]) == pytest.approx(0.5 + 0.5)


def test_one_that_ended_no_step_meanwhile_counts_with_all_of_its_steps() -> None:
    assert rate_together([[10.0, 11.0], [0.0, 10.5, 20.0]]) == pytest.approx(1.0 + 2 / 20)


def test_occupancy_is_the_mean_number_of_clients_in_a_batch() -> None:
    assert mean_occupancy(batches=10, clients=35) == 3.5
    assert mean_occupancy(batches=0, clients=0) == 0.0


def test_each_side_counts_with_its_best_contender() -> None:
    plain, alone, copied, split = (
        Entrant(Kind.PLAIN, 0),
        Entrant(Kind.PLAIN, 1),
        Entrant(Kind.COPIED, 0),
        Entrant(Kind.SPLIT, 0),
    )
    rates = {plain: [1.0, 5.0, 1.0], alone: [2.0, 2.0, 2.0], copied: [3.0], split: [9.0]}
    assert best(rates, Kind.PLAIN) == alone
    assert best(rates, Kind.PLAIN, Kind.COPIED) == copied
    assert best(rates, Kind.SPLIT) == split
    assert (str(alone), str(split)) == ("plain_1_thread", "split")


def test_a_padded_batch_is_as_long_as_its_longest() -> None:
    """Each request counts, also where one client makes more of them than another."""
    assert padded_rows([Asked(5, 50), Asked(5, 200)]) == 10 * 40
    assert padded_rows([Asked(10, 100), Asked(5, 200)]) == 15 * 40
    assert padded_rows([Asked(5, 50), Asked(7, 70)]) == 120


def test_rows_that_nobody_asked_for_are_found() -> None:
    assert no_padding(250, [Asked(5, 50), Asked(5, 200)]).passed
    assert not no_padding(400, [Asked(5, 50), Asked(5, 200)]).passed


def test_on_a_gpu_the_driver_says_what_all_hold() -> None:
    """Whoever is done last has seen all of them at work; on a CPU there is nothing to see."""
    answers = [Measured(stamps_s=(), device_bytes=held) for held in (700, 900, 800)]
    assert on_gpu(answers) == (0, 900)
    assert on_gpu([Measured(stamps_s=())]) is None


def test_what_clients_take_anyway_is_not_the_bases() -> None:
    assert share(of_daemon=120, of_clients=630, clients_on_tiny=600, base_bytes=100) == 1.5
