"""The data plane in its thread, over real frozen layers, with clients of the reference transport."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import torch

from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_core.config import BatchingConfig, ComputeConfig, DaemonConfig, LimitsConfig
from symbiosis_core.errors import DaemonGoneError, RefusalCode, RefusedError
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_core.wire import DaemonStatus
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.execution.streams import DeviceLostError, Event
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.survey import survey
from symbiosis_transports.ports import Peer
from symbiosis_transports.testing import FaultyChannel
from tests.scheduler.running_plane import LateStreams, Running
from tests.scheduler.tiny_models import lend, tiny

CONFIG = DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=1 << 16))


@pytest.fixture(scope="module")
def layers() -> FrozenLayers:
    torch.set_num_threads(1)
    return lend(tiny("llama"))


@pytest.fixture
def run(layers: FrozenLayers, request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Starts data planes and stops them at the end."""
    started: list[Running] = []

    def start(config: DaemonConfig = CONFIG, policy: Policy | None = None, **how: Any) -> Running:
        started.append(Running(layers, config, f"ipc:///{request.node.name}-{len(started)}", policy, **how))
        return started[-1]

    yield start
    for running in started:
        running.stop()


def linears(layers: FrozenLayers) -> list[OpSpec]:
    return [op for op in layers.spec.ops if op.kind is OpKind.LINEAR]


@pytest.mark.parametrize("direction", Direction)
def test_rows_of_any_number_equal_the_layers_own(
    run: Callable[..., Running], layers: FrozenLayers, direction: Direction
) -> None:
    """From one row to several slots full of them, which travel as chunks."""
    channel = run().connect()
    pipeline = Pipeline(channel, 10, 1 << 16)
    for op in linears(layers):
        for rows in (1, 7, 300, 2000):
            x_TW = torch.randn(rows, op.row_in(direction)[0])
            expected = layers.apply(op, direction, x_TW)
            torch.testing.assert_close(pipeline.run(op, direction, [x_TW])[0], expected, rtol=1e-5, atol=1e-5)
    channel.close()


