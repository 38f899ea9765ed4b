"""What waits is found in every order that was promised, and nothing of it is left when it is gone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from symbiosis_core.config import LaneConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions import levels as levels_module
from symbiosis_scheduler.decisions import queues as queues_module
from symbiosis_scheduler.decisions.plan import Part
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request

LANES = {
    "bulk": LaneConfig(priority=20),
    "inference": LaneConfig(priority=0),
    "training": LaneConfig(priority=10),
    "tuning": LaneConfig(priority=10),
}
OPS = st.integers(0, 2)
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


def request(
    client: int, lane: str = "training", op: int = 0, direction: Direction = FORWARD, rows: int = 8
) -> Request:
    return Request(ClientId(client), SlotIndex(0), Generation(1), lane, OpId(op), direction, rows, 0, 0, 4096)


def oldest(queues: Queues, lane: str) -> Request | None:
    return next(iter(queues.lane(lane).waiting), None)


def waiting(queues: Queues, op: OpId, direction: Direction) -> list[tuple[Request, int]]:
    """Returns what waits for an op, and its taken rows, by priority, then as in its cell."""
    cells = [level.cells[op, direction] for level in queues.levels if (op, direction) in level.cells]
    return [(request, part.start) for cell in cells for request, part in cell.parts.items()]


def heads(queues: Queues, rank: int) -> list[Request]:
    return list(queues.levels[rank].heads())


def test_lanes_are_sorted_by_priority_and_equal_ones_share_a_level() -> None:
    queues = Queues(LANES)
    assert [lane.name for lane in queues.lanes] == ["inference", "training", "tuning", "bulk"]
    assert [level.priority for level in queues.levels] == [0, 10, 20]
    assert [lane.name for lane in queues.levels[1].lanes] == ["training", "tuning"]


def test_the_oldest_of_a_lane_is_the_first_that_came_to_it() -> None:
    queues = Queues(LANES)
    first, second, other = request(1), request(2), request(3, "tuning")
    for each in (first, second, other):
        queues.push(each)
    assert oldest(queues, "training") is first
    assert oldest(queues, "tuning") is other
    assert oldest(queues, "bulk") is None
    queues.take(Part(first, 0, 8))
    assert oldest(queues, "training") is second


def test_requests_with_one_op_and_direction_come_by_priority_and_then_by_arrival() -> None:
    queues = Queues(LANES)
    bulk, tuning, training, inference = (
        request(n, lane) for n, lane in enumerate(("bulk", "tuning", "training", "inference"))
    )
    backward, elsewhere = request(8, direction=BACKWARD), request(9, op=1)
    for each in (bulk, backward, tuning, elsewhere, training, inference):
        queues.push(each)
    found = [each for each, _ in waiting(queues, OpId(0), FORWARD)]
    assert found == [inference, tuning, training, bulk]


def test_a_request_keeps_its_arrival_while_parts_of_it_are_taken_but_goes_behind_others_of_its_op() -> None:
    queues = Queues(LANES)
    first, second = request(1), request(2)
    queues.push(first)
    queues.push(second)
    queues.take(Part(first, 0, 5))
    assert oldest(queues, "training") is first
    assert waiting(queues, OpId(0), FORWARD) == [(second, 0), (first, 5)]
    assert (len(queues), queues.rows, queues.taken(first)) == (2, 11, 5)


def test_the_turn_passes_when_a_client_has_rows_of_its_head_taken() -> None:
    queues = Queues(LANES)
    mine, more, yours = request(1), request(1, op=1), request(2)
    for each in (mine, more, yours):
        queues.push(each)
    assert heads(queues, 1) == [mine, yours]
    queues.take(Part(mine, 0, 1))
    assert heads(queues, 1) == [yours, mine]
    queues.take(Part(yours, 0, 1))
    assert heads(queues, 1) == [mine, yours]


def test_riding_along_with_a_later_request_does_not_cost_the_turn() -> None:
    queues = Queues(LANES)
    mine, more, yours = request(1), request(1, op=1), request(2)
    for each in (mine, more, yours):
        queues.push(each)
    queues.take(Part(more, 0, 8))
    assert heads(queues, 1) == [mine, yours]


@pytest.mark.parametrize(("start", "stop"), [(1, 4), (0, 0), (0, 9), (4, 8), (-1, 4)])
def test_only_the_next_rows_of_a_request_can_be_taken(start: int, stop: int) -> None:
    queues = Queues(LANES)
    only = request(1)
    queues.push(only)
    with pytest.raises(LocalProtocolError):
        queues.take(Part(only, start, stop))
    queues.check()
    assert queues.rows == 8


def test_what_is_taken_together_is_for_the_same_op_and_each_once() -> None:
    queues = Queues(LANES)
    one, other = request(1), request(2, op=1)
    queues.push(one)
    queues.push(other)
    for parts in ((Part(one, 0, 8), Part(other, 0, 8)), (Part(other, 0, 8), Part(other, 0, 8))):
        with pytest.raises(LocalProtocolError):
            queues.take(*parts)


@pytest.mark.parametrize("lead", [0, 13, 59])
def test_all_that_waits_is_taken_at_once_and_nothing_else_is_touched(lead: int) -> None:
    queues = Queues(LANES)
    everybody = [request(client, ("inference", "training", "tuning")[client % 3]) for client in range(90)]
    for each in (*everybody, other := request(99, "bulk", op=1)):
        queues.push(each)
    parts = [part for level in queues.levels[:2] for part in level.cells[OpId(0), FORWARD].parts.values()]
    parts.insert(0, parts.pop(lead))
    assert lines_run(lambda: queues.take(*parts)) < len(parts), "one by one"
    assert (len(queues), queues.rows, heads(queues, 2)) == (1, other.rows, [other])
    queues.check()
    with pytest.raises(LocalProtocolError):
        queues.take(*parts)
    queues.check()


def test_all_that_waits_is_taken_in_any_order() -> None:
    queues = Queues(LANES)
    everybody = [request(client, ("inference", "training")[client % 2]) for client in range(30)]
    for each in everybody:
        queues.push(each)
    queues.take(*[Part(each, 0, each.rows) for each in reversed(everybody)])
    assert not queues and not queues.rows
    queues.check()


def test_who_is_behind_is_the_head_when_the_head_is_gone_and_keeps_the_clients_turn() -> None:
    queues = Queues(LANES)
    mine, more, yours = request(1), request(1, op=1), request(2)
    for each in (mine, more, yours):
        queues.push(each)
    assert queues.held_by(ClientId(1)) == 2
    queues.discard(mine)
    assert (heads(queues, 1), queues.held_by(ClientId(1))) == ([more, yours], 1)
    queues.check()


@pytest.mark.parametrize("left_out", [0, 13, 29])
def test_where_one_is_left_the_others_are_taken_all_the_same(left_out: int) -> None:
    queues = Queues(LANES)
    everybody = [request(client, ("inference", "training", "tuning")[client % 3]) for client in range(30)]
    for each in everybody:
        queues.push(each)
    stays = everybody.pop(left_out)
    queues.take(*[Part(each, 0, each.rows) for each in everybody])
    assert [each for each, _ in waiting(queues, OpId(0), FORWARD)] == [stays]
    queues.check()


def test_nothing_is_taken_twice_among_many() -> None:
    queues = Queues(LANES)
    for client in range(10):
        queues.push(request(client))
    parts = list(queues.levels[1].cells[OpId(0), FORWARD].parts.values())
    with pytest.raises(LocalProtocolError):
        queues.take(*parts[:9], parts[0])


def test_what_does_not_wait_cannot_be_taken_and_discarding_it_is_harmless() -> None:
    queues = Queues(LANES)
    gone = request(1)
    with pytest.raises(LocalProtocolError):
        queues.take(Part(gone, 0, 8))
    queues.discard(gone)
    queues.check()


def test_who_has_asked_since_the_last_plan_is_told_by_level_until_it_leaves() -> None:
    queues = Queues(LANES)
    training = queues.lane("training").level
    queues.push(request(1))
    queues.noted()
    for each in (request(3), request(2, "tuning"), request(3), request(4, "bulk")):
        queues.push(each)
    assert (list(training.arrived), list(queues.lane("bulk").level.arrived)) == ([3, 2], [4])
    queues.part(1, 2).noted()
    assert [list(level.arrived) for level in queues.levels] == [[], [], [4]]
    queues.remove(ClientId(4))
    assert not any(level.arrived for level in queues.levels)


def test_removing_a_client_takes_all_of_it_and_nothing_else() -> None:
    queues = Queues(LANES)
    kept = request(2)
    for each in (request(1), kept, request(1, op=3), request(1, direction=BACKWARD)):
        queues.push(each)
    assert queues.held_by(ClientId(1)) == 3
    assert queues.remove(ClientId(1)) == 3
    assert queues.remove(ClientId(1)) == 0
    assert (queues.held_by(ClientId(1)), len(queues), oldest(queues, "training")) == (0, 1, kept)
    queues.check()


def lines_run(action: Callable[[], object]) -> int:
    """Returns how many lines of the queues `action` runs: a cost without a clock."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_globals is not vars(queues_module) and frame.f_globals is not vars(levels_module):
            return None  # above all, the callbacks that others hang into the garbage collector
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


