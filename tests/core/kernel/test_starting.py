"""Services start in order, and whatever cuts that short stops those that had started."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from symbiosis_core.errors import ServiceFailedError, UsageError
from symbiosis_core.kernel import Kernel, Service
from tests.core.kernel.parts import (
    FailsLater,
    FailsToStart,
    HangsInStart,
    Part,
    failure_of,
    running,
    states,
    turns_of_the_loop,
)


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


async def test_a_failed_start_stops_what_had_started_and_starts_nothing_more() -> None:
    diary: list[str] = []
    kernel = Kernel([Part("a", diary), FailsToStart("b", diary), Part("c", diary)])
    failure = await failure_of(kernel)
    assert str(failure) == "service b failed to start: OSError: the address is in use"
    assert isinstance(failure.__cause__, OSError)
    assert diary == ["a start", "a run", "b start", "a stop", "a end"]
    assert states(kernel) == {"a": "stopped", "b": "failed", "c": "waiting"}


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


async def test_a_start_that_cancels_itself_has_failed() -> None:
    class Cancels(Part):
        async def start(self) -> None:
            raise asyncio.CancelledError

    diary: list[str] = []
    failure = await failure_of(Kernel([Cancels("a", diary), Part("b", diary)]))
    assert str(failure) == "service a failed to start: it was cancelled from within"
    assert diary == []


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


async def test_the_kernel_runs_once() -> None:
    kernel = Kernel([])
    kernel.request_stop("test")
    await kernel.run()
    with pytest.raises(UsageError, match="make a new one"):
        await kernel.run()


def test_two_services_cannot_have_one_name() -> None:
    with pytest.raises(UsageError, match="different names, not a, b, a"):
        Kernel([Part("a", []), Part("b", []), Part("a", [])])


def test_any_object_of_the_right_shape_is_a_service() -> None:
    part: Service = Part("a", [])
    assert part.name == "a"
