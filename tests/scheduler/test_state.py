"""Every request that is taken is answered exactly once, and nothing of it is kept, whatever happens meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig, LimitsConfig
from symbiosis_core.errors import LocalProtocolError, RefusalCode
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.plan import Decision, Hold, Part, Plan
from symbiosis_scheduler.policy import LatencyFirst
from symbiosis_scheduler.queues import Queues
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.state import (
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    Drain,
    Drop,
    Event,
    Instruction,
    PlanDone,
    Run,
    SchedulerState,
    Sleep,
    Turn,
)
from symbiosis_transports.ports import Arrival, Call

SLOT_BYTES = 1 << 16
OPS = tuple(OpSpec(OpId(n), OpKind.LINEAR, (f"layer{n}",), 16, (16,), DType.FLOAT32) for n in range(3))
CONFIG = DaemonConfig(
    lanes={
        "inference": LaneConfig(priority=0, max_wait_us=0, chunk_rows=16),
        "training": LaneConfig(priority=10, max_wait_us=50, chunk_rows=4),
        "tuning": LaneConfig(priority=10, max_wait_us=20, chunk_rows=6),
    },
    batching=BatchingConfig(max_rows=16),
    limits=LimitsConfig(max_rows=40),
)


def arrival(slot: int = 0, generation: int = 1, op: int = 0, rows: int = 1) -> Arrival:
    call = Call(OpId(op), Direction.FORWARD, rows, 0, SLOT_BYTES // 2)
    return Arrival(SlotIndex(slot), Generation(generation), call)


class Desk:
    """A state that is spoken to in short, with the answers sorted by kind."""

    def __init__(self, policy: Callable[[DaemonConfig], Any] = LatencyFirst, max_in_flight: int = 1) -> None:
        self.state = SchedulerState(OPS, CONFIG, policy(CONFIG), max_in_flight=max_in_flight)
        self.now_us = 0

    def join(self, client: int, lane: str = "training") -> None:
        assert self.tell(ClientJoined(ClientId(client), lane, SLOT_BYTES)) == []

    def leave(self, client: int) -> None:
        assert self.tell(ClientLeft(ClientId(client))) == []

    def arrive(self, client: int, *arrivals: Arrival) -> list[Instruction]:
        return self.tell(Arrived(ClientId(client), list(arrivals), self.now_us))

    def turn(self) -> list[Plan]:
        instructions = self.tell(Turn(self.now_us))
        if instructions == [Sleep(None)]:
            return []
        return [each.plan for each in instructions if isinstance(each, Run)]

    def done(self, plan: Plan, failed: dict[Request, RefusalCode] | None = None) -> list[Answer]:
        instructions = self.tell(PlanDone(plan, self.now_us, failed or {}))
        answers = [each for each in instructions if isinstance(each, Answer)]
        assert answers == instructions
        return answers

    def finish(self) -> list[Answer]:
        """Runs until nothing is left."""
        answers: list[Answer] = []
        while plans := self.turn():
            for plan in plans:
                answers += self.done(plan)
        return answers

    def tell(self, event: Event) -> list[Instruction]:
        instructions = self.state.handle(event)
        self.state.check()
        return instructions


def test_a_request_is_answered_once_when_its_last_row_is_computed() -> None:
    desk = Desk()
    desk.join(1)
    desk.now_us = 7
    desk.arrive(1, arrival(slot=3, generation=9, rows=10))
    answers: list[Answer] = []
    for _ in range(3):
        assert answers == []
        (plan,) = desk.turn()
        desk.now_us += 1
        answers = desk.done(plan)
    assert answers == [Answer(ClientId(1), SlotIndex(3), Generation(9), None, 7)]
    assert desk.turn() == [] and desk.state.idle


def test_only_a_turn_starts_anything_so_what_came_meanwhile_shares_a_batch() -> None:
    desk = Desk()
    for client in (1, 2, 3):
        desk.join(client, "inference")
        assert desk.arrive(client, arrival()) == []
    (plan,) = desk.turn()
    assert plan.clients == {1, 2, 3}


def test_a_slot_that_was_answered_may_be_published_again() -> None:
    desk = Desk()
    desk.join(1)
    for generation in (1, 2, 3):
        desk.arrive(1, arrival(generation=generation))
        assert [answer.generation for answer in desk.finish()] == [generation]


@pytest.mark.parametrize("running", [False, True])
def test_a_slot_that_is_published_again_before_its_answer_drops_the_client(running: bool) -> None:
    desk = Desk()
    desk.join(1)
    desk.join(2)
    desk.arrive(1, arrival(), arrival(slot=1, op=2))
    plans = desk.turn() if running else []
    desk.arrive(2, arrival(op=1))
    (drop,) = desk.arrive(1, arrival(generation=2), arrival(slot=2))
    assert isinstance(drop, Drop) and drop.client == 1 and "slot 0" in drop.reason
    for plan in plans:
        assert desk.done(plan) == []
    assert [answer.client for answer in desk.finish()] == [2]
    assert desk.arrive(1, arrival(slot=5)) == []
    desk.leave(1)


def test_a_client_that_left_gets_no_answer_and_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=10), arrival(slot=1, op=1))
    (plan,) = desk.turn()
    desk.leave(1)
    assert desk.done(plan) == []
    assert desk.turn() == [] and desk.state.idle


def test_leaving_twice_and_what_unknown_clients_do_is_harmless() -> None:
    desk = Desk()
    desk.join(1)
    for client in (1, 1, 99):
        desk.leave(client)
    assert desk.arrive(99, arrival()) == []
    assert desk.turn() == []


def test_a_client_joins_once_and_in_a_lane_that_exists() -> None:
    desk = Desk()
    desk.join(1)
    with pytest.raises(LocalProtocolError):
        desk.join(1)
    with pytest.raises(LocalProtocolError):
        desk.join(2, "nowhere")


def test_a_call_that_is_not_admitted_is_refused_at_once_and_the_client_lives() -> None:
    desk = Desk()
    desk.join(1)
    desk.now_us = 5
    answers = desk.arrive(1, arrival(0, op=3), arrival(1, rows=41), arrival(2))
    assert answers == [
        Answer(ClientId(1), SlotIndex(0), Generation(1), RefusalCode.UNKNOWN_OP, 5),
        Answer(ClientId(1), SlotIndex(1), Generation(1), RefusalCode.BAD_ROWS, 5),
    ]
    assert [answer.slot for answer in desk.finish()] == [2]


def test_a_draining_state_refuses_what_comes_and_finishes_what_is_there() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=10))
    assert desk.tell(Drain()) == []
    (answer,) = desk.arrive(1, arrival(slot=1))
    assert isinstance(answer, Answer) and answer.refusal is RefusalCode.DRAINING
    assert not desk.state.idle
    assert [answer.refusal for answer in desk.finish()] == [None]
    assert desk.state.idle and desk.state.statistics().draining


def test_a_request_that_fails_is_refused_with_its_code_and_the_rest_of_it_is_not_computed() -> None:
    desk = Desk()
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(1, arrival(rows=2))
    desk.arrive(2, arrival(rows=20))
    (plan,) = desk.turn()
    assert plan.clients == {1, 2}
    answers = desk.done(plan, {plan.parts[1].request: RefusalCode.BAD_INDEX})
    assert [(answer.client, answer.refusal) for answer in answers] == [(1, None), (2, RefusalCode.BAD_INDEX)]
    assert desk.turn() == [] and desk.state.idle


def test_a_failed_request_is_answered_only_when_nothing_writes_to_its_slot_any_more() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=40))
    first, second = desk.turn()
    assert desk.done(first, {first.lead: RefusalCode.FAILED}) == []
    assert [answer.refusal for answer in desk.done(second)] == [RefusalCode.FAILED]


def test_of_two_failures_the_first_is_told() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=40))
    first, second = desk.turn()
    desk.done(first, {first.lead: RefusalCode.BAD_INDEX})
    (answer,) = desk.done(second, {first.lead: RefusalCode.FAILED})
    assert answer.refusal is RefusalCode.BAD_INDEX


def test_an_answer_waits_for_all_chunks_in_whatever_order_they_end() -> None:
    desk = Desk(max_in_flight=3)
    desk.join(1)
    desk.arrive(1, arrival(rows=12))
    first, second, third = desk.turn()
    assert desk.turn() == []
    assert desk.done(third) == desk.done(first) == []
    assert len(desk.done(second)) == 1


def test_a_plan_that_is_not_in_flight_cannot_be_done() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival())
    (plan,) = desk.turn()
    desk.done(plan)
    with pytest.raises(LocalProtocolError):
        desk.done(plan)


# -- other policies --------------------------------------------------------------------------------------------


class Scripted:
    """Answers what a function of the waiting requests says."""

    def __init__(self, decide: Callable[[list[Request]], Decision]) -> None:
        self._decide = decide

    def plan(self, now_us: int, queues: Queues) -> Decision:
        return self._decide([request for lane in queues.lanes for request in lane.waiting])


def scripted(decide: Callable[[list[Request]], Decision]) -> Desk:
    desk = Desk(lambda _: Scripted(decide))
    desk.join(1)
    desk.arrive(1, arrival(rows=5), arrival(slot=1, op=1))
    return desk


def test_a_policy_that_holds_makes_the_loop_sleep_until_then() -> None:
    desk = scripted(lambda waiting: Hold(until_us=44))
    assert desk.tell(Turn(0)) == [Sleep(44)]
    assert desk.tell(Turn(44)) == [Sleep(44)]


@pytest.mark.parametrize(
    "parts",
    [
        lambda waiting: (),
        lambda waiting: (Part(waiting[0], 0, 6),),
        lambda waiting: (Part(waiting[0], 1, 5),),
        lambda waiting: (Part(waiting[0], 0, 5), Part(waiting[0], 0, 5)),
        lambda waiting: (Part(waiting[0], 0, 5), Part(waiting[1], 0, 1)),
    ],
    ids=["empty", "too many rows", "not the next rows", "twice", "two ops"],
)
def test_a_plan_that_cannot_be_is_the_policys_bug(parts: Callable[[list[Request]], tuple[Part, ...]]) -> None:
    desk = scripted(lambda waiting: Plan(OpId(0), Direction.FORWARD, parts(waiting)))
    with pytest.raises(LocalProtocolError):
        desk.tell(Turn(0))


def test_a_policy_that_forgets_who_waits_is_told_so_instead_of_hanging() -> None:
    desk = scripted(lambda waiting: None)
    with pytest.raises(LocalProtocolError):
        desk.tell(Turn(0))


def test_two_parts_of_one_request_in_a_plan_make_one_answer() -> None:
    desk = scripted(
        lambda waiting: Plan(OpId(0), Direction.FORWARD, (Part(waiting[0], 0, 2), Part(waiting[0], 2, 5)))
    )
    (plan,) = desk.turn()
    assert len(desk.done(plan)) == 1


# -- statistics ------------------------------------------------------------------------------------------------


def test_statistics_count_what_was_served_and_what_is_held() -> None:
    desk = Desk()
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(1, arrival(0, rows=2), arrival(1, rows=99))
    desk.arrive(2, arrival(0, rows=6), arrival(1, op=1, rows=3))
    (plan,) = desk.turn()
    during = desk.state.statistics()
    assert (during.in_flight, during.batches.count) == (1, 0)
    assert repr(desk.state) == "<SchedulerState 2 clients, 2 queued, 1 in flight>"
    desk.now_us = 2_000_000
    desk.done(plan)
    after = desk.state.statistics()
    first, second = after.clients
    assert (first.id, first.lane, first.requests, first.rows, first.queued, first.refused) == (
        1,
        "inference",
        1,
        2,
        0,
        1,
    )
    assert (second.requests, second.rows, second.queued, second.refused) == (0, 0, 2, 0)
    inference, training, tuning = after.lanes
    assert (inference.name, inference.clients, inference.requests, inference.rows) == ("inference", 1, 1, 2)
    assert (training.queued_requests, training.queued_rows, training.priority) == (2, 5, 10)
    assert (tuning.clients, tuning.requests) == (0, 0)
    batches = after.batches
    assert (batches.count, batches.requests, batches.rows, batches.clients, batches.busy_s) == (1, 2, 6, 2, 2.0)


def test_a_lane_remembers_what_clients_that_left_were_served() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=3))
    desk.finish()
    desk.leave(1)
    statistics = desk.state.statistics()
    assert statistics.clients == ()
    assert (statistics.lanes[1].requests, statistics.lanes[1].rows) == (1, 3)


def test_time_with_several_plans_in_flight_counts_once() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=12))
    first, second = desk.turn()
    desk.now_us = 1_000_000
    desk.done(first)
    (third,) = desk.turn()
    for plan in (second, third):
        desk.now_us += 1_000_000
        desk.done(plan)
    desk.now_us += 5_000_000
    assert desk.state.statistics().batches.busy_s == 3.0


def test_a_request_that_ageing_puts_first_chunk_by_chunk_counts_as_one() -> None:
    desk = Desk()
    desk.join(1, "training")
    desk.join(2, "inference")
    desk.arrive(1, arrival(rows=12))
    desk.now_us = 100
    for generation in range(8):
        desk.arrive(2, arrival(op=1, generation=generation))
        (plan,) = desk.turn()
        desk.done(plan)
        if plan.lead.client == 1:
            (plan,) = desk.turn()
            desk.done(plan)
    training = desk.state.statistics().lanes[1]
    assert (training.requests, training.aged) == (1, 1)


# -- memory and starvation -------------------------------------------------------------------------------------


def held(root: object) -> int:
    """Returns how many elements all containers hold that can be reached from `root`."""
    seen: set[int] = set()
    count = 0
    todo = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        inner: Iterable[Any] = ()
        if isinstance(each, dict):
            inner = [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            inner = each
        elif type(each).__module__.startswith("symbiosis_scheduler"):
            slots = getattr(type(each), "__slots__", ())
            inner = (
                [*vars(each).values()] if hasattr(each, "__dict__") else [getattr(each, slot) for slot in slots]
            )
        children = list(inner)
        count += len(children)
        todo += children
    return count


def test_memory_does_not_grow_with_what_was_served() -> None:
    desk = Desk()

    def serve(clients: range) -> None:
        for client in clients:
            desk.join(client, ("inference", "training", "tuning")[client % 3])
        for generation in range(5):
            for client in clients:
                slots = (arrival(slot, generation, (client + slot) % 3, 1 + slot * 9) for slot in range(4))
                desk.arrive(client, *slots)
            desk.leave(clients[generation])
            desk.finish()
            desk.now_us += 30
        for client in clients:
            desk.leave(client)

    empty = held(desk.state)
    for round_number in range(4):
        serve(range(round_number * 9, round_number * 9 + 9))
        assert held(desk.state) == empty
    desk.join(1000)
    desk.arrive(1000, arrival())
    assert held(desk.state) > empty  # the measure sees what is held


def test_training_is_served_within_a_bound_while_inference_never_ends() -> None:
    desk = Desk()
    desk.join(0, "training")
    desk.arrive(0, arrival(op=0, rows=12))
    for client in (1, 2):
        desk.join(client, "inference")
        desk.arrive(client, arrival(op=client))
    served: Counter[int] = Counter()
    for batches in range(1, 1000):
        (plan,) = desk.turn()
        desk.now_us += 10
        for answer in desk.done(plan):
            served[answer.client] += 1
            if answer.client:
                desk.arrive(answer.client, arrival(op=answer.client, generation=batches))
        if served[0]:
            break
    assert 5 <= batches <= 5 + 3 * 3  # aged after five batches; then a chunk for every round of two others


# -- anything, in any order ------------------------------------------------------------------------------------


class Model:
    """One request that is open, told in the plainest way."""

    def __init__(self, rows: int, generation: int, arrived_us: int) -> None:
        self.rows, self.generation, self.arrived_us = rows, generation, arrived_us
        self.planned = self.computed = self.flying = 0
        self.refusal: RefusalCode | None = None


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 1, 3, 8, 17, 40, 41])), max_size=4
)


CODES = [RefusalCode.FAILED, RefusalCode.BAD_INDEX]


class StateMachine(RuleBasedStateMachine):
    """Everything that the state says is compared with what a plain model expects."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = self.clients = self.generation = 0
        self.draining = False
        self.lanes: dict[int, str] = {}
        self.open: dict[tuple[int, int], Model] = {}
        self.flying: list[Plan] = []
        self.requests: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()

    @initialize(exact=st.booleans(), max_in_flight=st.integers(1, 3))
    def start(self, exact: bool, max_in_flight: int) -> None:
        config = DaemonConfig(
            lanes=CONFIG.lanes, batching=BatchingConfig(max_rows=16, exact=exact), limits=CONFIG.limits
        )
        self.exact, self.max_in_flight = exact, max_in_flight
        self.state = SchedulerState(OPS, config, LatencyFirst(config), max_in_flight=max_in_flight)

    def forget(self, client: int) -> None:
        self.lanes.pop(client, None)
        self.open = {key: model for key, model in self.open.items() if key[0] != client}

    def answer(self, client: int, slot: int, model: Model) -> Answer:
        """Returns the answer that is due now, and closes the request."""
        del self.open[client, slot]
        if model.refusal is None:
            self.requests[self.lanes[client]] += 1
            self.rows[self.lanes[client]] += model.rows
        else:
            self.refused[client] += 1
        generation = Generation(model.generation)
        return Answer(ClientId(client), SlotIndex(slot), generation, model.refusal, model.arrived_us)

    @rule(lane=st.sampled_from(sorted(CONFIG.lanes)))
    def join(self, lane: str) -> None:
        self.clients += 1
        assert self.state.handle(ClientJoined(ClientId(self.clients), lane, SLOT_BYTES)) == []
        self.lanes[self.clients] = lane

    @rule(client=st.integers(1, 8))
    def leave(self, client: int) -> None:
        assert self.state.handle(ClientLeft(ClientId(client))) == []
        self.forget(client)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), arrivals=ARRIVALS)
    def arrive(self, data: st.DataObject, arrivals: list[tuple[int, int, int]]) -> None:
        client = data.draw(st.sampled_from(sorted(self.lanes)))
        expected: list[Instruction] = []
        published = []
        for slot, op, rows in arrivals:
            if (client, slot) in self.open and data.draw(st.integers(0, 3)):
                continue  # mostly an honest client
            self.generation += 1
            published.append(arrival(slot, self.generation, op, rows))
            if not self.lanes.get(client):
                continue  # it was dropped already
            if (client, slot) in self.open:
                expected.append(Drop(ClientId(client), f"slot {slot} was published before it was answered"))
                self.forget(client)
                continue
            model = self.open[client, slot] = Model(rows, self.generation, self.now_us)
            if self.draining:
                model.refusal = RefusalCode.DRAINING
            elif op > 2:
                model.refusal = RefusalCode.UNKNOWN_OP
            elif rows > 40:
                model.refusal = RefusalCode.BAD_ROWS
            if model.refusal:
                expected.append(self.answer(client, slot, model))
        assert self.state.handle(Arrived(ClientId(client), published, self.now_us)) == expected

    @rule()
    def turn(self) -> None:
        instructions = self.state.handle(Turn(self.now_us))
        runs = [each for each in instructions if isinstance(each, Run)]
        for run in runs:
            self.run(run.plan)
        assert instructions == runs if runs else instructions == [Sleep(None)]
        waiting = any(model.planned < model.rows and not model.refusal for model in self.open.values())
        assert len(self.flying) == self.max_in_flight or not waiting

    def run(self, plan: Plan) -> None:
        rows: Counter[str] = Counter()
        for part in plan.parts:
            request = part.request
            model = self.open[request.client, request.slot]
            assert (request.generation, request.arrived_us) == (model.generation, model.arrived_us)
            assert (request.lane, request.rows) == (self.lanes[request.client], model.rows)
            assert (request.op, request.direction) == (plan.op, plan.direction)
            assert part.start == model.planned < part.stop <= model.rows
            model.planned = part.stop
            model.flying += 1
            rows[request.lane] += part.rows
        if self.exact:
            assert len(plan.parts) == 1 and plan.rows == plan.lead.rows
        else:
            assert plan.rows <= 16
            assert all(rows[name] <= lane.chunk_rows for name, lane in CONFIG.lanes.items())
        self.flying.append(plan)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        plan = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        requests = [part.request for part in plan.parts]
        failed = data.draw(st.lists(st.sampled_from(requests), max_size=2)) if data.draw(st.booleans()) else []
        self.finish(plan, dict.fromkeys(failed, data.draw(st.sampled_from(CODES))))

    def finish(self, plan: Plan, failed: dict[Request, RefusalCode]) -> None:
        expected = []
        for part in plan.parts:
            client, slot = part.request.client, part.request.slot
            if client not in self.lanes:
                continue
            model = self.open[client, slot]
            assert model.generation == part.request.generation
            model.flying -= 1
            model.computed += part.rows
            model.refusal = model.refusal or failed.get(part.request)
            if not model.flying and (model.refusal or model.computed == model.rows):
                expected.append(self.answer(client, slot, model))
        assert self.state.handle(PlanDone(plan, self.now_us, failed)) == expected

    @rule(passed_us=st.integers(1, 40))
    def tick(self, passed_us: int) -> None:
        self.now_us += passed_us

    @precondition(lambda self: self.generation > 20)
    @rule()
    def drain(self) -> None:
        assert self.state.handle(Drain()) == []
        self.draining = True

    @invariant()
    def nothing_is_lost(self) -> None:
        self.state.check()
        statistics = self.state.statistics()
        assert {client.id: client.lane for client in statistics.clients} == self.lanes
        for client in statistics.clients:
            mine = [model for key, model in self.open.items() if key[0] == client.id]
            queued = [model for model in mine if model.planned < model.rows and not model.refusal]
            assert (client.queued, client.refused) == (len(queued), self.refused[client.id])
        for lane in statistics.lanes:
            assert (lane.requests, lane.rows) == (self.requests[lane.name], self.rows[lane.name])
            assert lane.clients == list(self.lanes.values()).count(lane.name)
        assert (statistics.in_flight, statistics.draining) == (len(self.flying), self.draining)
        assert self.state.idle == (not self.flying and not any(lane.queued_requests for lane in statistics.lanes))

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        while not self.state.idle:
            self.turn()
            self.finish(self.flying.pop(), {})
        assert not self.open, "a request was never answered"
        for client in list(self.lanes):
            self.leave(client)
        fresh = SchedulerState(OPS, CONFIG, LatencyFirst(CONFIG))
        assert held(self.state) == held(fresh), "something is kept of those who are gone"


StateMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestStateMachine = StateMachine.TestCase
