"""What is computed beside: the first lane does not wait for it, and who leaves meanwhile takes all with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_core.clock import monotonic_us
from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.errors import DaemonGoneError, RefusalCode, RefusedError
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.decisions.events import Event as Told
from symbiosis_scheduler.decisions.events import Instruction, PlanDone
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.execution.executor import Executor, Launched
from symbiosis_scheduler.execution.streams import CpuStreams, Event
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.seats import Seats
from symbiosis_transports.ports import ClientChannel
from tests.scheduler import counter
from tests.scheduler.running_plane import Running
from tests.scheduler.tiny_models import lend, tiny

CONFIG = DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=1 << 16))
FORWARD = Direction.FORWARD


class HeldBack(CpuStreams):
    """What goes to the other thread begins there, and does no more before `go`. With `error` it raises that."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go = threading.Semaphore(0), threading.Event()
        self.error: Exception | None = None

    def launch_beside(self, work: Callable[[], None]) -> Event:
        def held() -> None:
            self.began.release()
            assert self.go.wait(20)
            if self.error is not None:
                raise self.error
            work()

        return super().launch_beside(held)


two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def layers() -> FrozenLayers:
    torch.set_num_threads(1)
    return lend(tiny("llama"))


@pytest.fixture
def streams() -> HeldBack:
    return HeldBack()


def at_work(plane: DataPlane) -> None:
    """As if the first level were at work all the time."""
    plane.state.planner.tracks._first_us = monotonic_us() + 3_600_000_000


@pytest.fixture
def everybody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the clients were over a transport by which they can be asked where to compute: `inproc` cannot."""
    monkeypatch.setattr(Seats, "hears_of_place", lambda seats, client: True)


@pytest.fixture
def running(layers: FrozenLayers, streams: HeldBack, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(layers, CONFIG, f"ipc:///{request.node.name}", streams=streams, beside=True)
    running.ask(at_work)
    yield running
    streams.go.set()
    running.stop()


@pytest.fixture
def op(layers: FrozenLayers) -> OpSpec:
    return next(op for op in layers.spec.ops if op.kind is OpKind.LINEAR)


def ask(channel: ClientChannel, op: OpSpec, x_TW: torch.Tensor) -> torch.Tensor:
    return Pipeline(channel, 20, 1 << 16).run(op, FORWARD, [x_TW])[0]


def test_the_first_lane_is_answered_while_a_batch_of_another_is_computed(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec
) -> None:
    rows, row = torch.randn(40, op.width_in), torch.randn(1, op.width_in)
    training, inference = running.connect("training"), running.connect("inference")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, training, op, rows)
        assert streams.began.acquire(timeout=20)
        for _ in range(5):
            torch.testing.assert_close(ask(inference, op, row), layers.apply(op, FORWARD, row))
        assert not asked.done()
        streams.go.set()
        torch.testing.assert_close(asked.result(20), layers.apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)


def test_the_loop_is_rung_when_it_is_done(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec
) -> None:
    """Nobody else asks for anything: only the other thread can wake it."""
    rows = torch.randn(5, op.width_in)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, running.connect("training"), op, rows)
        assert streams.began.acquire(timeout=20)
        running.wait(lambda plane: not plane._awake, "it sleeps while the other thread computes")
        streams.go.set()
        torch.testing.assert_close(asked.result(20), layers.apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)


def test_its_answer_waits_for_no_look(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec
) -> None:
    """The daemon's thread looks for a minute; an answer that waited for that would come too late."""
    watch, rows = running.ask(lambda plane: plane.seats.watch), torch.randn(5, op.width_in)
    with ThreadPoolExecutor(1) as pool:
        channel = running.connect("training")
        watch._spin_ns, watch._habit = 60_000_000_000, None
        asked = pool.submit(ask, channel, op, rows)
        try:
            assert streams.began.acquire(timeout=20)
            streams.go.set()
            torch.testing.assert_close(asked.result(20), layers.apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)
        finally:
            watch._spin_ns = 0
            watch.interrupt()  # the look that has begun since


