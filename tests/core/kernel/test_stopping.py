"""A stop lets services finish, waits for none for ever, and may be asked for from anywhere."""

from __future__ import annotations

import asyncio
import threading

import pytest

from symbiosis_core.errors import ServiceFailedError
from symbiosis_core.kernel import Kernel, KernelStatistics, ServiceState, ServiceStatistics
from tests.core.kernel.parts import HangsInStop, Part, RefusesCancellation, running, states


async def test_a_service_may_end_by_itself_once_a_stop_was_asked_for() -> None:
    class Obeys(Part):
        async def run(self) -> None:
            self.runs.set()
            await self.stopped.wait()

        async def stop(self) -> None:
            self.stopped.set()

        def __init__(self, name: str, diary: list[str]) -> None:
            super().__init__(name, diary)
            self.stopped = asyncio.Event()

    a = Obeys("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("test")
    await task
    assert states(kernel) == {"a": "stopped"}


async def test_a_service_runs_on_while_it_drains() -> None:
    class Drains(Part):
        def __init__(self, name: str, diary: list[str]) -> None:
            super().__init__(name, diary)
            self.asked, self.drained = asyncio.Event(), asyncio.Event()

        async def run(self) -> None:
            self.runs.set()
            await self.asked.wait()
            self.diary.append("last work")
            self.drained.set()
            await asyncio.Event().wait()

        async def stop(self) -> None:
            self.asked.set()
            await self.drained.wait()
            self.diary.append("drained")

    diary: list[str] = []
    a = Drains("a", diary)
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("test")
    await task
    assert diary == ["a start", "last work", "drained"]


async def test_a_hanging_stop_is_abandoned_by_name_and_the_others_still_stop() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), HangsInStop("b", diary)
    kernel = Kernel([a, b], stop_timeout_s=0.01)
    task = await running(kernel, a, b)
    kernel.request_stop("test")
    with pytest.raises(ServiceFailedError, match=r"service b did not stop within 0.01 s and was abandoned"):
        await task
    assert diary[4:] == ["b stop", "b end", "b stop cancelled", "a stop", "a end"]
    assert states(kernel) == {"a": "stopped", "b": "abandoned"}


async def test_a_service_that_refuses_cancellation_is_abandoned_by_name() -> None:
    a = RefusesCancellation("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("test")
    with pytest.raises(ServiceFailedError, match="service a refuses to be cancelled and was abandoned"):
        await task
    assert not a.ended.is_set()
    a.released.set()
    await a.ended.wait()


async def test_a_start_that_refuses_cancellation_is_abandoned_by_name() -> None:
    class RefusesToEnd(RefusesCancellation):
        async def start(self) -> None:
            await self.run()

    diary: list[str] = []
    a, b = Part("a", diary), RefusesToEnd("b", diary)
    kernel = Kernel([a, b])
    task = await running(kernel, a, b)
    kernel.request_stop("test")
    with pytest.raises(ServiceFailedError, match="service b refuses to be cancelled and was abandoned"):
        await task
    assert states(kernel) == {"a": "stopped", "b": "abandoned"}
    b.released.set()
    await b.ended.wait()


async def test_the_first_reason_to_stop_counts() -> None:
    a = Part("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("first")
    kernel.request_stop("second")
    await task
    kernel.request_stop("third")
    assert kernel.statistics() == KernelStatistics("first", (ServiceStatistics("a", ServiceState.STOPPED),))


async def test_a_stop_may_be_asked_for_in_another_thread() -> None:
    a = Part("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    thread = threading.Thread(target=kernel.request_stop, args=("from a thread",))
    thread.start()
    await task
    thread.join()
    assert kernel.statistics().stop_reason == "from a thread"
