"""The kernel starts in order, stops in reverse, and lets no failure and no task get lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from symbiosis_core.errors import ServiceFailedError, UsageError
from symbiosis_core.kernel import (
    Kernel,
    KernelStatistics,
    Service,
    ServiceState,
    ServiceStatistics,
    install_signals,
)


@pytest.fixture(autouse=True)
async def _nothing_is_left_to_the_loop() -> AsyncIterator[None]:
    """No task outlives its kernel, and no exception ends where only the loop sees it."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert unseen == []


class Part:
    """A service that does nothing, writes down what happens to it, and says when it runs."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name = name
        self.diary = diary
        self.runs = asyncio.Event()

    async def start(self) -> None:
        self.diary.append(f"{self.name} start")

    async def run(self) -> None:
        self.diary.append(f"{self.name} run")
        self.runs.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.diary.append(f"{self.name} end")

    async def stop(self) -> None:
        self.diary.append(f"{self.name} stop")


class FailsToStart(Part):
    async def start(self) -> None:
        await super().start()
        raise OSError("the address is in use")


class FailsLater(Part):
    """Fails in `run` when told to."""

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name, diary)
        self.fails = asyncio.Event()

    async def run(self) -> None:
        self.runs.set()
        await self.fails.wait()
        self.broken_function()

    def broken_function(self) -> None:
        raise ValueError("no such row")


class FailsToStop(Part):
    async def stop(self) -> None:
        await super().stop()
        raise OSError("cannot unlink")


class HangsInStop(Part):
    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name, diary)
        self.stops = asyncio.Event()

    async def stop(self) -> None:
        await super().stop()
        self.stops.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.diary.append(f"{self.name} stop cancelled")


class HangsInStart(Part):
    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name, diary)
        self.starts = asyncio.Event()

    async def start(self) -> None:
        await super().start()
        self.starts.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.diary.append(f"{self.name} start cancelled")


class RefusesCancellation(Part):
    """Ends only when `released`, whatever the kernel does."""

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name, diary)
        self.released = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        self.runs.set()
        while not self.released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.released.wait()
        self.ended.set()


def states(kernel: Kernel) -> dict[str, str]:
    return {name: str(state) for name, state in kernel.statistics().services}


async def failure_of(kernel: Kernel) -> ServiceFailedError:
    with pytest.raises(ServiceFailedError) as caught:
        await kernel.run()
    return caught.value


async def running(kernel: Kernel, *parts: Part) -> asyncio.Task[None]:
    """Returns the kernel's task once all `parts` run."""
    task = asyncio.create_task(kernel.run())
    for part in parts:
        await part.runs.wait()
    return task


