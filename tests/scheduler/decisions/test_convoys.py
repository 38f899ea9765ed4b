"""Clients that do the same work are brought together and stay together; nobody waits for who is gone or slow.

Played in virtual time: clients think, the scheduler decides, a batch costs what reading the weights costs.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import NamedTuple

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig
from symbiosis_core.ids import BaseId, ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.convoy_trial import ConvoyTrial, Way
from symbiosis_scheduler.decisions.convoys import Convoys, _latest_us
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.events import (
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    PlanDone,
    Run,
    Sleep,
    Turn,
)
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.decisions.travellers import Travellers
from symbiosis_transports.calls import Arrival, Call
from tests.scheduler.counter import Counter as Counting
from tests.scheduler.counter import request

LAYERS = 12
OPS = (
    OpSpec(OpId(0), OpKind.EMBEDDING, ("embed",), 1, (8,), DType.FLOAT32),
    *[OpSpec(OpId(index), OpKind.LINEAR, (f"l{index}",), 8, (8,), DType.FLOAT32) for index in range(1, LAYERS)],
)
READING_US, ROW_US = 1000, 20


class Client(NamedTuple):
    thinking_us: int
    begins_us: int = 0
    rows: int = 1
    leaves_us: int | None = None
    silent_us: int | None = None
    """When it stops asking, without leaving."""
    lane: str = "inference"


class Played(NamedTuple):
    occupancy: float
    """Requests per batch, once they had a quarter of the time to meet."""
    forwards: Counter[int]
    worst_us: int
    """The longest time from a request to its answer."""
    ended_us: int


def play(
    clients: list[Client],
    *,
    hold_us: int,
    until_us: int = 400_000,
    noise: float = 0.2,
    late: float = 0.0,
    reading_us: int = READING_US,
    alone: float = 1.0,
) -> Played:
    """Lets clients run through all ops again and again, and the scheduler serve them.

    This share of thinking, `late`, takes 5 ms longer: the operating system had put the client aside. Who is
    answered without the others thinks `alone` times as long: the daemon computes meanwhile, on its core.
    """
    config = DaemonConfig(
        lanes={
            "inference": LaneConfig(priority=0, max_wait_us=0, max_hold_us=hold_us),
            "training": LaneConfig(priority=10),
        }
    )
    state = SchedulerState([OPS], config, LatencyFirst(config))
    dice = random.Random(5)
    events: list[tuple[int, int, str, int]] = []  # when, order, what, who
    order = iter(range(1 << 30))
    step, sent = Counter[int](), dict[int, int]()
    forwards, requests, batches, worst = Counter[int](), 0, 0, 0
    for index, client in enumerate(clients):
        state.handle(ClientJoined(ClientId(index), client.lane, 1 << 20))
        heapq.heappush(events, (client.begins_us, next(order), "ask", index))
        if client.leaves_us is not None:
            heapq.heappush(events, (client.leaves_us, next(order), "leave", index))
    gone: set[int] = set()
    now, busy_until = 0, 0
    running: Run | None = None
    while events and now < until_us:
        now, _, what, who = heapq.heappop(events)
        if what == "leave":
            gone.add(who)
            state.handle(ClientLeft(ClientId(who)))
        elif what == "ask" and who not in gone:
            call = Call(OpId(step[who] % LAYERS), Direction.FORWARD, clients[who].rows, 0, 1 << 16)
            sent[who] = now
            arrival = Arrival(SlotIndex(0), Generation(step[who] + 1), call)
            state.handle(Arrived(ClientId(who), [arrival], now))
        elif what == "done":
            assert running is not None
            plan, running = running.plan, None
            for answer in state.handle(PlanDone(plan, now)):
                assert isinstance(answer, Answer)
                who = int(answer.client)
                worst = max(worst, now - sent[who])
                step[who] += 1
                forwards[who] += step[who] % LAYERS == 0
                pause = int(clients[who].thinking_us * dice.uniform(1 - noise, 1 + noise))
                if len(plan.parts) < len(clients):
                    pause = int(pause * alone)
                silent_us = clients[who].silent_us
                if silent_us is not None and now >= silent_us:
                    continue
                pause += 5000 * (late > 0 and dice.random() < late)
                heapq.heappush(events, (now + pause, next(order), "ask", who))
        if running is None:
            for instruction in state.handle(Turn(now)):
                if isinstance(instruction, Run):
                    running = instruction
                    if now > until_us // 4:
                        requests += len(instruction.plan.parts)
                        batches += 1
                    busy_until = now + reading_us + ROW_US * instruction.plan.rows
                    heapq.heappush(events, (busy_until, next(order), "done", -1))
                elif isinstance(instruction, Sleep) and instruction.until_us is not None:
                    heapq.heappush(events, (max(instruction.until_us, now + 1), next(order), "look", -1))
        state.check()
    return Played(requests / max(1, batches), forwards, worst, now)


def scattered(count: int, thinking_us: int = 700) -> list[Client]:
    """Clients that begin at different times, so that they are at different ops."""
    return [Client(thinking_us, begins_us=1 + 3700 * index) for index in range(count)]


def test_scattered_clients_come_together() -> None:
    """Without holding next to nothing is batched, with it nearly everything, and all are faster by it."""
    apart, together = play(scattered(4), hold_us=0), play(scattered(4), hold_us=50_000)
    assert apart.occupancy < 2
    assert together.occupancy > 3.5
    assert sum(together.forwards.values()) > 1.5 * sum(apart.forwards.values())


def test_who_is_late_now_and_then_is_not_lost() -> None:
    """The convoy waits for it: it would have to be met again, and is late no more often than before."""
    apart, together = (
        play(scattered(4), hold_us=hold_us, late=0.01, until_us=2_000_000) for hold_us in (0, 50_000)
    )
    assert together.occupancy > 3.5
    assert sum(together.forwards.values()) > 1.5 * sum(apart.forwards.values())


def test_eight_come_together_soon() -> None:
    """Within a quarter of the time, of which there are about four forwards of who goes alone."""
    assert play(scattered(8), hold_us=50_000).occupancy > 7


def test_nobody_is_held_at_a_daemon_that_is_idle_for_most_of_the_time() -> None:
    """A joint batch takes less than two, but nobody waited for either."""
    clients = [Client(6000, begins_us=1), Client(6000, begins_us=3000)]
    apart, together = (play(clients, hold_us=hold_us, until_us=4_000_000) for hold_us in (0, 50_000))
    assert together.occupancy < 1.1
    assert sum(together.forwards.values()) >= 0.99 * sum(apart.forwards.values())


def test_where_clients_and_daemon_share_their_cores_it_is_tried_what_cannot_be_foretold() -> None:
    """As they go there is time for each by itself. Only together each thinks for half as long."""
    apart, together = (
        play(scattered(4), hold_us=hold_us, until_us=8_000_000, reading_us=250, alone=2.0)
        for hold_us in (0, 50_000)
    )
    assert together.occupancy > 3
    assert sum(together.forwards.values()) > 1.25 * sum(apart.forwards.values())


@pytest.mark.parametrize(("reading_us", "alone"), [(100, 0.2), (250, 0.5)])
def test_where_company_makes_all_slower_it_is_tried_and_left(reading_us: int, alone: float) -> None:
    """It is foretold to pay, too, from what clients think who had none."""
    apart, held = (
        play(scattered(4), hold_us=hold_us, until_us=8_000_000, reading_us=reading_us, alone=alone)
        for hold_us in (0, 50_000)
    )
    assert sum(held.forwards.values()) > 0.97 * sum(apart.forwards.values())


def convoys_of(*clients: int) -> Convoys:
    """Returns convoys of a lane of such clients, which have answered each other's requests and all go together."""
    costs, travellers = Costs(), Travellers()
    costs.introduce(OPS[1], OpId(1), BaseId(0))
    costs.learn(OpId(1), Direction.FORWARD, 1, 1000, kept=False)
    convoys = Convoys(costs, travellers)
    for turn in range(3):
        for client in clients:
            travellers.arrived(asked(client, turn * 10_000))
        plan = Plan(OpId(1), Direction.FORWARD, tuple([Part(asked(client, 0), 0, 1) for client in clients]))
        travellers.answered(plan, frozenset(map(ClientId, clients)), turn * 10_000 + 5000)
    convoys._trial["inference"] = trial = ConvoyTrial(len(clients))
    convoys._trials["inference"] = {len(clients): trial}
    trial.way = Way.TOGETHER
    return convoys


