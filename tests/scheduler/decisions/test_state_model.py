"""Anything, in any order: every request that is taken is answered exactly once."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symbiosis_core.config import BatchingConfig, DaemonConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_scheduler.decisions.events import (
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    Drain,
    Drop,
    Instruction,
    PlanDone,
    Run,
    Sleep,
    Turn,
)
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.state import SchedulerState
from tests.scheduler.desk import CONFIG, OPS, SLOT_BYTES, arrival, held


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

    @initialize(exact=st.booleans(), max_in_flight=st.integers(1, 3), beside=st.booleans())
    def start(self, exact: bool, max_in_flight: int, beside: bool) -> None:
        config = DaemonConfig(
            lanes=CONFIG.lanes, batching=BatchingConfig(max_rows=16, exact=exact), limits=CONFIG.limits
        )
        self.exact, self.max_in_flight = exact, max_in_flight
        made = SchedulerState([OPS], config, LatencyFirst(config), max_in_flight=max_in_flight, beside=beside)
        self.state = made
        self.tracks = [{"inference"}, {"training", "tuning"}] if beside and not exact else [set(CONFIG.lanes)]

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
        for lanes in self.tracks:
            waiting = any(
                model.planned < model.rows and not model.refusal
                for (client, _), model in self.open.items()
                if self.lanes[client] in lanes
            )
            flying = sum(plan.lead.lane in lanes for plan in self.flying)
            assert flying == self.max_in_flight or not waiting

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
        fresh = SchedulerState([OPS], CONFIG, LatencyFirst(CONFIG), beside=len(self.tracks) > 1)
        assert held(self.state) == held(fresh), "something is kept of those who are gone"


StateMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestStateMachine = StateMachine.TestCase
