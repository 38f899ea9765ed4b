"""How services are supervised.

What happens to one service, and who sees to it:

    WAITING --start()--> STARTING --returned--> RUNNING --stop asked--> STOPPING --> STOPPED
                             |                     |                        |
                             +---- FAILED <--------+------------------------+   raised, or ended unasked
                                                                            +-> ABANDONED   would not stop

- `run()` of a service begins when its own `start()` has returned, so a later service may rely on it.
- The first failure of any service stops all of them; `Kernel.run` then raises it. Later ones become its notes.
- A service whose `start()` returned gets `stop()` once, even if its `run()` failed. One whose `start()` raised
  or was cancelled gets none: it has cleaned up after itself.
- While `stop()` drains, `run()` goes on; when `stop()` has returned, `run()` is cancelled if it has not ended.
- Every task is the kernel's and has ended when `Kernel.run` ends, but for one that refuses its cancellation:
  the error names its service. A service that blocks the thread of the loop cannot be helped from here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple

from symbiosis_core.errors import ServiceFailedError, SymbiosisError, UsageError
from symbiosis_core.kernel.service import Service, ServiceState
from symbiosis_core.logs import event, get_logger

__all__ = ["Kernel", "KernelStatistics", "ServiceStatistics"]

log = get_logger("symbiosis_core.kernel")  # of the kernel there is one, in however many files

_CANCEL_GRACE_S: Final = 1.0
"""How long a cancelled task may take to end. Cleaning up is for `stop()`, which has its own limit."""


class ServiceStatistics(NamedTuple):
    """One service, as the kernel sees it."""

    name: str
    state: ServiceState


class KernelStatistics(NamedTuple):
    """One consistent look at the kernel."""

    stop_reason: str | None
    """Why everything stops or has stopped. None: nobody asked, and nothing failed."""
    services: tuple[ServiceStatistics, ...]


class _Phase(StrEnum):
    """What a task of a service does; the value begins the sentence that tells of its failure."""

    START = "failed to start"
    RUN = "failed"
    STOP = "failed to stop"


class _Unit:
    """A service, where it is in its life, and its tasks that have not ended."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = service.name
        self.state = ServiceState.WAITING
        self.started = False
        self.cancelled = False
        self.tasks: dict[asyncio.Task[None], _Phase] = {}

    def move(self, state: ServiceState) -> None:
        """Goes to `state`, but for what has failed or was abandoned: that is kept to the end."""
        if self.state is not ServiceState.FAILED and self.state is not ServiceState.ABANDONED:
            self.state = state