def asked(client: int, now_us: int) -> Request:
    return Request(
        ClientId(client), SlotIndex(0), Generation(1), "inference", OpId(1), Direction.FORWARD, 1, now_us, 0, 4096
    )


def test_who_goes_together_waits_for_the_last_until_the_lane_allows_no_more() -> None:
    """Also where somebody else has come in the second half of that time."""
    convoys = convoys_of(1, 2, 3)
    config = DaemonConfig(lanes={"inference": LaneConfig(priority=0, max_wait_us=0, max_hold_us=50_000)})
    queues = Queues(config.lanes)
    level = queues.levels[0]
    lead, second = asked(1, 30_000), asked(2, 62_000)
    queues.push(lead)
    convoys._travellers.arrived(lead)
    assert convoys.hold_until(lead, level, 30_000, 100) == 80_000
    queues.push(second)
    convoys._travellers.arrived(second)
    assert convoys.hold_until(lead, level, 62_000, 100) == 80_000
    assert convoys.missed == 0


def test_lanes_whose_clients_have_left_or_are_configured_anew_do_not_go_together() -> None:
    convoys = convoys_of(1, 2)
    assert list(convoys.together) == ["inference"]
    for client in (1, 2):
        convoys.left(ClientId(client))
        convoys._travellers.left(ClientId(client))
    assert not convoys.together
    convoys = convoys_of(1, 2)
    convoys.adopted()
    assert not convoys.together


