"""Ops of several bases have numbers of their own, and a client names those of its base alone."""

from __future__ import annotations

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.events import Answer, Arrived, ClientJoined, PlanDone, Run, Turn
from symbiosis_scheduler.decisions.numbering import Numbering
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy
from tests.scheduler.desk import SLOT_BYTES, arrival

SMALL, LARGE = BaseId(0), BaseId(1)


def op(id: int, width: int) -> OpSpec:
    return OpSpec(OpId(id), OpKind.LINEAR, (f"l{id}",), width, (width,), DType.FLOAT32)


def two_bases() -> SchedulerState:
    """A base of two narrow ops, and one of a single wide op."""
    config = DaemonConfig()
    state = SchedulerState([[op(0, 16), op(1, 16)], [op(0, 1024)]], config, make_policy(config))
    state.handle(ClientJoined(ClientId(1), "training", SLOT_BYTES, base=SMALL))
    state.handle(ClientJoined(ClientId(2), "inference", SLOT_BYTES, base=LARGE))
    return state


def plan_of(state: SchedulerState, now_us: int = 0) -> Plan:
    [run] = state.handle(Turn(now_us))
    assert isinstance(run, Run)
    return run.plan


def test_with_one_base_both_count_alike() -> None:
    numbering = Numbering(1)
    assert [numbering.add(SMALL) for _ in range(3)] == [0, 1, 2]
    assert [numbering.number(SMALL, each) for each in (0, 2, 3, -1)] == [0, 2, None, None]


def test_what_comes_later_follows_on_and_belongs_to_its_base() -> None:
    numbering = Numbering(2)
    for base in (SMALL, SMALL, LARGE, SMALL):
        numbering.add(base)
    assert [numbering.number(SMALL, each) for each in range(3)] == [0, 1, 3]
    assert numbering.number(LARGE, 0) == 2
    assert [numbering.base(OpId(number)) for number in range(4)] == [SMALL, SMALL, LARGE, SMALL]


def test_a_client_names_ops_of_its_own_base_and_of_no_other() -> None:
    state = two_bases()
    [answer] = state.handle(Arrived(ClientId(2), [arrival(op=1)], 0))
    assert isinstance(answer, Answer)
    assert answer.refusal is RefusalCode.UNKNOWN_OP
    assert state.handle(Arrived(ClientId(1), [arrival(op=1)], 0)) == []


def test_the_same_number_of_two_bases_is_two_ops_with_rows_of_their_own() -> None:
    state = two_bases()
    state.handle(Arrived(ClientId(1), [arrival(rows=4)], 0))
    state.handle(Arrived(ClientId(2), [arrival(rows=4)], 0))
    first = plan_of(state)
    assert (first.op, first.lead.client, len(first.parts)) == (2, 2, 1), "and nothing of another base rides along"
    state.handle(PlanDone(first, 5))
    assert plan_of(state, 5).op == 0
    [answer] = state.handle(Arrived(ClientId(2), [arrival(slot=1, rows=40)], 5))
    assert isinstance(answer, Answer)
    assert answer.refusal is RefusalCode.BAD_REGION, "40 rows of the wide base do not fit into half a slot"


def test_the_first_lane_goes_first_whatever_the_base() -> None:
    """Training on one base came before, and long before; a token on the other goes first all the same."""
    state = two_bases()
    state.handle(Arrived(ClientId(1), [arrival(rows=64)], 0))
    state.handle(Arrived(ClientId(2), [arrival()], 1_000))
    assert plan_of(state, 1_000).lead.client == 2


def test_what_is_taught_to_one_base_is_unknown_to_the_other() -> None:
    state = two_bases()
    assert state.learn(LARGE, op(1, 16)) == 3
    assert state.number(ClientId(2), 1) == 3
    assert state.number(ClientId(1), 2) is None


def test_batches_are_counted_by_base() -> None:
    state = two_bases()
    state.handle(Arrived(ClientId(2), [arrival(rows=4)], 0))
    state.handle(PlanDone(plan_of(state), 5))
    assert [(base.batches, base.rows) for base in state.statistics().bases] == [(0, 0), (1, 4)]
