"""Services that do what services do, and what they should not; and kernels of them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from symbiosis_core.errors import ServiceFailedError
from symbiosis_core.kernel import Kernel


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
