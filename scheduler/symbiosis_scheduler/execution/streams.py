"""Where work is launched: one stream per lane priority, and events that say when it is done.

On a CPU work is done when `launch` returns; what is to be computed beside it goes to a second thread, which the
operating system lets wait for those that are in a hurry. On CUDA a launch only queues: streams are real, those of
urgent lanes have the device's high priority, and the event is asked without blocking. The CUDA path has not been
run on a GPU yet.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Protocol

import torch

from symbiosis_core.errors import SymbiosisError
from symbiosis_core.spared_core import Place, go, spared_core

__all__ = [
    "NICE",
    "CpuStreams",
    "CudaStreams",
    "DeviceLostError",
    "Event",
    "Streams",
    "device_priorities",
    "open_streams",
    "plans_in_flight",
]

NICE: Final = 5
"""By how much less the thread beside weighs: a third of the others, where they compete for a core."""


class DeviceLostError(SymbiosisError):
    """The device failed, and all that was queued on it is lost. The process cannot use it any more.

    Not a `RuntimeError`, as torch's is: one of those fails a plan, this ends the daemon.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"the device is lost: {self.reason}. Start the daemon again"


class Event(Protocol):
    """Tells when what was launched before it is done."""

    rings: bool
    """Whether the loop is woken when it is done. Where not, it must look again and again."""

    def done(self) -> bool:
        """Whether it is done; never blocks.

        Raises:
            DeviceLostError: it never will be.
        """


class Streams(Protocol):
    """The streams of one device."""

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Runs or queues `work` on the stream for a lane of that priority. What `work` raises is raised.

        Raises:
            DeviceLostError: the device can do no work any more.
        """

    def launch_beside(self, work: Callable[[], None]) -> Event:
        """Lets `work` run beside all that is launched, on a CPU. What it raises, the event raises."""

    def close(self) -> None:
        """Ends what the streams have started. Nothing is launched any more."""


class _Done:
    """The event of work that is already done."""

    rings = True

    def done(self) -> bool:
        """True."""
        return True


_DONE = _Done()


class CpuStreams:
    """A CPU has one stream, the calling thread; and beside it, once it is asked for, a thread of less weight."""

    def __init__(self, ring: Callable[[], object] = lambda: None) -> None:
        """`ring` is called, in the other thread, when work beside is done. It may be set until there is some."""
        self.ring = ring
        self._beside: ThreadPoolExecutor | None = None

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Runs `work` now."""
        work()
        return _DONE

    def launch_beside(self, work: Callable[[], None]) -> Event:
        """Queues `work` for the other thread."""
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, "symbiosis-beside", initializer=_give_way)
        future = self._beside.submit(work)
        future.add_done_callback(lambda _: self.ring())
        return _Beside(future)

    def close(self) -> None:
        """Ends the other thread, once its work is done."""
        if self._beside is not None:
            self._beside.shutdown()


def _give_way() -> None:
    """Takes this thread, and those of OpenMP that it will start, off one core, and gives them less weight."""
    if (core := spared_core()) is not None:
        go(Place(core, leave=True))
    with suppress(OSError):
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class _Beside:
    """The event of work in the other thread."""

    rings = True

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether it has ended. What it raised is raised here."""
        if not self._future.done():
            return False
        self._future.result()
        return True


class _CudaEvent:
    """A recorded CUDA event."""

    rings = False  # no event of torch wakes a loop

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def done(self) -> bool:
        """Asks the driver, which also says here what went wrong on the device since."""
        try:
            return bool(self._event.query())
        except RuntimeError as error:
            raise DeviceLostError(str(error)) from error


class CudaStreams:
    """One stream per lane priority; the device's own priorities follow the lanes' order."""

    def __init__(self, device: torch.device, priorities: Sequence[int]) -> None:
        with torch.cuda.device(device):  # the range is that of the current device
            least, greatest = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]  # static, not in the stub
        self._streams = {
            priority: torch.cuda.Stream(device, priority=wanted)
            for priority, wanted in device_priorities(priorities, least, greatest).items()
        }

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Queues `work` on the lane's stream and records an event behind it."""
        stream = self._streams[priority]
        try:
            with torch.cuda.stream(stream):
                work()
                event = torch.cuda.Event()
                event.record(stream)
        except RuntimeError:
            _make_sure_of(stream)
            raise
        return _CudaEvent(event)

    def launch_beside(self, work: Callable[[], None]) -> Event:
        """Is not asked for: a device has its own streams."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to be done."""


def _make_sure_of(stream: torch.cuda.Stream) -> None:
    """Tells a failure of one work, such as a lack of memory, from one of the device, which fails all to come."""
    try:
        stream.synchronize()
    except RuntimeError as error:
        raise DeviceLostError(str(error)) from error


def device_priorities(priorities: Sequence[int], least: int, greatest: int) -> dict[int, int]:
    """Maps lane priorities to a device's, the most urgent lane to `greatest`; what is beyond the range shares
    `least`. CUDA counts down: on most devices `least` is 0 and `greatest` -5."""
    return {priority: min(greatest + rank, least) for rank, priority in enumerate(sorted(set(priorities)))}


def open_streams(
    device: torch.device, priorities: Sequence[int], ring: Callable[[], object] = lambda: None
) -> Streams:
    """Returns the streams of `device` for lanes of these priorities. `ring`: see `CpuStreams`."""
    return CudaStreams(device, priorities) if device.type == "cuda" else CpuStreams(ring)


def plans_in_flight(device: torch.device) -> int:
    """Returns how many plans may be launched and not done.

    A CPU has computed a plan when it is launched. On CUDA it is two: while one is computed the next is queued, so
    that the device need not wait until the loop has published answers and decided. Every further one would only
    be one more that an urgent plan finds before it. Two is reasoned, not measured.
    """
    return 2 if device.type == "cuda" else 1
