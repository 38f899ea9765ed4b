"""Clients of a lane go the way in which their forwards took least; the others are tried now and then."""

from __future__ import annotations

from collections import Counter

import pytest

from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.convoy_trial import ConvoyTrial, Way

APART, FORETOLD, TOGETHER = Way


class Lane:
    """Clients of one lane, which make forwards in turn. They take so long each way."""

    def __init__(self, count: int, *, busy: float = 0.9, **us: int) -> None:
        self.trial = ConvoyTrial(count)
        self.clients = range(count)
        self.us = us
        self.busy = busy
        self.now_us = 0
        self.made = Counter[Way]()

    def run(self, forwards: int) -> None:
        """Each makes so many. Those of client 0 have twice as much to do."""
        for _ in range(forwards):
            us = self.us[self.trial.way.name.lower()]
            self.now_us += us
            self.made[self.trial.way] += 1
            for client in self.clients:
                took_us = 2 * us if client == 0 else us
                self.trial.forward(ClientId(client), took_us, self.now_us, int(self.busy * self.now_us))

    def run_until(self, way: Way) -> None:
        """They make forwards until they go that way."""
        for _ in range(1000):
            if self.trial.way is way:
                return
            self.run(1)
        pytest.fail(f"{way.name} was never tried")


@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("fastest", Way)
def test_the_fastest_way_is_gone_but_for_trials(count: int, fastest: Way) -> None:
    us = {way.name.lower(): 70_000 if way is fastest else 100_000 for way in Way}
    lane = Lane(count, **us)
    lane.run(2000)
    assert lane.made[fastest] > 1800
    assert all(lane.made[way] for way in Way), "each was tried"


def test_of_ways_that_take_the_same_the_one_that_computes_least_is_gone() -> None:
    lane = Lane(4, apart=100_000, foretold=100_500, together=101_000)
    lane.run(1000)
    assert lane.made[TOGETHER] > 900


def test_nothing_is_tried_at_a_daemon_that_is_idle_for_most_of_the_time() -> None:
    lane = Lane(4, apart=50_000, foretold=100_000, together=50_000, busy=0.4)
    lane.run(500)
    assert lane.made == {FORETOLD: 500}


def test_what_changes_is_found_out() -> None:
    lane = Lane(4, apart=100_000, foretold=100_000, together=70_000)
    lane.run(200)
    assert lane.trial.way is TOGETHER
    lane.us["apart"] = 60_000
    lane.run(1000)
    assert lane.trial.way is APART
    lane.us["apart"] = 90_000
    lane.run(3000)
    assert lane.trial.way is TOGETHER


def test_a_trial_that_is_hopeless_ends_soon() -> None:
    """Three forwards that took more than twice the usual are enough, whoever's. One of each is not looked at."""
    lane = Lane(4, apart=700_000, foretold=100_000, together=700_000)
    lane.run(60)
    assert lane.made == {FORETOLD: 58, TOGETHER: 2}


def test_a_client_that_is_held_up_once_ends_no_trial() -> None:
    lane = Lane(4, apart=100_000, foretold=100_000, together=70_000)
    lane.run_until(TOGETHER)
    lane.run(1)
    lane.trial.forward(ClientId(1), 900_000, lane.now_us, 0)
    lane.run(10)
    assert lane.trial.way is TOGETHER


def test_a_trial_that_was_interrupted_teaches_nothing() -> None:
    """Others came meanwhile, or somebody left: it is made again, from the beginning."""
    lane = Lane(4, apart=130_000, foretold=100_000, together=130_000)
    lane.run_until(TOGETHER)
    lane.run(2)
    lane.trial.resumed()
    assert lane.trial.way is FORETOLD
    lane.us["together"] = 70_000
    lane.run_until(TOGETHER)
    lane.run(30)
    assert lane.trial.way is TOGETHER


def test_who_has_left_is_not_waited_for() -> None:
    """Of one that was timed once and is gone there will be no second time."""
    lane = Lane(4, apart=100_000, foretold=100_000, together=70_000)
    lane.run(3)
    lane.trial.resumed()
    lane.clients = range(1, 5)
    lane.run(200)
    assert lane.trial.way is TOGETHER


def test_a_trial_says_how_they_go() -> None:
    lane = Lane(4, apart=100_000, foretold=100_000, together=70_000)
    assert repr(lane.trial) == "<ConvoyTrial of 4, foretold>"
    lane.run_until(TOGETHER)
    assert repr(lane.trial) == "<ConvoyTrial of 4, together, tried>"
    lane.run(20)
    assert repr(lane.trial) == "<ConvoyTrial of 4, together>"


def test_clients_whose_forwards_are_never_alike_keep_nobody_from_being_compared() -> None:
    """Nor has one that went quiet. What is kept until then is bounded."""
    lane = Lane(4, apart=100_000, foretold=100_000, together=70_000)
    lane.clients = range(3)
    lane.run(500)
    assert lane.made[TOGETHER] > 300


def test_where_most_clients_are_others_than_before_nothing_is_concluded() -> None:
    lane = Lane(4, apart=100_000, foretold=70_000, together=900_000)
    lane.run_until(TOGETHER)
    lane.clients = range(4, 8)
    lane.run(30)
    assert lane.trial.way is FORETOLD
