"""Traces a forward a piece at a time: in a thread of its own, which works only while the client waits for it.

torch.compile takes seconds for a whole model and can neither be interrupted nor run beside the client: while it
traces, everybody in the process is told that something is being compiled, and at its end it puts the random
generators back to where they were. So a trace and its client take turns. The tracer looks at the clock whenever
it meets a frozen layer (`pause`), and hands over if its turn is over; while it pauses, nothing of it is to be
noticed.
"""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from symbiosis_core.clock import monotonic_us

__all__ = ["TracedError", "Tracing", "in_trace", "pause"]


class TracedError(BaseException):
    """The trace is complete, and what it traced need not be run. Not for handlers of errors."""


class _AbandonedError(BaseException):
    """Nobody wants the trace any more."""


class _Here(threading.local):
    tracing: Tracing | None = None
    """What this thread traces."""


_here: Final = _Here()


def in_trace() -> bool:
    """Whether this thread traces, so that nothing has to be computed."""
    return _here.tracing is not None


def pause() -> None:
    """Lets the client go on if this thread's turn is over. It is called from inside of a trace."""
    if _here.tracing is not None:
        _here.tracing._pause()


class Tracing:
    """Has `trace` run by turns, in the mode of the thread that makes this. At its end it raises `TracedError`."""

    def __init__(self, trace: Callable[[], Any]) -> None:
        self.done = False
        self.failure: BaseException | None = None
        self.spent_us = 0
        """In all turns together."""
        self._threads = torch.get_num_threads()
        self._modes = _Modes()
        self._turn_ends_us: float = 0.0
        self._abandoned = False
        self._mine = threading.Semaphore(0)
        self._yours = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(trace,), name="symbiosis-trace", daemon=True)
        self._thread.start()

    def go_on(self, most_us: float) -> None:
        """Traces on for about so long, and returns then or when the trace is complete."""
        if self.done or not self._thread.is_alive():  # no thread survives a fork
            return
        began_us = monotonic_us()
        self._turn_ends_us = began_us + most_us
        with _unnoticed():
            self._mine.release()
            interrupt = self._wait()
        self.spent_us += monotonic_us() - began_us
        if interrupt is not None:
            raise interrupt

    def _wait(self) -> BaseException | None:
        """Waits for the end of the turn, interrupts or not: else the tracer would work beside the client."""
        interrupt: BaseException | None = None
        while True:
            try:
                self._yours.acquire()
            except BaseException as error:  # noqa: BLE001  # raised when the turn is over
                self._turn_ends_us, interrupt = 0.0, error
            else:
                return interrupt

    def abandon(self) -> None:
        """Ends the trace, wherever it stands.

        A model may be collected while something else is compiled, and by the thread that compiles. The tracer
        wants the lock that this thread has then: it ends afterwards, and is not waited for.
        """
        if self._abandoned or self.done:
            return
        self._abandoned = True
        if threading.current_thread() is self._thread:
            return
        if torch._dynamo.convert_frame.compile_lock._is_owned():  # type: ignore[attr-defined]  # not typed
            self._mine.release()
        else:
            self.go_on(0)

    def _run(self, trace: Callable[[], Any]) -> None:
        self._mine.acquire()
        _here.tracing = self
        try:
            if not self._abandoned:
                torch.set_num_threads(self._threads)
                with self._modes.entered():
                    trace()
                self.failure = RuntimeError("nothing was compiled; is torch.compile switched off?")
        except (TracedError, _AbandonedError):
            pass
        except BaseException as error:  # noqa: BLE001  # the client goes on without the graph, and says why
            self.failure = error
        finally:
            del trace
            self.done = True
            self._yours.release()

    def _pause(self) -> None:
        if monotonic_us() >= self._turn_ends_us and not self._abandoned:
            with _compiling_stopped():
                self._yours.release()
                self._mine.acquire()
        if self._abandoned:
            raise _AbandonedError


class _Modes:
    """The modes of the thread that makes this, for another to enter: graphs are guarded by them."""

    def __init__(self) -> None:
        self._grad, self._inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self._casts = [
            torch.autocast(
                device, torch.get_autocast_dtype(device), cache_enabled=torch.is_autocast_cache_enabled()
            )
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        ]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with contextlib.ExitStack() as modes:
            modes.enter_context(torch.inference_mode(self._inference))
            modes.enter_context(torch.set_grad_enabled(self._grad))
            for cast in self._casts:
                modes.enter_context(cast)
            yield


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Keeps a turn from changing random numbers. Without the collector of cycles a trace takes a fifth less."""
    numbers, collects = random.getstate(), gc.isenabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    gc.disable()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(numbers)
        if collects:
            gc.enable()


@contextlib.contextmanager
def _compiling_stopped() -> Iterator[None]:
    """As if nothing were compiled: torch 2.13 tells all threads, and lets only one at a time compile."""
    lock = torch._dynamo.convert_frame.compile_lock
    compiling = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = False
    lock.release()
    try:
        yield
    finally:
        lock.acquire()
        torch.compiler._is_compiling_flag = compiling
