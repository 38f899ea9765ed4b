"""What clients have asked for, recorded and fetched piece by piece."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["TakeTrace", "TraceTaken"]


class TakeTrace(msgspec.Struct, frozen=True, tag="take_trace"):
    """Asks for what was recorded since the last time. A recording that nobody asks about ends by itself."""

    recording: Annotated[int, Meta(ge=0)] = 0
    """0: begin one."""
    stop: bool = False
    """Whether this is the last time."""


class TraceTaken(msgspec.Struct, frozen=True, tag="trace_taken"):
    """A piece of a trace."""

    recording: int
    data: bytes
    dropped: int = 0
    """Records that were not fetched in time, since the recording began."""
