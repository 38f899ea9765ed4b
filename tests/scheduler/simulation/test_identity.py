"""Who is who in a trace: lanes by name, user and key, the quotas of users, and who was refused."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig, RuleConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.events import ClientJoined
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.trace import VERSION, Kind
from symbiosis_scheduler.simulation.trace_file import records
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.desk import Desk, arrival
from tests.scheduler.simulation.loads import played, recorded, who


def test_who_everybody_is_stands_in_the_trace_also_of_those_who_were_there_before() -> None:
    """However long the names are that the wire lets in: a record has no end at 255 bytes."""
    long = "\N{SNOWMAN}" * 128
    desk = Desk()
    desk.state.handle(ClientJoined(ClientId(1), "training", 1 << 20, "alice", name=long))
    recorder = recorded(desk)
    desk.state.handle(ClientJoined(ClientId(2), "training", 1 << 20, "key:bob", name="short"))
    for client in (1, 2):
        desk.arrive(client, arrival(op=1))
    trace = records(recorder.take(1100, last=True))
    assert trace[1] == (Kind.JOIN, 0, 1, "training", "alice", long)
    assert trace[2] == (Kind.JOIN, 0, 2, "training", "key:bob", "short")
    told = [(script.user, script.name) for script in read_load(trace).scripts]
    assert told == [("alice", long), ("key:bob", "short")]


def test_rules_by_name_and_user_put_clients_of_a_trace_into_lanes() -> None:
    """Also by a key, which is in no trace: it fits those who were in the rule's lane when it was recorded."""
    load = who(("a", "alice", "chat-1"), ("a", "bob", "job-7"), ("b", "bob", "job-8"))
    lanes = {lane: LaneConfig(priority=0) for lane in "abc"}

    def placed(*rules: RuleConfig) -> list[str]:
        return [player.lane for player in World(load, DaemonConfig(lanes=lanes, rules=rules)).players]

    assert placed(RuleConfig(lane="c", name="job-*")) == ["a", "c", "c"]
    assert placed(RuleConfig(lane="c", user="alice")) == ["c", "a", "b"]
    assert placed(RuleConfig(lane="b", key="s"), RuleConfig(lane="c")) == ["c", "c", "b"]


def test_clients_of_one_user_share_the_users_quota_in_virtual_time() -> None:
    """Six forwards of 100 rows: two seconds' worth of 50 a second let one in, and each other waits its turn."""
    lanes = {"a": LaneConfig(priority=0, user_rows_per_s=50)}
    one, two = ("a", "alice", ""), ("a", "bob", "")
    together, apart = (played(who(one, other), DaemonConfig(lanes=lanes)) for other in (one, two))
    assert together.requests == apart.requests == 12, "who is refused tries again, and nothing is left out"
    assert apart.seconds == pytest.approx((300 - 100 - 100) / 50, abs=0.1)
    assert together.seconds == pytest.approx((600 - 100 - 100) / 50, abs=2.1), "both may come in at the same time"
    assert together.lanes[0].refused > apart.lanes[0].refused >= 2


def test_a_piece_that_a_quota_refused_is_asked_for_again_and_no_other_before_it() -> None:
    """Both pieces of a forward, refused at once: each is computed once, and what follows waits for both."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        *((Kind.OP, op, op == 0) for op in (0, 1)),
        (Kind.JOIN, 0, 1, "a", "", ""),
    ]
    for us in (1000, 2000):
        trace += [(Kind.ASK, us, 1, slot, 0, 0, 90 + slot, 0) for slot in (0, 1)]
        trace += [(Kind.ANSWER, us + 100, 1, slot, False) for slot in (0, 1)]
        trace += [(Kind.ASK, us + 200, 1, 0, 1, 0, 181, 0), (Kind.ANSWER, us + 300, 1, 0, False)]
    world = World(read_load(trace), DaemonConfig(lanes={"a": LaneConfig(priority=0, client_rows_per_s=10)}))
    world.run()
    (player,) = world.players
    assert (world.requests, player.rows, player.refused) == (6, 4 * 181, 2)
    assert world.now_us == pytest.approx((2 * 181 - 2 * 10) * 1e5, rel=0.01)
    assert len(player.forwards_us) == 1 and player.forwards_us[0] < 10_000, "waiting to be let in is no forward"


def test_who_was_refused_and_tried_again_asked_for_one_thing() -> None:
    """Else a quota that the trace was recorded under would be paid again in virtual time, by more requests."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, True),
        (Kind.JOIN, 0, 1, "a", "", ""),
        *((Kind.ASK, 1000, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 1010, 1, 0, False)),
        *((Kind.ASK, 1500, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 1500, 1, 0, True)),
        *((Kind.ASK, 9500, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 9510, 1, 0, False)),
        *((Kind.ASK, 9700, 1, 0, 0, 0, 8, 0), (Kind.ANSWER, 9700, 1, 0, True)),
        *((Kind.ASK, 9900, 1, 0, 0, 0, 7, 0), (Kind.ANSWER, 9910, 1, 0, False)),
    ]
    (script,) = read_load(trace).scripts
    assert [call[2] for call in script.calls] == [9, 9, 8, 7], "who gives up has asked all the same"
    assert list(script.needs) == [0, 1, 2, 3]
    assert list(script.delays_us) == [0, 490, 190, 200]