class Kernel:
    """Supervises services. Lives for one `run`."""

    def __init__(self, services: Sequence[Service], *, stop_timeout_s: float = 10.0) -> None:
        """Takes services in the order of their start. Each has `stop_timeout_s` for its `stop()`."""
        self._units = [_Unit(service) for service in services]
        names = [unit.name for unit in self._units]
        if len(set(names)) < len(names):
            raise UsageError(f"services of one kernel need different names, not {', '.join(names)}")
        self._stop_timeout_s = stop_timeout_s
        self._stop_reason: str | None = None
        self._abort_reason: str | None = None
        self._failures: list[ServiceFailedError] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._aborting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        states = ", ".join(f"{unit.name} {unit.state}" for unit in self._units) or "without services"
        reason = f"; stop: {self._stop_reason}" if self._stop_reason is not None else ""
        return f"<Kernel {states}{reason}>"

    def statistics(self) -> KernelStatistics:
        """Where every service is in its life."""
        services = tuple(ServiceStatistics(unit.name, unit.state) for unit in self._units)
        return KernelStatistics(self._stop_reason, services)

    def request_stop(self, reason: str) -> None:
        """Asks everything to stop. The first reason counts. Callable from signal handlers and any thread."""
        if self._stop_reason is None:
            self._stop_reason = reason
        self._tell(self._stopping)

    def abort(self, reason: str) -> None:
        """Stops without draining, or ends the drain that goes on: whatever still lives is cancelled.

        Callable as `request_stop` is.
        """
        if self._abort_reason is None:
            self._abort_reason = reason
        self.request_stop(reason)
        self._tell(self._aborting)

    async def run(self) -> None:
        """Runs the services until a stop is asked for or one fails; they have stopped when it ends.

        Cancelling it asks for a stop; cancelling it while it drains aborts the drain.

        Raises:
            ServiceFailedError: the first failure. Its cause is the service's own exception; its notes name
                the failures that came after.
            UsageError: this kernel has run before.
        """
        if self._loop is not None:
            raise UsageError("a kernel runs once; make a new one")
        self._loop = asyncio.get_running_loop()
        self._stopping, self._aborting = self._loop.create_future(), self._loop.create_future()
        if self._stop_reason is not None:  # asked for before there was anything to tell
            self._stopping.set_result(None)
        try:
            await self._serve(self._stopping)
        except asyncio.CancelledError:
            self.request_stop("the kernel was cancelled")
            raise
        finally:
            try:
                await self._drain(self._aborting)
            finally:
                await self._abandon()
        if self._failures:
            first, *later = self._failures
            for failure in later:
                first.add_note(f"then {failure}")
            raise first

    async def _serve(self, stopping: asyncio.Future[None]) -> None:
        for unit in self._units:
            if self._stop_reason is None:
                await self._start(unit, stopping)
        await asyncio.wait({stopping})

    async def _start(self, unit: _Unit, stopping: asyncio.Future[None]) -> None:
        unit.move(ServiceState.STARTING)
        starting = self._own(unit, _Phase.START, unit.service.start())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if unit.tasks:  # it is still starting
                await self._cancel(unit)
        if unit.started and self._stop_reason is None:
            self._own(unit, _Phase.RUN, unit.service.run())

    async def _drain(self, aborting: asyncio.Future[None]) -> None:
        log.info(event("stopping", reason=self._stop_reason))
        for unit in reversed(self._units):
            if unit.started and self._abort_reason is None:
                await self._stop(unit, aborting)

    async def _stop(self, unit: _Unit, aborting: asyncio.Future[None]) -> None:
        unit.move(ServiceState.STOPPING)
        stop = self._own(unit, _Phase.STOP, unit.service.stop())
        await asyncio.wait({stop, aborting}, timeout=self._stop_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            if self._abort_reason is not None:
                return  # _abandon cancels all that still lives, at once
            self._give_up(unit, f"did not stop within {self._stop_timeout_s:g} s and was abandoned")
        await self._cancel(unit)
        unit.move(ServiceState.STOPPED)
        log.info(event("service ended", service=unit.name, state=unit.state))

    async def _abandon(self) -> None:
        """Cancels what an aborted drain left. After a whole drain there is nothing."""
        reason = self._abort_reason or "the drain was cancelled"
        left = [unit for unit in self._units if unit.tasks and unit.state is not ServiceState.ABANDONED]
        for unit in self._units:
            if unit.state in (ServiceState.RUNNING, ServiceState.STOPPING):
                self._give_up(unit, f"was abandoned before it had stopped: {reason}")
        await asyncio.gather(*(self._cancel(unit) for unit in left))

    async def _cancel(self, unit: _Unit) -> None:
        """Cancels the unit's tasks and waits until they have ended, which they owe within the grace."""
        unit.cancelled = True
        tasks = list(unit.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_GRACE_S)
        if not all(task.done() for task in tasks):
            self._give_up(unit, "refuses to be cancelled and was abandoned")

    def _own(self, unit: _Unit, phase: _Phase, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None  # run() has begun
        task = self._loop.create_task(work, name=f"{unit.name}.{phase.name.lower()}")
        unit.tasks[task] = phase
        task.add_done_callback(partial(self._settle, unit))
        return task

    def _settle(self, unit: _Unit, task: asyncio.Task[None]) -> None:
        """Draws the conclusion from a task that has ended. It is the first to be told, before who waits for it."""
        phase = unit.tasks.pop(task)
        if task.cancelled():
            if not unit.cancelled:
                self._fail(unit, f"{phase}: it was cancelled from within")
            elif phase is _Phase.START:  # it never served, and gets no stop()
                unit.move(ServiceState.STOPPED)
        elif (error := task.exception()) is not None:
            self._fail(unit, f"{phase}: {_told(error)}", error)
        elif phase is _Phase.START:
            unit.started = True
            unit.move(ServiceState.RUNNING)
            log.info(event("service started", service=unit.name))
        elif phase is _Phase.RUN and self._stop_reason is None:
            self._fail(unit, "ended although nobody had asked it to stop")

    def _give_up(self, unit: _Unit, reason: str) -> None:
        self._fail(unit, reason)
        unit.state = ServiceState.ABANDONED

    def _fail(self, unit: _Unit, reason: str, cause: BaseException | None = None) -> None:
        unit.move(ServiceState.FAILED)
        failure = ServiceFailedError(unit.name, reason)
        failure.__cause__ = cause
        # run() raises the first failure with its traceback; of a later one the log is the only witness.
        log.error(
            event("service failed", service=unit.name, reason=reason), exc_info=cause if self._failures else None
        )
        self._failures.append(failure)
        self.request_stop(str(failure))

    def _tell(self, what: asyncio.Future[None] | None) -> None:
        if self._loop is not None and what is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: everything has ended
                self._loop.call_soon_threadsafe(_resolve, what)


def _resolve(what: asyncio.Future[None]) -> None:
    if not what.done():
        what.set_result(None)


def _told(error: BaseException) -> str:
    """Returns the error in one line; our own errors say all by themselves."""
    return str(error) if isinstance(error, SymbiosisError) else f"{type(error).__name__}: {error}".rstrip(": ")