def test_when_it_was_computed_is_told_and_not_only_when_that_was_seen(
    running: Running, streams: HeldBack, op: OpSpec
) -> None:
    streams.go.set()
    told: list[PlanDone] = []

    def listen(plane: DataPlane) -> None:
        handle = plane.state.handle

        def heard(what: Told) -> list[Instruction]:
            told.extend([what] if isinstance(what, PlanDone) else [])
            return handle(what)

        plane.state.handle = heard  # type: ignore[method-assign, assignment]  # listened to

    running.ask(listen)
    began_us = monotonic_us()
    ask(running.connect("training"), op, torch.randn(2, op.width_in))
    (done,) = told
    assert done.ended_us is not None and began_us <= done.ended_us <= done.now_us


def test_a_daemon_that_stops_sleeps_until_it_is_done(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec
) -> None:
    """Though somebody has asked for more, which is not taken any more, and rings no bell either."""
    rows = torch.randn(5, op.width_in)
    training, late = running.connect("training"), running.connect("inference")
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, training, op, rows)
        assert streams.began.acquire(timeout=20)
        drained = running.ask(lambda plane: plane.drain())
        too_late = pool.submit(ask, late, op, rows)
        running.wait(
            lambda plane: any(seat.channel.waiting() for seat in plane.seats.values()), "the late request waits"
        )
        running.ask(lambda plane: plane.wake())
        looks = [running.ask(lambda plane: plane._awake) for _ in range(200)]
        assert not all(looks), "it looks again and again at what it does not take"
        streams.go.set()
        torch.testing.assert_close(asked.result(20), layers.apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)
        running.wait(lambda plane: drained.done(), "what was taken before the end is answered")
        running.stop()
        assert too_late.exception(20) is not None


def test_who_leaves_meanwhile_is_forgotten_and_the_next_is_served(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec
) -> None:
    leaving, staying, rows = running.connect("training"), running.connect("training"), torch.randn(5, op.width_in)
    with ThreadPoolExecutor(2) as pool:
        given_up = pool.submit(ask, leaving, op, rows)
        assert streams.began.acquire(timeout=20)
        leaving.close()
        running.wait(lambda plane: len(plane.seats) == 1, "one has left")
        asked = pool.submit(ask, staying, op, rows)
        streams.go.set()
        torch.testing.assert_close(asked.result(20), layers.apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)
        assert given_up.exception(20) is not None


def test_what_is_kept_for_a_client_that_has_left_meanwhile_is_forgotten(layers: FrozenLayers) -> None:
    executor = Executor([layers], CpuStreams(), ThreadChoice(1), memo_bytes=1000)
    gone = counter.request(5, "training")
    executor.memo.keep((gone.client, gone.op, 1), 1, 0, {0: torch.ones(1, 4)}, whole=True)
    assert executor.memo.bytes
    plan = Plan(gone.op, gone.direction, (Part(gone, 0, 1),))
    executor.finish(Launched(plan, beside=True))
    assert not executor.memo.bytes


def test_a_failure_of_the_daemon_there_ends_it_as_one_here_would(
    running: Running, streams: HeldBack, op: OpSpec
) -> None:
    streams.error = ZeroDivisionError("a bug")
    streams.go.set()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, running.connect("training"), op, torch.randn(1, op.width_in))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            running.wait_failed()
        running.stop()
        with pytest.raises(DaemonGoneError, match="it failed"):
            asked.result(20)