def test_status_tells_how_often_the_idle_daemon_looked_and_what_came(
    run: Callable[..., Running], layers: FrozenLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    running = run(msgspec.structs.replace(CONFIG, compute=ComputeConfig(spin_us=10_000)))
    channel, op = running.connect(), linears(layers)[0]
    pipeline = Pipeline(channel, 10, 1 << 16)

    for _ in range(1000):
        pipeline.run(op, Direction.FORWARD, [torch.randn(3, op.width_in)])
        time.sleep(0.001)  # the daemon has begun to look, most of the time
        if running.thread.plane.seats.watch.hits:
            break

    def told(plane: DataPlane) -> DaemonStatus:
        return survey(plane, Bases([layers]), ThreadChoice(1), "fifo", "here", 0)

    spins = running.ask(told).spins
    assert 0 < spins.hits <= spins.looks
    channel.close()


def test_status_tells_how_threads_wait(
    run: Callable[..., Running], layers: FrozenLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = run().ask(lambda plane: survey(plane, Bases([layers]), ThreadChoice(1), "fifo", "here", 0))
    assert found.threads_policy == "1; OMP_WAIT_POLICY=passive"


def test_a_first_call_in_inference_mode_spoils_nothing(run: Callable[..., Running], layers: FrozenLayers) -> None:
    channel, op = run().connect(), linears(layers)[0]
    pipeline, x_TW = Pipeline(channel, 10, 1 << 16), torch.randn(3, op.width_in)
    with torch.inference_mode():
        inside = pipeline.run(op, Direction.FORWARD, [x_TW])[0]
    for _ in range(channel.slots):
        assert torch.equal(pipeline.run(op, Direction.FORWARD, [x_TW])[0], inside)
    channel.close()


def test_a_bad_token_id_fails_its_own_request_and_the_pipeline_goes_on(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    channel = run().connect()
    pipeline = Pipeline(channel, 10, 1 << 16)
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    ids_T1 = torch.zeros(3000, 1, dtype=torch.int64)
    good = pipeline.run(op, Direction.FORWARD, [ids_T1])[0]
    ids_T1[5] = -1
    for _ in range(3):  # more often than there are slots
        with pytest.raises(RefusedError) as caught:
            pipeline.run(op, Direction.FORWARD, [ids_T1])
        assert caught.value.code is RefusalCode.BAD_INDEX
    ids_T1[5] = 0
    assert torch.equal(pipeline.run(op, Direction.FORWARD, [ids_T1])[0], good)
    channel.close()


@pytest.mark.parametrize("exact", [False, True])
def test_clients_that_share_batches_get_what_they_would_get_alone(
    run: Callable[..., Running], layers: FrozenLayers, exact: bool
) -> None:
    """Within rounding by default, bit for bit with `batching.exact`."""
    running = run(msgspec.structs.replace(CONFIG, batching=BatchingConfig(exact=exact)))
    op = linears(layers)[0]

    def work(seed: int) -> bool:
        torch.set_num_threads(1)  # per thread: another number rounds differently
        channel = running.connect("inference" if seed % 2 else "training")
        pipeline, generator = Pipeline(channel, 10, 1 << 16), torch.Generator().manual_seed(seed)
        equal = True
        for step in range(60):
            x_TW = torch.randn(1 + (seed + step) % 9, op.width_in, generator=generator)
            ours, alone = pipeline.run(op, Direction.FORWARD, [x_TW])[0], layers.apply(op, Direction.FORWARD, x_TW)
            equal &= torch.equal(ours, alone) if exact else torch.allclose(ours, alone, rtol=1e-5, atol=1e-5)
        channel.close()
        return equal

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    batches = running.thread.plane.state.statistics().batches
    assert batches.requests == 360
    assert (batches.count == 360) if exact else (batches.count < 360)


def test_whatever_operation_fails_nobody_gets_a_wrong_row(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    """The n-th operation of the channel fails, for n = 1, 2, ... until all succeed; then the next client works."""
    running, op = run(), linears(layers)[0]
    x_TW = torch.randn(1500, op.width_in)
    expected = layers.apply(op, Direction.FORWARD, x_TW)
    for n in range(1, 1000):
        channel = FaultyChannel(running.connect(), n)
        try:
            answer = Pipeline(channel, 10, 1 << 16).run(op, Direction.FORWARD, [x_TW])[0]
        except DaemonGoneError:
            assert channel.failed
            continue
        finally:
            channel.close()
        assert not channel.failed
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
        break
    else:
        raise AssertionError("never got through")
    assert n > 3


def test_a_stop_answers_what_was_taken_and_then_hangs_up(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    running, op = run(), linears(layers)[0]
    pipeline = Pipeline(running.connect(), 10, 1 << 16)
    x_TW = torch.randn(5, op.width_in)
    pipeline.run(op, Direction.FORWARD, [x_TW])
    running.stop()
    with pytest.raises(DaemonGoneError, match="it was stopped"):
        pipeline.run(op, Direction.FORWARD, [x_TW])


class Broken:
    """A policy with a bug."""

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        if len(queues):
            raise ZeroDivisionError("a bug")
        return None


def test_a_bug_in_a_turn_fails_the_service_and_tells_the_clients_at_once(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    """Without a drain: there is no turn any more that could answer."""
    running = run(CONFIG, Broken())
    channel, op = running.connect(), linears(layers)[0]
    failure = asyncio.run_coroutine_threadsafe(running.thread.run(), running.loop)
    with ThreadPoolExecutor(1) as pool:
        pipeline, x_TW = Pipeline(channel, 20, 1 << 16), torch.randn(1, op.width_in)
        asked = pool.submit(pipeline.run, op, Direction.FORWARD, [x_TW])
        with pytest.raises(ZeroDivisionError, match="a bug"):
            failure.result(20)
        running.stop()
        with pytest.raises(DaemonGoneError, match="it failed"):
            asked.result(20)
    channel.close()


def test_nothing_is_answered_before_the_device_is_done(run: Callable[..., Running], layers: FrozenLayers) -> None:
    streams = LateStreams()
    running, op = run(streams=streams), linears(layers)[0]
    pipeline, x_TW = Pipeline(running.connect(), 20, 1 << 16), torch.randn(3, op.width_in)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pipeline.run, op, Direction.FORWARD, [x_TW])
        for _ in range(50):  # the loop looks again and again, and lives
            assert streams.asked.acquire(timeout=20)
        assert running.ask(lambda plane: plane.state.statistics().batches.count) == 0
        assert not asked.done()
        streams.finish.set()
        assert torch.equal(asked.result(20)[0], layers.apply(op, Direction.FORWARD, x_TW))


def test_who_waits_is_rung_before_anything_is_learned(run: Callable[..., Running], layers: FrozenLayers) -> None:
    running, op, order = run(), linears(layers)[0], []

    def listen(plane: DataPlane) -> None:
        ring, finished = plane.seats.ring, plane.state.known.finished

        def rings() -> None:
            order.extend(["rung"] if plane.seats._to_ring else [])
            ring()

        def learns(*what: Any) -> None:
            order.append("learned")
            finished(*what)

        plane.seats.ring = rings  # type: ignore[method-assign]  # listened to
        plane.state.known.finished = learns  # type: ignore[method-assign, assignment]  # listened to

    running.ask(listen)
    Pipeline(running.connect(), 20, 1 << 16).run(op, Direction.FORWARD, [torch.randn(3, op.width_in)])
    running.wait(lambda _: len(order) == 2, "it learned")
    assert order == ["rung", "learned"]


def test_while_plans_are_under_way_what_arrives_is_taken_and_launched_up_to_the_limit(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    streams = LateStreams()
    running, op = run(streams=streams, max_in_flight=2), linears(layers)[0]
    rows = [torch.randn(count, op.width_in) for count in (1, 2, 3)]
    pipelines = [Pipeline(running.connect(), 20, 1 << 16) for _ in rows]
    with ThreadPoolExecutor(3) as pool:
        asked = []
        for pipeline, x_TW in zip(pipelines[:2], rows[:2], strict=True):
            asked.append(pool.submit(pipeline.run, op, Direction.FORWARD, [x_TW]))
            assert streams.launched.acquire(timeout=20)
        asked.append(pool.submit(pipelines[2].run, op, Direction.FORWARD, [rows[2]]))
        while not running.ask(lambda plane: sum(c.queued for c in plane.state.statistics().clients)):
            assert not asked[2].done()
        assert running.ask(lambda plane: plane.state.statistics().in_flight) == 2
        assert not streams.launched.acquire(blocking=False)
        streams.finish.set()
        for answer, x_TW in zip(asked, rows, strict=True):
            assert torch.equal(answer.result(20)[0], layers.apply(op, Direction.FORWARD, x_TW))


def test_a_client_may_leave_while_its_rows_are_computed(run: Callable[..., Running], layers: FrozenLayers) -> None:
    """Its rows land nowhere, and nobody waits for them."""
    streams = LateStreams()
    running, op = run(streams=streams), linears(layers)[0]
    leaving, staying = running.connect(), running.connect()
    x_TW = torch.randn(3, op.width_in)
    with ThreadPoolExecutor(2) as pool:
        given_up = pool.submit(Pipeline(leaving, 20, 1 << 16).run, op, Direction.FORWARD, [x_TW])
        assert streams.launched.acquire(timeout=20)
        leaving.close()
        while running.ask(lambda plane: len(plane.seats)) > 1:
            pass
        assert running.ask(lambda plane: plane.state.statistics().in_flight) == 1
        asked = pool.submit(Pipeline(staying, 20, 1 << 16).run, op, Direction.FORWARD, [x_TW])
        streams.finish.set()
        assert torch.equal(asked.result(20)[0], layers.apply(op, Direction.FORWARD, x_TW))
        assert given_up.exception(20) is not None


@pytest.mark.parametrize("at_launch", [True, False])
def test_a_device_that_is_lost_ends_the_daemon_and_no_client_hangs(
    run: Callable[..., Running], layers: FrozenLayers, at_launch: bool
) -> None:
    streams, lost = LateStreams(), DeviceLostError("an illegal memory access")
    streams.lost_at_launch, streams.lost = (lost, None) if at_launch else (None, lost)
    running, op = run(streams=streams, max_in_flight=2), linears(layers)[0]
    failure = asyncio.run_coroutine_threadsafe(running.thread.run(), running.loop)
    pipeline = Pipeline(running.connect(), 20, 1 << 16)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pipeline.run, op, Direction.FORWARD, [torch.randn(1, op.width_in)])
        with pytest.raises(DeviceLostError, match="illegal memory access"):
            failure.result(20)
        running.stop()
        with pytest.raises(DaemonGoneError, match="it failed"):
            asked.result(20)


class NoRoom(LateStreams):
    """Streams of a device on which the first plan finds no memory."""

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        if not self.finish.is_set():
            self.finish.set()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().launch(priority, work)


def test_a_plan_that_finds_no_memory_fails_alone(run: Callable[..., Running], layers: FrozenLayers) -> None:
    running, op = run(streams=NoRoom()), linears(layers)[0]
    pipeline, x_TW = Pipeline(running.connect(), 20, 1 << 16), torch.randn(3, op.width_in)
    with pytest.raises(RefusedError) as caught:
        pipeline.run(op, Direction.FORWARD, [x_TW])
    assert caught.value.code is RefusalCode.FAILED
    assert torch.equal(pipeline.run(op, Direction.FORWARD, [x_TW])[0], layers.apply(op, Direction.FORWARD, x_TW))


def test_another_user_of_this_host_is_refused(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever token it shows."""
    monkeypatch.setattr("symbiosis_transports.inproc.server.Peer", lambda *_: Peer(0, os.getuid() + 1))
    with pytest.raises(RefusedError) as caught:
        run().connect()
    assert caught.value.code is RefusalCode.PERMISSION


def test_root_is_let_in_as_at_every_door(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symbiosis_transports.inproc.server.Peer", lambda *_: Peer(0, 0))
    monkeypatch.setattr("symbiosis_transports.peers.os.getuid", lambda: 1234)  # the daemon's own user is not root
    running = run()
    channel = running.connect()
    assert running.ask(lambda plane: len(plane.seats)) == 1
    channel.close()


@pytest.mark.parametrize(("uid", "here"), [(os.getuid(), True), (None, False)])
def test_whom_the_kernel_does_not_know_computes_elsewhere(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, uid: int | None, here: bool
) -> None:
    """So the daemon's products leave it no core."""
    monkeypatch.setattr("symbiosis_transports.inproc.server.Peer", lambda *_: Peer(0, uid))
    running = run()
    channel = running.connect(here=here)
    [client] = running.ask(lambda plane: [each.here for each in plane.state._clients.values()])
    assert client is here
    channel.close()
