"""Where work is launched: one stream per lane priority, and events that say when it is done.

On a CPU work is done when `launch` returns. On CUDA a launch only queues: streams are real, those of urgent
lanes have the device's high priority, and the event is asked without blocking. The CUDA path has not been
run on a GPU yet; docs/performance.md says what was measured and where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

__all__ = ["CpuStreams", "CudaStreams", "Event", "Streams", "open_streams"]


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
    """Streams with priorities, made when a lane's priority is first seen."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: dict[int, torch.cuda.Stream] = {}
        self._highest: int | None = None

    def launch(self, priority: int, work: Callable[[], None]) -> Event:
        """Queues `work` on the lane's stream and records an event behind it."""
        stream = self._stream(priority)
        with torch.cuda.stream(stream):
            work()
            event = torch.cuda.Event()
            event.record(stream)
        return _CudaEvent(event)

    def _stream(self, priority: int) -> torch.cuda.Stream:
        stream = self._streams.get(priority)
        if stream is None:
            # CUDA counts down: 0 is normal, negative numbers go first. The most urgent lane gets the head start.
            urgent = self._highest is None or priority <= self._highest
            stream = torch.cuda.Stream(self._device, priority=-1 if urgent else 0)
            self._streams[priority] = stream
            self._highest = min(priority, self._highest) if self._highest is not None else priority
        return stream


def open_streams(device: torch.device) -> Streams:
    """Returns the streams of `device`."""
    return CudaStreams(device) if device.type == "cuda" else CpuStreams()