def test_a_plan_that_fails_there_fails_alone(
    running: Running, streams: HeldBack, layers: FrozenLayers, op: OpSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.go.set()
    channel, rows = running.connect("training"), torch.randn(2, op.width_in)
    apply = layers.apply

    def no_memory(*_: object) -> torch.Tensor:
        monkeypatch.setattr(layers, "apply", apply)
        raise MemoryError

    monkeypatch.setattr(layers, "apply", no_memory)
    with pytest.raises(RefusedError) as caught:
        ask(channel, op, rows)
    assert caught.value.code is RefusalCode.FAILED
    torch.testing.assert_close(ask(channel, op, rows), apply(op, FORWARD, rows), rtol=1e-5, atol=1e-5)


def test_a_bad_token_id_is_refused(running: Running, streams: HeldBack, layers: FrozenLayers) -> None:
    streams.go.set()
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    with pytest.raises(RefusedError) as caught:
        ask(running.connect("training"), op, torch.full((3, 1), -1))
    assert caught.value.code is RefusalCode.BAD_INDEX


@two_cores
@pytest.mark.usefixtures("everybody_hears")
def test_on_one_core_nothing_is_computed_by_all_threads(running: Running, streams: HeldBack, op: OpSpec) -> None:
    """Few rows have them where nobody is in company. Threads that are started there would stay there."""
    companies: list[tuple[bool, int | None]] = []

    def alone_and_noted(plane: DataPlane) -> None:
        launch = plane._executor.launch

        def noted(plan: Plan, priority: int, *, beside: bool, company: int | None) -> Launched:
            if not beside:
                companies.append((plane._cores_before is not None, company))
            return launch(plan, priority, beside=beside, company=company)

        plane._executor.launch = noted  # type: ignore[assignment,method-assign]  # to be seen
        plane.state._at_work.count = lambda now_us: 0  # type: ignore[method-assign]  # nobody computes meanwhile

    streams.go.set()
    running.ask(alone_and_noted)
    training, inference = running.connect("training"), running.connect("inference")
    deadline = time.monotonic() + 20
    while (True, 1) not in companies:
        assert time.monotonic() < deadline
        ask(training, op, torch.randn(40, op.width_in))
        ask(inference, op, torch.randn(1, op.width_in))
    assert (False, 0) in companies
    assert (True, 0) not in companies


@two_cores
@pytest.mark.usefixtures("everybody_hears")
def test_the_data_plane_stays_on_the_spared_core_for_one_that_decodes_and_not_for_many_rows(
    running: Running, streams: HeldBack, op: OpSpec
) -> None:
    def cores_and_looks(plane: DataPlane) -> tuple[set[int], int]:
        return os.sched_getaffinity(0), plane.seats.watch.looks

    def until_it_stays() -> None:
        deadline = time.monotonic() + 20
        while running.ask(cores_and_looks)[0] != {spared}:
            assert time.monotonic() < deadline
            ask(training, op, rows)
            ask(inference, op, row)

    streams.go.set()
    usable, row, rows = os.sched_getaffinity(0), torch.randn(1, op.width_in), torch.randn(40, op.width_in)
    spared = min(usable)
    training, inference = running.connect("training"), running.connect("inference")
    until_it_stays()
    before, looks = running.ask(cores_and_looks)
    ask(training, op, rows)
    ask(inference, op, row)
    after = running.ask(cores_and_looks)
    assert after[1] == looks or after[0] != before  # whom it would look for shares its core
    ask(inference, op, rows)
    assert running.ask(cores_and_looks)[0] == usable
    until_it_stays()
    time.sleep(0.15)  # nothing was computed beside it for longer than that counts
    ask(inference, op, row)
    assert running.ask(cores_and_looks)[0] == usable


@two_cores
@pytest.mark.usefixtures("everybody_hears")
def test_on_one_core_no_turn_follows_that_would_find_nothing(
    running: Running, streams: HeldBack, op: OpSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[set[int]] = []
    told: list[list[set[int]]] = []
    turn = DataPlane._turn

    def counted(plane: DataPlane) -> None:
        turn(plane)
        turns.append(os.sched_getaffinity(0))

    monkeypatch.setattr(DataPlane, "_turn", counted)
    streams.go.set()
    row, rows = torch.randn(1, op.width_in), torch.randn(40, op.width_in)
    training, inference = running.connect("training"), running.connect("inference")
    deadline = time.monotonic() + 20
    while [{min(os.sched_getaffinity(0))}] not in told:
        assert time.monotonic() < deadline, told
        ask(training, op, rows)
        ask(inference, op, row)
        running.ask(lambda plane: turns.clear())
        ask(inference, op, row)
        running.ask(lambda plane: told.append(turns.copy()))


@two_cores
def test_it_stays_nowhere_for_one_that_cannot_be_asked_to(running: Running, streams: HeldBack, op: OpSpec) -> None:
    """As over ZeroMQ: where it is then nobody knows."""
    streams.go.set()
    usable = os.sched_getaffinity(0)
    training, inference = running.connect("training"), running.connect("inference")
    ended = time.monotonic() + 0.4
    while time.monotonic() < ended:
        ask(training, op, torch.randn(40, op.width_in))
        ask(inference, op, torch.randn(1, op.width_in))
        assert running.ask(lambda _: os.sched_getaffinity(0)) == usable
