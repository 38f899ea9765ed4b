"""The kernel tells what it does: events for the log, states for whoever looks."""

from __future__ import annotations

import asyncio

import pytest

from symbiosis_core.errors import ServiceFailedError
from symbiosis_core.kernel import Kernel
from tests.core.kernel.parts import FailsLater, FailsToStop, HangsInStop, Part, running


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
