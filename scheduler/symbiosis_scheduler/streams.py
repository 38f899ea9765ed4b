"""Where work is launched: one stream per lane priority, and events that say when it is done.

On a CPU work is done when `launch` returns. On CUDA a launch only queues: streams are real, those of urgent
lanes have the device's high priority, and the event is asked without blocking. The CUDA path has not been
run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

__all__ = ["CpuStreams", "CudaStreams", "Event", "Streams", "device_priorities", "open_streams"]


class Event(Protocol):
    """Tells when what was launched before it is done."""

    def done(self) -> bool:
        """Whether it is done; never blocks."""

    def wait(self) -> None:
        """Blocks until it is done."""


class Streams(Protocol):
    """The streams of one device."""

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Runs or queues `work` on the stream for a lane of that priority."""


class _Done:
    """The event of work that is already done."""

    def done(self) -> bool:
        """True."""
        return True

    def wait(self) -> None:
        """Returns at once."""


_DONE = _Done()


class CpuStreams:
    """A CPU has one stream: the calling thread."""

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Runs `work` now."""
        work()
        return _DONE


class _CudaEvent:
    """A recorded CUDA event."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def done(self) -> bool:
        """Asks the driver."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Blocks this thread, not the device."""
        self._event.synchronize()


class CudaStreams:
    """One stream per lane priority; the device's own priorities follow the lanes' order."""

    def __init__(self, device: torch.device, priorities: Sequence[int]) -> None:
        least, greatest = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]  # static, but not in the stub
        self._streams = {
            priority: torch.cuda.Stream(device, priority=wanted)
            for priority, wanted in device_priorities(priorities, least, greatest).items()
        }

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Queues `work` on the lane's stream and records an event behind it."""
        stream = self._streams[priority]
        with torch.cuda.stream(stream):
            work()
            event = torch.cuda.Event()
            event.record(stream)
        return _CudaEvent(event)


def device_priorities(priorities: Sequence[int], least: int, greatest: int) -> dict[int, int]:
    """Maps lane priorities to a device's, the most urgent lane to `greatest`; what is beyond the range shares
    `least`. CUDA counts down: on most devices `least` is 0 and `greatest` -5."""
    return {priority: min(greatest + rank, least) for rank, priority in enumerate(sorted(set(priorities)))}


def open_streams(device: torch.device, priorities: Sequence[int]) -> Streams:
    """Returns the streams of `device` for lanes of these priorities."""
    return CudaStreams(device, priorities) if device.type == "cuda" else CpuStreams()
