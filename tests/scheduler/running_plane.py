"""A data plane that runs in its thread, to which clients of the reference transport connect."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.decisions.users import user_of
from symbiosis_scheduler.execution.executor import Executor
from symbiosis_scheduler.execution.streams import CpuStreams, Event, Streams, open_streams, plans_in_flight
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.policies import make_policy
from symbiosis_transports.inproc import TRANSPORT
from symbiosis_transports.ports import ClientChannel, Listener, Transport

T = TypeVar("T")


class Running:
    """A data plane that runs, and a way in. With `streams` it computes at a distance, as for another device."""

    def __init__(
        self,
        layers: FrozenLayers,
        config: DaemonConfig,
        endpoint: str,
        policy: Policy | None = None,
        streams: Streams | None = None,
        max_in_flight: int | None = None,
        transport: Transport = TRANSPORT,
        beside: bool = False,
    ) -> None:
        self.layers = layers
        self.grants = Grants(config.limits)
        self.endpoint = endpoint
        self._transport = transport
        most = max_in_flight or plans_in_flight(layers.device)

        def open_plane(loop: asyncio.AbstractEventLoop) -> tuple[DataPlane, list[Listener]]:
            chosen = policy or make_policy(config)
            state = SchedulerState([layers.spec.ops], config, chosen, max_in_flight=most, beside=beside)
            priorities = [lane.priority for lane in config.lanes.values()]
            own = open_streams(layers.device, priorities, lambda: plane.ended_beside())
            if isinstance(streams, CpuStreams):
                streams.ring = lambda: plane.ended_beside()
            staged = streams is not None and not isinstance(streams, CpuStreams)
            executor = Executor([layers], streams or own, ThreadChoice(1), staged=staged)
            plane = DataPlane(loop, state, executor, self.grants, config)
            return plane, [transport.listen(loop, endpoint, plane)]

        self.thread = DataPlaneThread(open_plane, drain_s=5)
        self.loop = asyncio.new_event_loop()
        self._home = threading.Thread(target=self.loop.run_forever)
        self._home.start()
        self._await(self.thread.start)

    def connect(self, lane: str = "training", *, here: bool = True) -> ClientChannel:
        """A client of that lane, and of this host or of another one."""
        _, token = self.grants.issue("test", lane, 1, self._transport.name, user=user_of("", here=here))
        return self._transport.connect(self.endpoint, token, 10)

    def ask(self, question: Callable[[DataPlane], T]) -> T:
        """Answers between two turns, in the data plane's thread."""
        plane = self.thread.plane
        asked = asyncio.run_coroutine_threadsafe(self.thread.call(lambda: question(plane)), self.loop)
        return asked.result(20)

    def wait(self, condition: Callable[[DataPlane], bool], what: str) -> None:
        """Returns when the condition holds, asked again and again."""
        deadline = time.monotonic() + 60
        while not self.ask(condition):
            assert time.monotonic() < deadline, f"never came true: {what}"

    def wait_failed(self) -> None:
        """Returns when the data plane has failed: by raising what it failed of."""
        asyncio.run_coroutine_threadsafe(self.thread.run(), self.loop).result(20)

    def stop(self) -> None:
        if self._home.is_alive():
            self._await(self.thread.stop)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._home.join()
            self.loop.close()

    def _await(self, function: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(function(), self.loop).result(20)


class LateStreams:
    """Streams of a slow device: nothing is done before `finish`. With `lost` the device fails, here or there."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.launched = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.lost_at_launch: Exception | None = None
        self.lost: Exception | None = None

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        if self.lost_at_launch is not None:
            raise self.lost_at_launch
        work()
        self.launched.release()
        return _LateEvent(self)

    def launch_beside(self, work: Callable[[], None]) -> Event:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _LateEvent:
    rings = False

    def __init__(self, streams: LateStreams) -> None:
        self._streams = streams

    def done(self) -> bool:
        self._streams.asked.release()
        if self._streams.lost is not None:
            raise self._streams.lost
        return self._streams.finish.is_set()
