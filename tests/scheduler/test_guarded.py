"""A policy that is not ours may be wrong in any way: it is a clear error, or `latency_first` decides instead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from symbiosis_core.config import BatchingConfig, DaemonConfig, PolicyConfig
from symbiosis_core.errors import ConfigError
from symbiosis_scheduler.decisions.deadline import Deadline
from symbiosis_scheduler.decisions.fifo import Fifo
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold, Part, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.guarded import Guarded, guarded, told
from symbiosis_scheduler.policies import check_policy, make_policy
from tests import strange_policies
from tests.scheduler.desk import CONFIG, Desk, arrival

Change = Callable[[Plan], Any]


class Strange(Fifo):
    """Makes something else of every third of its decisions."""

    change: Change = staticmethod(lambda plan: plan)

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        plan = super().plan(now_us, queues, known)
        return self.change(plan) if isinstance(plan, Plan) and queues.tickets > 6 else plan


class AlwaysHolds(Fifo):
    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        return Hold(now_us + 1000) if len(queues) else None


class HoldsEveryOther(Fifo):
    holds = False

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        if not len(queues):
            return None
        self.holds = not self.holds
        return Hold(now_us + 1000) if self.holds else super().plan(now_us, queues, known)


def lost(plan: Plan) -> Plan:
    raise ZeroDivisionError("a bug in plan")


def ended(plan: Plan) -> Plan:
    raise SystemExit(3)


def halved(plan: Plan) -> Plan:
    lead = plan.lead
    return msgspec.structs.replace(plan, parts=(Part(lead, 0, lead.rows / 2),))  # type: ignore[arg-type]  # nonsense


def parts(*parts: Part) -> Change:
    return lambda plan: msgspec.structs.replace(plan, parts=parts)


def shifted(plan: Plan) -> Plan:
    first = plan.parts[0]
    return msgspec.structs.replace(plan, parts=(Part(first.request, first.start + 1, first.stop + 1),))


CHANGES: dict[str, Change] = {
    "raises": lost,
    "ends the process": ended,
    "nothing": lambda plan: None,
    "something else": lambda plan: "the lead",
    "nobody": parts(),
    "no tuple": lambda plan: msgspec.structs.replace(plan, parts=iter(plan.parts)),
    "no parts": lambda plan: msgspec.structs.replace(plan, parts=("lead",)),
    "other rows": shifted,
    "half a row": halved,
    "the same rows twice": lambda plan: msgspec.structs.replace(plan, parts=plan.parts * 2),
    "another op": lambda plan: msgspec.structs.replace(plan, op=plan.op + 1),
    "a hold without a time": lambda plan: Hold(None),  # type: ignore[arg-type]  # nonsense
    "a hold that is over": lambda plan: Hold(0),
    "a hold of an hour": lambda plan: Hold(3600 * 10**6),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_policy_answers_every_request_is_answered_and_the_log_says_why(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Strange):
        change = staticmethod(CHANGES[what])

    config = msgspec.structs.replace(CONFIG, policy=PolicyConfig(name="wrong"))
    desk = Desk(lambda _: Guarded(Wrong(config), config))
    for client in range(3):
        desk.join(client)
    asked = answered = 0
    with caplog.at_level(logging.ERROR):
        for generation in range(5):
            for client in range(3):
                desk.arrive(client, arrival(generation=generation, op=client, rows=7))
                asked += 1
            answers = desk.finish()
            assert all(answer.refusal is None for answer in answers)
            answered += len(answers)
    assert asked == answered
    assert told(desk.state.planner.policy, "wrong") == "latency_first, for wrong has failed"
    (record,) = caplog.records  # once, with its traceback
    assert "policy=wrong" in record.getMessage() and record.exc_info is not None


def test_a_policy_that_shares_exact_batches_has_failed() -> None:
    config = msgspec.structs.replace(CONFIG, batching=BatchingConfig(exact=True))
    sharing = Guarded(Fifo(CONFIG), config)
    desk = Desk(lambda _: sharing)
    for client in range(2):
        desk.join(client)
        desk.arrive(client, arrival())
    assert [len(plan.parts) for plan in desk.turn()] == [1]
    assert sharing.failed


def test_a_policy_that_holds_again_and_again_has_failed_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """No hold is long, and the requests would wait for ever."""
    policy = Guarded(AlwaysHolds(CONFIG), CONFIG)
    desk = Desk(lambda _: policy)
    desk.join(1)
    desk.arrive(1, arrival())
    while not (plans := desk.turn()):
        assert desk.now_us <= 60_000_000
        desk.now_us += 1_000_000
    assert policy.failed and desk.now_us == 61_000_000
    assert [plan.lead.client for plan in plans] == [1]
    assert "nothing but holds" in caplog.text


def test_a_hold_for_who_has_left_is_not_counted_on_for_who_comes_later() -> None:
    """An idle daemon asks nobody."""
    policy = Guarded(AlwaysHolds(CONFIG), CONFIG)
    desk = Desk(lambda _: policy)
    for client in (1, 2):
        desk.join(client)
    desk.arrive(1, arrival())
    assert desk.turn() == []
    desk.leave(1)
    desk.now_us += 61_000_000
    desk.arrive(2, arrival())
    assert desk.turn() == [] and not policy.failed
    desk.now_us += 61_000_000
    assert len(desk.turn()) == 1 and policy.failed


def test_holds_between_which_something_is_computed_are_no_failure() -> None:
    policy = Guarded(HoldsEveryOther(CONFIG), CONFIG)
    desk = Desk(lambda _: policy)
    desk.join(1)
    for generation in range(10):
        desk.arrive(1, arrival(generation=generation))
        assert desk.turn() == []
        desk.now_us += 40_000_000
        (plan,) = desk.turn()
        desk.done(plan)
    assert not policy.failed


def test_a_policy_that_does_what_it_should_decides() -> None:
    config = msgspec.structs.replace(CONFIG, policy=PolicyConfig(name="right"))
    policy = Guarded(Strange(config), config)
    desk = Desk(lambda _: policy)
    desk.join(1)
    for generation in range(10):
        desk.arrive(1, arrival(generation=generation, rows=40))
        assert [plan.rows for plan in desk.turn()] == [16], "fifo knows no chunks of 4 rows"
        desk.state = Desk(lambda _: policy).state
        desk.join(1)
    assert told(policy, "right") == "right"


def test_ours_are_not_guarded() -> None:
    """A bug of ours is to be seen."""
    ours = Deadline(DaemonConfig())
    assert guarded(ours, DaemonConfig()) is ours
    assert isinstance(guarded(Strange(DaemonConfig()), DaemonConfig()), Guarded)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nobody_has_this", "one of the installed policies: deadline, "),
        ("raises_in_init", "ValueError: a bug in __init__"),
        ("raises_in_beside", "ValueError: a bug in beside"),
        ("has_no_plan", r"HasNoPlan has none"),
        ("is_not_there", "AttributeError"),
        ("lacks_a_package", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("ends_the_process", "SystemExit: 3"),
    ],
)
def test_a_policy_that_cannot_be_made_is_a_mistake_in_the_configuration(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange_policies.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = DaemonConfig(policy=PolicyConfig(name=name))
    for attempt in (lambda: make_policy(config, "a.toml"), lambda: check_policy("a.toml", config)):
        with pytest.raises(ConfigError, match=rf"^a\.toml: policy\.name = '{name}': .*{why}"):
            attempt()