async def turns_of_the_loop() -> None:
    """Lets everything happen that can happen without an event from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_services_start_in_order_and_stop_in_reverse() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), Part("b", diary)
    kernel = Kernel([a, b])
    task = await running(kernel, a, b)
    await turns_of_the_loop()
    assert states(kernel) == {"a": "running", "b": "running"}
    kernel.request_stop("test")
    await task
    assert diary == ["a start", "a run", "b start", "b run", "b stop", "b end", "a stop", "a end"]


async def test_a_kernel_without_services_waits_for_its_stop() -> None:
    kernel = Kernel([])
    task = asyncio.create_task(kernel.run())
    await turns_of_the_loop()
    assert not task.done()
    kernel.request_stop("test")
    await task


async def test_a_failure_stops_all_and_is_raised_with_its_traceback() -> None:
    diary: list[str] = []
    a, b, c = Part("a", diary), FailsLater("b", diary), Part("c", diary)
    kernel = Kernel([a, b, c])
    task = await running(kernel, a, b, c)
    b.fails.set()
    with pytest.raises(ServiceFailedError, match="service b failed: ValueError: no such row") as caught:
        await task
    assert caught.value.service == "b"
    assert isinstance(caught.value.__cause__, ValueError)
    assert "broken_function" in "".join(traceback.format_exception(caught.value))
    assert [line for line in diary if line.endswith("stop")] == ["c stop", "b stop", "a stop"]
    assert states(kernel) == {"a": "stopped", "b": "failed", "c": "stopped"}
    assert kernel.statistics().stop_reason == "service b failed: ValueError: no such row"


async def test_a_failed_start_stops_what_had_started_and_starts_nothing_more() -> None:
    diary: list[str] = []
    kernel = Kernel([Part("a", diary), FailsToStart("b", diary), Part("c", diary)])
    failure = await failure_of(kernel)
    assert str(failure) == "service b failed to start: OSError: the address is in use"
    assert isinstance(failure.__cause__, OSError)
    assert diary == ["a start", "a run", "b start", "a stop", "a end"]
    assert states(kernel) == {"a": "stopped", "b": "failed", "c": "waiting"}


async def test_a_failure_of_our_own_kind_speaks_for_itself() -> None:
    class Misused(Part):
        async def start(self) -> None:
            raise UsageError("choose another address")

    assert str(await failure_of(Kernel([Misused("a", [])]))) == "service a failed to start: choose another address"


async def test_a_failure_while_another_service_starts_cancels_that_start() -> None:
    diary: list[str] = []
    a, b = FailsLater("a", diary), HangsInStart("b", diary)
    kernel = Kernel([a, b])
    task = asyncio.create_task(kernel.run())
    await b.starts.wait()
    a.fails.set()
    with pytest.raises(ServiceFailedError, match="service a failed"):
        await task
    assert diary == ["a start", "b start", "b start cancelled", "a stop"]


async def test_a_service_that_ends_unasked_has_failed() -> None:
    class Ends(Part):
        async def run(self) -> None:
            return

    failure = await failure_of(Kernel([Ends("a", [])]))
    assert str(failure) == "service a ended although nobody had asked it to stop"
    assert failure.__cause__ is None


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


async def test_a_service_that_cancels_itself_has_failed() -> None:
    class Cancels(Part):
        async def run(self) -> None:
            raise asyncio.CancelledError

    failure = await failure_of(Kernel([Cancels("a", [])]))
    assert str(failure) == "service a failed: it was cancelled from within"


async def test_a_start_that_cancels_itself_has_failed() -> None:
    class Cancels(Part):
        async def start(self) -> None:
            raise asyncio.CancelledError

    diary: list[str] = []
    failure = await failure_of(Kernel([Cancels("a", diary), Part("b", diary)]))
    assert str(failure) == "service a failed to start: it was cancelled from within"
    assert diary == []


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


async def test_later_failures_are_notes_of_the_first() -> None:
    a, b = FailsToStop("a", []), FailsLater("b", [])
    kernel = Kernel([a, b])
    task = await running(kernel, a, b)
    b.fails.set()
    with pytest.raises(ServiceFailedError, match="service b failed") as caught:
        await task
    assert caught.value.__notes__ == ["then service a failed to stop: OSError: cannot unlink"]


async def test_a_failure_to_stop_is_raised_though_the_stop_was_asked_for() -> None:
    a = FailsToStop("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("test")
    with pytest.raises(ServiceFailedError, match="service a failed to stop: OSError: cannot unlink") as caught:
        await task
    assert isinstance(caught.value.__cause__, OSError)
    assert kernel.statistics().stop_reason == "test"


async def test_a_life_is_told_in_events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="symbiosis")
    a, b = FailsToStop("a", []), FailsLater("b", [])
    task = await running(Kernel([a, b]), a, b)
    b.fails.set()
    await asyncio.wait({task})
    with pytest.raises(ServiceFailedError):
        await task
    assert [(record.levelname, str(record.msg), bool(record.exc_info)) for record in caplog.records] == [
        ("INFO", "service started service=a", False),
        ("INFO", "service started service=b", False),
        ("ERROR", 'service failed service=b reason="failed: ValueError: no such row"', False),
        ("INFO", 'stopping reason="service b failed: ValueError: no such row"', False),
        ("INFO", "service ended service=b state=failed", False),
        ("ERROR", 'service failed service=a reason="failed to stop: OSError: cannot unlink"', True),
        ("INFO", "service ended service=a state=failed", False),
    ]


async def test_the_first_reason_to_stop_counts() -> None:
    a = Part("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.request_stop("first")
    kernel.request_stop("second")
    await task
    kernel.request_stop("third")
    assert kernel.statistics() == KernelStatistics("first", (ServiceStatistics("a", ServiceState.STOPPED),))


async def test_a_stop_asked_for_before_the_start_starts_nothing() -> None:
    diary: list[str] = []
    kernel = Kernel([Part("a", diary)])
    kernel.request_stop("early")
    await kernel.run()
    assert diary == []


async def test_a_stop_during_a_start_cancels_it_and_stops_the_others() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), HangsInStart("b", diary)
    kernel = Kernel([a, b, Part("c", diary)])
    task = asyncio.create_task(kernel.run())
    await b.starts.wait()
    assert states(kernel) == {"a": "running", "b": "starting", "c": "waiting"}
    kernel.request_stop("test")
    await task
    assert diary == ["a start", "a run", "b start", "b start cancelled", "a stop", "a end"]
    assert states(kernel) == {"a": "stopped", "b": "stopped", "c": "waiting"}


async def test_a_start_that_ends_well_though_cancelled_gets_its_stop() -> None:
    class Stubborn(HangsInStart):
        async def start(self) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await super().start()

    diary: list[str] = []
    a = Stubborn("a", diary)
    kernel = Kernel([a])
    task = asyncio.create_task(kernel.run())
    await a.starts.wait()
    kernel.request_stop("test")
    await task
    assert diary == ["a start", "a start cancelled", "a stop"]


async def test_a_stop_may_be_asked_for_in_another_thread() -> None:
    a = Part("a", [])
    kernel = Kernel([a])
    task = await running(kernel, a)
    thread = threading.Thread(target=kernel.request_stop, args=("from a thread",))
    thread.start()
    await task
    thread.join()
    assert kernel.statistics().stop_reason == "from a thread"


async def test_cancelling_the_kernel_drains_it() -> None:
    diary: list[str] = []
    a = Part("a", diary)
    kernel = Kernel([a])
    task = await running(kernel, a)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary == ["a start", "a run", "a stop", "a end"]
    assert kernel.statistics().stop_reason == "the kernel was cancelled"


async def test_cancelling_the_kernel_during_a_start_ends_that_start() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), HangsInStart("b", diary)
    task = asyncio.create_task(Kernel([a, b]).run())
    await b.starts.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary == ["a start", "a run", "b start", "b start cancelled", "a stop", "a end"]


async def test_cancelling_the_kernel_again_ends_its_drain() -> None:
    diary: list[str] = []
    a, b = Part("a", diary), HangsInStop("b", diary)
    kernel = Kernel([a, b], stop_timeout_s=3600)
    task = await running(kernel, a, b)
    task.cancel()
    await b.stops.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(diary[4:]) == ["a end", "b end", "b stop", "b stop cancelled"]
    assert states(kernel) == {"a": "abandoned", "b": "abandoned"}


async def test_an_abort_ends_the_drain_and_names_all_that_had_not_stopped() -> None:
    diary: list[str] = []
    a, b, c = Part("a", diary), HangsInStop("b", diary), Part("c", diary)
    kernel = Kernel([a, b, c], stop_timeout_s=3600)
    task = await running(kernel, a, b, c)
    kernel.request_stop("test")
    await b.stops.wait()
    kernel.abort("the user is tired of it")
    with pytest.raises(ServiceFailedError) as caught:
        await task
    told = "was abandoned before it had stopped: the user is tired of it"
    assert {str(caught.value), *caught.value.__notes__} == {f"service a {told}", f"then service b {told}"}
    assert "a stop" not in diary
    assert {"a end", "b end", "b stop cancelled"} <= set(diary)
    assert states(kernel) == {"a": "abandoned", "b": "abandoned", "c": "stopped"}


async def test_an_abort_without_a_stop_stops_without_draining() -> None:
    diary: list[str] = []
    a = Part("a", diary)
    kernel = Kernel([a])
    task = await running(kernel, a)
    kernel.abort("now")
    kernel.abort("really")
    with pytest.raises(ServiceFailedError, match="abandoned before it had stopped: now"):
        await task
    assert diary == ["a start", "a run", "a end"]


async def test_the_kernel_runs_once() -> None:
    kernel = Kernel([])
    kernel.request_stop("test")
    await kernel.run()
    with pytest.raises(UsageError, match="make a new one"):
        await kernel.run()


def test_two_services_cannot_have_one_name() -> None:
    with pytest.raises(UsageError, match="different names, not a, b, a"):
        Kernel([Part("a", []), Part("b", []), Part("a", [])])


async def test_the_repr_tells_every_state() -> None:
    a, b = Part("a", []), HangsInStop("b", [])
    kernel = Kernel([a, b], stop_timeout_s=3600)
    assert repr(kernel) == "<Kernel a waiting, b waiting>"
    task = await running(kernel, a, b)
    assert repr(kernel) == "<Kernel a running, b running>"
    kernel.request_stop("test")
    await b.stops.wait()
    assert repr(kernel) == "<Kernel a running, b stopping; stop: test>"
    kernel.abort("test")
    with pytest.raises(ServiceFailedError):
        await task
    assert repr(kernel) == "<Kernel a abandoned, b abandoned; stop: test>"
    assert repr(Kernel([])) == "<Kernel without services>"


class Countdown:
    """Fails the n-th operation of all services that share it, once."""

    def __init__(self, n: int) -> None:
        self.left = n

    def operation(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError("the operation that fails")


class Fragile(Part):
    def __init__(self, name: str, diary: list[str], countdown: Countdown) -> None:
        super().__init__(name, diary)
        self.countdown = countdown

    async def start(self) -> None:
        self.countdown.operation()
        await super().start()

    async def run(self) -> None:
        self.countdown.operation()
        await super().run()

    async def stop(self) -> None:
        await super().stop()
        self.countdown.operation()


async def test_whichever_operation_fails_everything_that_started_is_stopped_once() -> None:
    failures = 0
    while True:
        diary: list[str] = []
        countdown = Countdown(failures + 1)
        parts = [Fragile(name, diary, countdown) for name in "abc"]
        kernel = Kernel(parts)
        task = asyncio.create_task(kernel.run())
        last_runs = asyncio.create_task(parts[-1].runs.wait())
        await asyncio.wait({task, last_runs}, return_when=asyncio.FIRST_COMPLETED)
        last_runs.cancel()
        kernel.request_stop("test")
        await asyncio.wait({task, last_runs})
        started = [line[0] for line in diary if line.endswith("start")]
        assert [line[0] for line in diary if line.endswith("stop")] == started[::-1]
        assert "running" not in states(kernel).values()
        if task.exception() is None:
            break
        assert isinstance(task.exception(), ServiceFailedError)
        assert "failed" in states(kernel).values()
        failures += 1
    assert failures == 9
    assert states(kernel) == {"a": "stopped", "b": "stopped", "c": "stopped"}


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop(
    number: signal.Signals, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    diary: list[str] = []

    async def scenario() -> Kernel:
        a = Part("a", diary)
        kernel = Kernel([a])
        with install_signals(kernel):
            task = await running(kernel, a)
            os.kill(os.getpid(), number)
            await task
        return kernel

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(scenario()).statistics().stop_reason == number.name
    assert diary == ["a start", "a run", "a stop", "a end"]


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_second_signal_aborts_the_drain(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        a = HangsInStop("a", [])
        kernel = Kernel([a], stop_timeout_s=3600)
        with install_signals(kernel):
            task = await running(kernel, a)
            os.kill(os.getpid(), signal.SIGTERM)
            await a.stops.wait()
            os.kill(os.getpid(), signal.SIGINT)
            await task

    with (
        asyncio.Runner(loop_factory=new_loop) as runner,
        pytest.raises(ServiceFailedError, match="SIGINT came after SIGTERM"),
    ):
        runner.run(scenario())


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_handlers_from_before_come_back(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        with install_signals(Kernel([])):
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def test_any_object_of_the_right_shape_is_a_service() -> None:
    part: Service = Part("a", [])
    assert part.name == "a"
