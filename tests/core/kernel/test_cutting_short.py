"""A kernel that is cancelled drains; one that is cancelled again, or aborted, does not."""

from __future__ import annotations

import asyncio

import pytest

from symbiosis_core.errors import ServiceFailedError
from symbiosis_core.kernel import Kernel
from tests.core.kernel.parts import HangsInStart, HangsInStop, Part, running, states


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
