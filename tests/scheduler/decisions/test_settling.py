"""Accounts are settled by what was known when a batch was planned, whenever that is done."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.errors import RefusalCode
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
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy
from symbiosis_transports.calls import Arrival, Call

OPS = (
    OpSpec(OpId(0), OpKind.EMBEDDING, ("ids",), 1, (8,), DType.FLOAT32),
    *(OpSpec(OpId(n), OpKind.LINEAR, (f"l{n}",), 8, (8,), DType.FLOAT32) for n in range(1, 4)),
)
CLIENTS = 9
Leads = list[tuple[int, int]]


def leads(policy: str, reflect: bool) -> Leads:
    """Returns who led every batch, and of how many rows; batches take what they take, and rows what they like.

    Some batches fail, some clients leave and come back as others, and once the same is configured anew.
    """
    dice = random.Random(5)
    lanes = {
        "a": LaneConfig(priority=0, weight=2, chunk_rows=8, token_us=9000),
        "b": LaneConfig(priority=1, chunk_rows=4, first_token_us=30_000, token_us=12_000),
    }
    config = DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes)
    state = SchedulerState([OPS], config, make_policy(config))
    asked, now_us = Counter[int](), 0
    found: Leads = []

    def ask(client: int) -> None:
        call = Call(OpId(asked[client] % len(OPS)), Direction.FORWARD, 1 + 3 * (client % CLIENTS), 0, 1 << 39)
        asked[client] += 1
        state.handle(Arrived(ClientId(client), [Arrival(SlotIndex(0), Generation(asked[client]), call)], now_us))

    def join(client: int) -> None:
        state.handle(ClientJoined(ClientId(client), "ab"[client % 2], 1 << 40))
        ask(client)

    for client in range(CLIENTS):
        join(client)
    while len(found) < 400:
        if len(found) == 200:
            state.handle(Adopt(config, make_policy(config)))
        if dice.random() < 0.05:
            gone = dice.choice(sorted(state.present, key=lambda each: each.id)).id
            state.handle(ClientLeft(gone))
            join(int(gone) + CLIENTS * 2)
        (run,) = state.handle(Turn(now_us))
        assert isinstance(run, Run)
        found.append((int(run.plan.lead.client), run.plan.rows))
        if reflect:
            state.reflect()
        now_us += dice.randrange(100, 9000)
        failed = {run.plan.lead: RefusalCode.FAILED} if dice.random() < 0.05 else {}
        if dice.random() < 0.05 and (leaver := run.plan.lead.client) in {each.id for each in state.present}:
            state.handle(ClientLeft(leaver))
            join(int(leaver) + CLIENTS * 2)
        answers = state.handle(PlanDone(run.plan, now_us, failed))
        if reflect:
            state.reflect()
        now_us += 10
        for answer in answers:
            assert isinstance(answer, Answer)
            ask(int(answer.client))
    return found


@pytest.mark.parametrize("policy", ["weighted_fair", "deadline"])
def test_when_accounts_are_settled_changes_no_decision(policy: str) -> None:
    assert leads(policy, reflect=True) == leads(policy, reflect=False)


@pytest.mark.parametrize("policy", ["weighted_fair", "deadline"])
def test_accounts_that_are_settled_by_what_was_learned_since_are_others(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measure sees what it is there to see."""
    before = leads(policy, reflect=True)

    def late(self: SchedulerState) -> None:
        for plan, took_us, now_us in self._lessons:
            self._known.finished(plan, took_us, now_us)
        self._lessons.clear()
        self.planner.settle(self._known)

    monkeypatch.setattr(SchedulerState, "reflect", late)
    assert leads(policy, reflect=False) != before


def test_a_policy_without_accounts_is_not_asked_to_settle_them() -> None:
    config = DaemonConfig()
    state = SchedulerState([OPS], config, make_policy(config))
    assert not hasattr(state.planner.policy, "settle")
    state.planner.settle(Known())
