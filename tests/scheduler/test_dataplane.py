"""The data plane in its thread, over real frozen layers, with clients of the reference transport."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch

from symbiosis_adapters.pipeline import Pipeline
from symbiosis_core.config import BatchingConfig, DaemonConfig, LimitsConfig
from symbiosis_core.errors import DaemonGoneError, RefusalCode, RefusedError
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.executor import Executor
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.plan import Decision
from symbiosis_scheduler.policies import make_policy
from symbiosis_scheduler.policy import Policy
from symbiosis_scheduler.queues import Queues
from symbiosis_scheduler.state import SchedulerState
from symbiosis_scheduler.streams import CpuStreams
from symbiosis_scheduler.threads import ThreadChoice
from symbiosis_transports.inproc import TRANSPORT
from symbiosis_transports.ports import ClientChannel, Listener
from symbiosis_transports.testing import FaultyChannel
from tests.scheduler.tiny_models import lend, tiny

CONFIG = DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=1 << 16))


class Running:
    """A data plane that runs, and a way in."""

    def __init__(
        self, layers: FrozenLayers, config: DaemonConfig, endpoint: str, policy: Policy | None = None
    ) -> None:
        self.layers = layers
        self.grants = Grants(config.limits)
        self.endpoint = endpoint

        def open_plane(loop: asyncio.AbstractEventLoop) -> tuple[DataPlane, list[Listener]]:
            state = SchedulerState(layers.spec.ops, config, policy or make_policy(config))
            executor = Executor(layers, CpuStreams(), ThreadChoice(1))
            plane = DataPlane(loop, state, executor, self.grants, config)
            return plane, [TRANSPORT.listen(loop, endpoint, plane)]

        self.thread = DataPlaneThread(open_plane, drain_s=5)
        self.loop = asyncio.new_event_loop()
        self._home = threading.Thread(target=self.loop.run_forever)
        self._home.start()
        self._await(self.thread.start)

    def connect(self, lane: str = "training") -> ClientChannel:
        _, token = self.grants.issue("test", lane, 1, "inproc")
        return TRANSPORT.connect(self.endpoint, token, 10)

    def statistics(self) -> SchedulerState:
        return self.thread.plane.state

    def stop(self) -> None:
        if self._home.is_alive():
            self._await(self.thread.stop)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._home.join()
            self.loop.close()

    def _await(self, function: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(function(), self.loop).result(20)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def layers() -> FrozenLayers:
    torch.set_num_threads(1)
    return lend(tiny("llama"))


@pytest.fixture
def run(layers: FrozenLayers, request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Starts data planes and stops them at the end."""
    started: list[Running] = []

    def start(config: DaemonConfig = CONFIG, policy: Policy | None = None) -> Running:
        started.append(Running(layers, config, f"ipc:///{request.node.name}-{len(started)}", policy))
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
            torch.testing.assert_close(pipeline.run(op, direction, x_TW), expected, rtol=1e-5, atol=1e-5)
    channel.close()


def test_a_first_call_in_inference_mode_spoils_nothing(run: Callable[..., Running], layers: FrozenLayers) -> None:
    channel, op = run().connect(), linears(layers)[0]
    pipeline, x_TW = Pipeline(channel, 10, 1 << 16), torch.randn(3, op.width_in)
    with torch.inference_mode():
        inside = pipeline.run(op, Direction.FORWARD, x_TW)
    for _ in range(channel.slots):
        assert torch.equal(pipeline.run(op, Direction.FORWARD, x_TW), inside)
    channel.close()


def test_a_bad_token_id_fails_its_own_request_and_the_pipeline_goes_on(
    run: Callable[..., Running], layers: FrozenLayers
) -> None:
    channel = run().connect()
    pipeline = Pipeline(channel, 10, 1 << 16)
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    ids_T1 = torch.zeros(3000, 1, dtype=torch.int64)
    good = pipeline.run(op, Direction.FORWARD, ids_T1)
    ids_T1[5] = -1
    for _ in range(3):  # more often than there are slots
        with pytest.raises(RefusedError) as caught:
            pipeline.run(op, Direction.FORWARD, ids_T1)
        assert caught.value.code is RefusalCode.BAD_INDEX
    ids_T1[5] = 0
    assert torch.equal(pipeline.run(op, Direction.FORWARD, ids_T1), good)
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
            ours, alone = pipeline.run(op, Direction.FORWARD, x_TW), layers.apply(op, Direction.FORWARD, x_TW)
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
            answer = Pipeline(channel, 10, 1 << 16).run(op, Direction.FORWARD, x_TW)
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
    pipeline.run(op, Direction.FORWARD, x_TW)
    running.stop()
    with pytest.raises(DaemonGoneError, match="it was stopped"):
        pipeline.run(op, Direction.FORWARD, x_TW)


class Broken:
    """A policy with a bug."""

    def plan(self, now_us: int, queues: Queues) -> Decision:
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
        asked = pool.submit(Pipeline(channel, 20, 1 << 16).run, op, Direction.FORWARD, torch.randn(1, op.width_in))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            failure.result(20)
        running.stop()
        with pytest.raises(DaemonGoneError, match="it failed"):
            asked.result(20)
    channel.close()
