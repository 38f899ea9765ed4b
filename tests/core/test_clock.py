"""The clock counts microseconds and never goes back."""

from __future__ import annotations

import time

from symbiosis_core.clock import monotonic_us


def test_the_clock_reads_the_monotonic_clock_in_microseconds() -> None:
    before = time.monotonic_ns()
    now_us = monotonic_us()
    after = time.monotonic_ns()
    assert before // 1000 <= now_us <= after // 1000


def test_the_clock_never_goes_back() -> None:
    readings = [monotonic_us() for _ in range(1000)]
    assert readings == sorted(readings)
