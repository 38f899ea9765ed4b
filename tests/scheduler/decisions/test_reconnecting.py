"""Who leaves and comes again gets no more of the daemon's time by it than who stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.events import (
    Adopt,
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    PlanDone,
    Run,
    Turn,
)
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.decisions.users import ANYBODY
from symbiosis_scheduler.decisions.weighted_fair import WeightedFair
from symbiosis_scheduler.policies import make_policy
from symbiosis_transports.calls import Arrival, Call

OPS = tuple(OpSpec(OpId(n), OpKind.LINEAR, (f"l{n}",), 8, (8,), DType.FLOAT32) for n in range(2))
READING_US, ROW_US, ROWS = 1000, 20, 256
STEADY = ClientId(0)


class Hall:
    """Two clients in a lane: one asks for a row at a time, the other for many, and comes anew at will."""

    def __init__(self, policy: str, user: str = "eve") -> None:
        lanes = {"training": LaneConfig(priority=0, chunk_rows=ROWS)}
        self.config = DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes)
        self.state = SchedulerState([OPS], self.config, make_policy(self.config))
        self.now_us = 0
        self.user = user
        self.heavy = ClientId(0)
        self.spent_us = {"steady": 0, "heavy": 0}
        self._asked = 0
        self.state.handle(ClientJoined(STEADY, "training", 1 << 40, user="ann"))
        self.come()
        self.ask(STEADY)

    def come(self) -> None:
        self.heavy = ClientId(self.heavy + 1)
        self.state.handle(ClientJoined(self.heavy, "training", 1 << 40, user=self.user))
        self.ask(self.heavy)

    def leave(self) -> None:
        self.state.handle(ClientLeft(self.heavy))

    def ask(self, client: ClientId) -> None:
        self._asked += 1
        op, rows = (OpId(0), 1) if client == STEADY else (OpId(1), ROWS)
        arrival = Arrival(SlotIndex(0), Generation(self._asked), Call(op, Direction.FORWARD, rows, 0, 1 << 39))
        self.state.handle(Arrived(client, [arrival], self.now_us))

    def answered(self, batches: int) -> Iterator[ClientId]:
        """Yields who was answered, batch by batch; they ask for nothing by themselves."""
        for _ in range(batches):
            (run,) = self.state.handle(Turn(self.now_us))
            assert isinstance(run, Run)
            took_us = READING_US + ROW_US * run.plan.rows
            self.now_us += took_us
            (answer,) = self.state.handle(PlanDone(run.plan, self.now_us))
            assert isinstance(answer, Answer)
            self.spent_us["steady" if answer.client == STEADY else "heavy"] += took_us
            self.state.check()
            yield answer.client

    def share_of_the_steady(self, *, again: bool, batches: int = 400) -> float:
        for client in self.answered(batches):
            if client == STEADY:
                self.ask(STEADY)
            elif again:
                self.leave()
                self.come()
            else:
                self.ask(client)
        return self.spent_us["steady"] / self.now_us


@pytest.mark.parametrize("again", [False, True])
def test_weighted_fair_gives_half_of_the_time_to_each_of_two_also_where_one_is_always_new(again: bool) -> None:
    assert Hall("weighted_fair").share_of_the_steady(again=again) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("policy", ["latency_first", "deadline"])
def test_coming_anew_brings_no_more_turns(policy: str) -> None:
    staying, again = (Hall(policy).share_of_the_steady(again=again) for again in (False, True))
    assert again >= 0.99 * staying


def test_at_a_port_without_keys_all_are_one_user() -> None:
    assert Hall("weighted_fair", user=ANYBODY).share_of_the_steady(again=True) == pytest.approx(0.5, abs=0.02)


def test_nobody_waits_for_all_the_rows_that_another_had_while_riding_along() -> None:
    policy = WeightedFair(DaemonConfig())
    accounts = policy._clients["training"]
    policy.joined(ClientId(1), "training", "eve")
    accounts.given[ClientId(1)], accounts.now = 3.6e9, 1e6
    policy.left(ClientId(1))
    policy.joined(ClientId(2), "training", "eve")
    assert accounts.given == {2: 2e6}


def test_of_several_that_left_the_one_furthest_ahead_is_inherited_first_and_once() -> None:
    policy = WeightedFair(DaemonConfig())
    for client, given in ((1, 5.0), (2, 9.0), (3, 0.0)):
        policy.joined(ClientId(client), "training", "eve")
        policy._clients["training"].given[ClientId(client)] = given
    for client in (1, 2, 3):
        policy.left(ClientId(client))
    for client in (4, 5, 6):
        policy.joined(ClientId(client), "training", "eve" if client != 6 else "bob")
    assert policy._clients["training"].given == {4: 9.0, 5: 5.0}


def test_what_counts_no_more_is_forgotten() -> None:
    policy = WeightedFair(DaemonConfig())
    accounts = policy._clients["training"]
    policy.joined(ClientId(1), "training", "eve")
    accounts.given[ClientId(1)] = 5.0
    policy.left(ClientId(1))
    accounts.now = 6.0
    policy.joined(ClientId(2), "training", "bob")
    assert (accounts.given, accounts._left) == ({}, {})


def test_another_policy_is_told_who_is_there() -> None:
    """Else it would know nothing of a client that leaves."""
    hall = Hall("latency_first")
    config = DaemonConfig(policy=PolicyConfig(name="weighted_fair"), lanes=hall.config.lanes)
    hall.state.handle(Adopt(config, make_policy(config)))
    assert hall.share_of_the_steady(again=True) == pytest.approx(0.5, abs=0.02)