def crowded(clients: int) -> Queues:
    """Returns queues in which that many clients wait, for seven ops."""
    queues = Queues(LANES)
    for client in range(clients):
        queues.push(request(client + 10, op=client % 7))
    return queues


def test_removing_a_client_costs_what_it_has_whatever_others_have() -> None:
    def cost(others: int, own: int) -> int:
        queues = crowded(others)
        for op in range(own):
            queues.push(request(1, op=op))
        return lines_run(lambda: queues.remove(ClientId(1)))

    assert cost(others=700, own=3) == cost(others=7, own=3) < cost(others=7, own=6)


def test_a_requests_journey_costs_the_same_with_any_history_and_any_queue() -> None:
    def journey(queues: Queues) -> None:
        new = request(1)
        queues.push(new)
        queues.take(Part(new, 0, 3))
        assert oldest(queues, "training") is not None
        queues.take(Part(new, 3, 8))

    few, many = crowded(7), crowded(700)
    cost = lines_run(lambda: journey(few))
    assert lines_run(lambda: journey(many)) == cost
    for client in range(7, 700):
        many.remove(ClientId(client + 10))
    assert lines_run(lambda: journey(many)) == cost


class QueuesMachine(RuleBasedStateMachine):
    """The queues against a list of what waits, in order of arrival, that is searched through each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = Queues(LANES)
        self.model: dict[Request, int] = {}
        """Requests in order of arrival, each with its taken rows."""
        self.cut: dict[Request, int] = {}
        """When a part of the request was last taken."""
        self.joined: dict[tuple[str, int], int] = {}
        """When a client of a lane came to its place in the turns."""
        self.now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now

    def rank(self, waiting: Request) -> int:
        return {"inference": 0, "training": 1, "tuning": 1, "bulk": 2}[waiting.lane]

    def of(self, client: int) -> list[Request]:
        return [waiting for waiting in self.model if waiting.client == client]

    @rule(
        client=st.integers(0, 5),
        op=st.integers(0, 2),
        direction=st.sampled_from(Direction),
        rows=st.integers(1, 9),
    )
    def push(self, client: int, op: int, direction: Direction, rows: int) -> None:
        lane = ("inference", "training", "tuning", "bulk", "training", "inference")[client]
        new = request(client, lane, op, direction, rows)
        if not self.of(client):
            self.joined[lane, client] = self.tick()
        self.model[new] = 0
        self.cut[new] = self.tick()
        self.queues.push(new)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        """Rows of one request, or of several for the same."""
        first = data.draw(st.sampled_from(list(self.model)))
        same = [each for each in self.model if (each.op, each.direction) == (first.op, first.direction)]
        together = data.draw(st.lists(st.sampled_from(same), unique=True, min_size=1))
        parts = [
            Part(each, self.model[each], data.draw(st.integers(self.model[each] + 1, each.rows)))
            for each in together
        ]
        self.queues.take(*parts)
        for part in parts:
            taken = part.request
            if self.of(taken.client)[0] is taken:
                self.joined[taken.lane, taken.client] = self.tick()
            if part.stop == taken.rows:
                del self.model[taken]
            else:
                self.model[taken] = part.stop
                self.cut[taken] = self.tick()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take_all(self, data: st.DataObject) -> None:
        """All that waits for one op, or all of it in one level."""
        first = data.draw(st.sampled_from(list(self.model)))
        key, own = (first.op, first.direction), data.draw(st.booleans())
        levels = [level for level in self.queues.levels if key in level.cells]
        if own:
            levels = [self.queues.lane(first.lane).level]
        parts = [part for level in levels for part in level.cells[key].parts.values()]
        self.queues.take(*parts)
        for part in parts:
            if self.of(part.request.client)[0] is part.request:
                self.joined[part.request.lane, part.request.client] = self.tick()
            del self.model[part.request]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(list(self.model)))
        self.queues.discard(gone)
        del self.model[gone]

    @rule(client=st.integers(0, 6))
    def remove(self, client: int) -> None:
        gone = self.of(client)
        assert self.queues.remove(ClientId(client)) == len(gone)
        for each in gone:
            del self.model[each]

    @invariant()
    def every_order_is_the_models(self) -> None:
        self.queues.check()
        assert len(self.queues) == len(self.model)
        assert bool(self.queues) == bool(self.model)
        assert self.queues.rows == sum(waiting.rows - taken for waiting, taken in self.model.items())
        for lane in LANES:
            assert oldest(self.queues, lane) is next((each for each in self.model if each.lane == lane), None)
        for client in range(6):
            assert self.queues.held_by(ClientId(client)) == len(self.of(client))
        for op in range(3):
            for direction in Direction:
                expected = [each for each in self.model if (each.op, each.direction) == (op, direction)]
                expected.sort(key=lambda each: (self.rank(each), self.cut[each]))
                found = waiting(self.queues, OpId(op), direction)
                assert found == [(each, self.model[each]) for each in expected]
        for rank in range(3):
            first_of = {each.client: each for each in reversed(self.model) if self.rank(each) == rank}
            expected = sorted(first_of.values(), key=lambda each: self.joined[each.lane, each.client])
            assert heads(self.queues, rank) == expected

    def teardown(self) -> None:
        for client in range(6):
            self.queues.remove(ClientId(client))
        assert not len(self.queues) and not self.queues.rows
        for level in self.queues.levels:
            assert not level.turns and not level.behind and not level.cells
            assert not any(lane.waiting for lane in level.lanes)


QueuesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueuesMachine = QueuesMachine.TestCase


class FewAreManyMachine(QueuesMachine):
    """The same where any number of riders is looked at for whether they are all that waits."""

    def __init__(self) -> None:
        super().__init__()
        self._many = queues_module._MANY
        queues_module._MANY = 1  # type: ignore[misc]  # a constant but for this

    def teardown(self) -> None:
        queues_module._MANY = self._many  # type: ignore[misc]  # as it was
        super().teardown()


FewAreManyMachine.TestCase.settings = QueuesMachine.TestCase.settings
TestFewAreManyMachine = FewAreManyMachine.TestCase