def test_a_client_alone_is_never_held() -> None:
    assert play([Client(700)], hold_us=50_000) == play([Client(700)], hold_us=0)


def test_a_client_alone_loses_nothing_by_others_that_have_fallen_silent() -> None:
    """Two that stop asking, but stay: after they were missed a few times nobody waits for them."""
    silent = [Client(10_000_000, begins_us=1), Client(10_000_000, begins_us=2000)]
    apart, together = (play([Client(700), *silent], hold_us=hold_us) for hold_us in (0, 50_000))
    assert together.forwards[0] >= 0.97 * apart.forwards[0]


def test_clients_whose_pauses_cannot_be_foretold_lose_nothing_by_holding() -> None:
    clients = [Client(thinking_us, begins_us=1 + 900 * n) for n, thinking_us in enumerate((400, 3000, 9000))]
    apart, together = (play(clients, hold_us=hold_us, noise=1.0, until_us=6_000_000) for hold_us in (0, 50_000))
    assert sum(together.forwards.values()) >= 0.97 * sum(apart.forwards.values())


def test_two_of_different_pace_do_not_starve_each_other() -> None:
    """One thinks thirty times as long: waiting for it costs more than it saves, and is given up."""
    clients = [Client(700), Client(700, begins_us=5000), Client(20_000, begins_us=9000)]
    apart, together = play(clients, hold_us=0), play(clients, hold_us=5_000)
    for index in range(3):
        assert together.forwards[index] >= 0.7 * apart.forwards[index]


def test_nobody_waits_for_who_is_gone() -> None:
    clients = [Client(700), Client(700, begins_us=3000, leaves_us=100_000)]
    played = play(clients, hold_us=50_000)
    alone = play([Client(700)], hold_us=0)
    assert played.forwards[0] > 0.7 * alone.forwards[0]


def test_no_request_is_held_longer_than_its_lane_allows() -> None:
    """A batch may be running when it comes, and its own follows."""
    for seed in range(4):
        dice = random.Random(seed)
        clients = [Client(dice.randrange(100, 5000), begins_us=dice.randrange(30_000)) for _ in range(5)]
        played = play(clients, hold_us=3000, noise=0.9)
        assert played.worst_us <= 3000 + 5 * 2 * (READING_US + 5 * ROW_US)


@pytest.mark.parametrize("before", [0, 1, 40])
def test_a_strict_lane_is_held_no_longer_however_many_stand_before_it(before: int) -> None:
    lanes = {"patient": LaneConfig(priority=0, max_hold_us=500_000), "strict": LaneConfig(priority=0)}
    bench = Counting(DaemonConfig(lanes=lanes))
    bench.push(*(request(client, "patient", op=1, arrived_us=10) for client in range(before)))
    bench.push(request(99, "strict", op=1, arrived_us=20))
    (level,) = bench.queues.levels
    assert _latest_us(level.cells[OpId(1), Direction.FORWARD], level) == 20


def test_where_a_joint_batch_saves_nothing_nobody_is_held() -> None:
    """Nothing but rows costs anything, as it is with large batches."""
    clients = [Client(700, rows=200), Client(700, rows=200, begins_us=3000)]
    assert play(clients, hold_us=50_000, reading_us=0) == play(clients, hold_us=0, reading_us=0)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_convoys_form_for_any_number(count: int) -> None:
    assert play(scattered(count), hold_us=50_000).occupancy > 0.8 * count


def test_a_newcomer_joins_a_convoy() -> None:
    clients = [*scattered(3), Client(700, begins_us=150_000)]
    played = play(clients, hold_us=50_000, until_us=600_000)
    assert played.occupancy > 3


def test_nobody_is_held_for_a_lower_lane_that_is_planned_only_afterwards() -> None:
    """There is one track. The client of the lane below waits for the lead, so the lead cannot wait for it."""
    clients = [Client(700), *[Client(700, begins_us=900 * n, lane="training") for n in (1, 2, 3)]]
    assert play(clients, hold_us=50_000) == play(clients, hold_us=0)


def test_a_prompt_of_many_rows_loses_nothing_by_those_who_decode() -> None:
    """The others' rows are few, and cost what they cost, not what the prompt does."""
    clients = [Client(700, rows=400), *scattered(3)]
    apart, together = (play(clients, hold_us=hold_us, until_us=1_200_000) for hold_us in (0, 50_000))
    assert together.forwards[0] >= 0.95 * apart.forwards[0]
    assert together.worst_us <= 2 * apart.worst_us


def test_of_two_one_that_falls_silent_is_waited_for_once() -> None:
    clients = [Client(700), Client(700, begins_us=3000, leaves_us=None)]
    fallen = [clients[0], clients[1]._replace(silent_us=150_000)]
    played = play(fallen, hold_us=50_000, until_us=600_000)
    alone = play([Client(700)], hold_us=0, until_us=600_000)
    assert played.forwards[0] > 0.8 * alone.forwards[0]
    assert played.worst_us <= 50_000 + 2 * (READING_US + ROW_US)
