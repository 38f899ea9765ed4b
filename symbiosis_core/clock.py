"""The one place that reads time. Decisions take `now_us` as an argument instead."""

from __future__ import annotations

import time

__all__ = ["monotonic_us"]


def monotonic_us() -> int:
    """Returns microseconds of a clock that never goes back (CLOCK_MONOTONIC)."""
    return time.monotonic_ns() // 1000
