"""The first signal asks for a stop, the second ends the drain, on either loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
import uvloop

from symbiosis_core.errors import ServiceFailedError
from symbiosis_core.kernel import Kernel, install_signals
from tests.core.kernel.parts import HangsInStop, Part, running

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
