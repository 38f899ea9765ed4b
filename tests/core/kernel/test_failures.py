"""The first failure stops everything and is raised; no failure gets lost."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from symbiosis_core.errors import ServiceFailedError, UsageError
from symbiosis_core.kernel import Kernel
from tests.core.kernel.parts import FailsLater, FailsToStop, Part, failure_of, running, states


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


async def test_a_failure_of_our_own_kind_speaks_for_itself() -> None:
    class Misused(Part):
        async def start(self) -> None:
            raise UsageError("choose another address")

    assert str(await failure_of(Kernel([Misused("a", [])]))) == "service a failed to start: choose another address"


async def test_a_service_that_ends_unasked_has_failed() -> None:
    class Ends(Part):
        async def run(self) -> None:
            return

    failure = await failure_of(Kernel([Ends("a", [])]))
    assert str(failure) == "service a ended although nobody had asked it to stop"
    assert failure.__cause__ is None


async def test_a_service_that_cancels_itself_has_failed() -> None:
    class Cancels(Part):
        async def run(self) -> None:
            raise asyncio.CancelledError

    failure = await failure_of(Kernel([Cancels("a", [])]))
    assert str(failure) == "service a failed: it was cancelled from within"


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
