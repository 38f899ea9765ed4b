"""Another configuration is adopted between two plans and no row of anybody is lost; quotas refuse a forward."""

from __future__ import annotations

import random

import pytest

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.errors import LocalProtocolError, RefusalCode
from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.events import Adopt, Answer, ClientJoined
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.quotas import FORWARD_S
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy, policy_names
from tests.scheduler.desk import CONFIG, OPS, SLOT_BYTES, Desk, arrival


def adopt(desk: Desk, config: DaemonConfig) -> None:
    assert desk.tell(Adopt(config, make_policy(config))) == []


@pytest.mark.parametrize("seed", range(4))
def test_every_request_is_answered_once_whatever_is_adopted_meanwhile(seed: int) -> None:
    dice, desk = random.Random(seed), Desk()
    for client in range(6):
        desk.join(client, ("inference", "training", "tuning")[client % 3])
    asked = answered = 0
    plans: list[Plan] = []
    for generation in range(150):
        for client in range(6):
            if dice.random() < 0.5 and not desk.state._clients[ClientId(client)].open:
                desk.arrive(
                    client, arrival(generation=generation, op=dice.randrange(3), rows=dice.randrange(1, 40))
                )
                asked += 1
        plans += desk.turn()
        if dice.random() < 0.5:
            lanes = {
                name: LaneConfig(priority=dice.randrange(3), chunk_rows=dice.randrange(1, 20))
                for name in CONFIG.lanes
            }
            adopt(
                desk,
                DaemonConfig(
                    policy=PolicyConfig(name=dice.choice(policy_names())),
                    lanes=lanes,
                    batching=BatchingConfig(exact=dice.random() < 0.3, max_rows=dice.randrange(1, 30)),
                ),
            )
        while plans:
            answered += len(desk.done(plans.pop()))
        desk.now_us += 1_000_000
    adopt(desk, CONFIG)
    answered += len(desk.finish())
    assert asked == answered > 50


@pytest.mark.parametrize("policy", policy_names())
def test_what_was_begun_in_chunks_is_ended_in_one_by_a_configuration_that_is_exact(policy: str) -> None:
    desk = Desk()
    for client in (1, 2):
        desk.join(client, "training")
        desk.arrive(client, arrival(op=1, rows=40))
    (plan,) = desk.turn()
    begun = plan.parts[-1]
    assert begun.stop < begun.request.rows
    exact = DaemonConfig(policy=PolicyConfig(name=policy), lanes=CONFIG.lanes, batching=BatchingConfig(exact=True))
    adopt(desk, exact)
    answers = desk.done(plan)
    rest: list[tuple[int, int]] = []
    while plans := desk.turn():
        for each in plans:
            assert len(each.parts) == 1
            rest += [(each.parts[0].start, each.parts[0].stop)] * (each.lead is begun.request)
            answers += desk.done(each)
    assert rest == [(begun.stop, 40)] and len(answers) == 2


def test_what_was_served_is_still_counted_and_new_lanes_begin_with_nothing() -> None:
    desk = Desk()
    desk.join(1, "training")
    desk.arrive(1, arrival(rows=3))
    desk.finish()
    adopt(desk, DaemonConfig(lanes={"training": LaneConfig(priority=0), "new": LaneConfig(priority=1)}))
    assert [(lane.name, lane.rows) for lane in desk.state.statistics().lanes] == [("training", 3), ("new", 0)]


def test_nobodys_lane_can_be_taken_away() -> None:
    desk = Desk()
    desk.join(1, "training")
    assert desk.state.lanes_in_use == {"training"}
    config = DaemonConfig(lanes={"only": LaneConfig(priority=0)})
    with pytest.raises(LocalProtocolError):
        desk.state.handle(Adopt(config, make_policy(config)))
    desk.state.check()


# -- quotas ----------------------------------------------------------------------------------------------------

EMBED = OpSpec(OpId(0), OpKind.EMBEDDING, ("embed",), 1, (16,), DType.FLOAT32)
LIMITED = DaemonConfig(lanes={"training": LaneConfig(priority=0, client_rows_per_s=10)})


def limited() -> Desk:
    desk = Desk()
    desk.state = SchedulerState([(EMBED, *OPS[1:])], LIMITED, make_policy(LIMITED))
    desk.tell(ClientJoined(ClientId(1), "training", SLOT_BYTES, "ann"))
    return desk


def refusals(desk: Desk, op: int, rows: int) -> list[RefusalCode | None]:
    answers = [each for each in desk.arrive(1, arrival(op=op, rows=rows)) if isinstance(each, Answer)]
    return [answer.refusal for answer in answers or desk.finish()]


def test_a_quota_refuses_the_next_forward_and_never_the_rest_of_one() -> None:
    desk = limited()
    assert refusals(desk, 0, 30) == [None]  # ten more than were saved up
    assert refusals(desk, 0, 30) == [None]  # a second piece of the same token ids
    assert refusals(desk, 1, 30) == [None]
    assert refusals(desk, 0, 1) == [RefusalCode.QUOTA]
    reached = desk.state.quota_reached(ClientId(1), desk.now_us)
    assert reached is not None and (reached.rows_per_s, reached.retry_us) == (10, 7_000_001)
    desk.now_us += reached.retry_us
    assert refusals(desk, 0, 1) == [None]
    assert desk.state.statistics().clients[0].refused == 1


def test_a_client_that_sends_no_token_ids_or_nothing_else_does_not_escape_its_quota() -> None:
    """Layers alone, embeddings one after another, or layers for ever after one embedding."""
    for calls in ([1, 2], [0], [0, 0, 0, 1, 2]):
        desk, before = limited(), 0
        limit = 10 * (2 + FORWARD_S)
        for op in [*calls, *[calls[-1]] * 100]:
            before += 30 * (refusals(desk, op, 30) == [None])
        assert limit - 30 <= before <= limit + 30, calls
        reached = desk.state.quota_reached(ClientId(1), desk.now_us)
        assert reached is not None and reached.rows_per_s == 10


def test_what_is_owed_outlives_a_connection_and_a_configuration() -> None:
    desk = limited()
    assert refusals(desk, 0, 40) == [None]
    adopt(desk, LIMITED)
    assert refusals(desk, 1, 1) == [None], "its forward goes on"
    assert refusals(desk, 0, 1) == [RefusalCode.QUOTA]
    desk.leave(1)
    desk.tell(ClientJoined(ClientId(1), "training", SLOT_BYTES, "ann"))
    assert refusals(desk, 1, 1) == [RefusalCode.QUOTA]
    desk.tell(ClientJoined(ClientId(2), "training", SLOT_BYTES, "bob"))
    assert desk.state.quota_reached(ClientId(2), 0) is None
