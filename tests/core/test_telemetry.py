"""Quantiles are right within a bucket and describe the recent past; memory is the kernel's own figure."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbiosis_core.errors import UsageError
from symbiosis_core.telemetry import LatencyHistogram, pss_bytes

SECOND_US = 1_000_000
WITHIN = 2 ** (1 / 16) * (1 + 1e-9)
"""Half a bucket of an eighth of an octave."""


def filled(values: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value, now_us=0)
    return histogram


def test_without_values_every_quantile_is_zero() -> None:
    histogram = LatencyHistogram()
    assert histogram.count(0) == 0
    assert [histogram.quantile(q, 0) for q in (0, 0.5, 1)] == [0.0, 0.0, 0.0]


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(1, 4e9), min_size=1, max_size=50), q=st.floats(0, 1))
def test_a_quantile_is_the_value_of_that_rank_within_half_a_bucket(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    measured = filled(values).quantile(q, 0)
    assert exact / WITHIN <= measured <= exact * WITHIN


def test_quantiles_of_a_thousand_values() -> None:
    histogram = filled([float(value) for value in range(1, 1001)])
    assert histogram.count(0) == 1000
    assert histogram.quantile(0.5, 0) == pytest.approx(500, rel=0.045)
    assert histogram.quantile(0.99, 0) == pytest.approx(990, rel=0.045)
    assert histogram.quantile(0, 0) == pytest.approx(1, rel=0.045)


@pytest.mark.parametrize("us", [-5.0, 0.0, 0.3, 1.0, math.nan])
def test_what_is_below_a_microsecond_counts_as_one(us: float) -> None:
    histogram = filled([us])
    assert (histogram.count(0), histogram.quantile(0.5, 0)) == (1, 1.0)


@pytest.mark.parametrize("us", [2.0**32, 1e30, math.inf])
def test_what_is_beyond_the_last_bucket_counts_in_it(us: float) -> None:
    assert filled([us]).quantile(0.5, 0) == pytest.approx(2**32, rel=0.045)


def test_a_value_is_described_for_one_window_at_least_and_for_two_at_most() -> None:
    histogram = LatencyHistogram(window_us=10 * SECOND_US)
    histogram.add(100.0, now_us=0)
    histogram.add(900.0, now_us=19 * SECOND_US)
    assert histogram.count(19 * SECOND_US) == 2
    assert histogram.count(20 * SECOND_US - 1) == 2
    assert histogram.count(20 * SECOND_US) == 1
    assert histogram.quantile(0, 20 * SECOND_US) == pytest.approx(900, rel=0.045)
    assert histogram.count(30 * SECOND_US) == 0


def test_after_a_long_silence_nothing_is_described() -> None:
    histogram = filled([100.0])
    assert histogram.quantile(0.5, 3600 * SECOND_US) == 0.0
    assert histogram.count(3600 * SECOND_US) == 0


def test_the_first_window_begins_with_the_first_reading_of_the_clock() -> None:
    histogram = LatencyHistogram(window_us=10)
    histogram.add(5.0, now_us=1_000_007)
    assert histogram.count(1_000_026) == 1
    assert histogram.count(1_000_027) == 0


def test_a_clock_read_a_little_late_loses_nothing() -> None:
    histogram = LatencyHistogram(window_us=10)
    histogram.add(5.0, now_us=20)
    histogram.add(5.0, now_us=19)
    assert histogram.count(20) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.integers(0, 100)), max_size=50))
def test_the_count_is_that_of_the_last_two_windows(additions: list[tuple[float, int]]) -> None:
    histogram = LatencyHistogram(window_us=10)
    now_us, windows = 0, []
    histogram.count(0)
    for us, later_us in additions:
        now_us += later_us
        histogram.add(us, now_us)
        windows.append(now_us // 10)
        assert histogram.count(now_us) == sum(window >= now_us // 10 - 1 for window in windows)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan, 99])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(UsageError, match="share from 0 to 1"):
        LatencyHistogram().quantile(q, 0)


def test_a_window_has_a_length() -> None:
    with pytest.raises(UsageError, match="at least 1 us"):
        LatencyHistogram(window_us=0)
    assert LatencyHistogram(window_us=1).count(0) == 0


def test_the_repr_tells_what_is_held() -> None:
    assert repr(filled([1.0, 2.0])) == "<LatencyHistogram of 2 values in windows of 10000000 us>"


def test_pss_grows_with_memory_that_is_used() -> None:
    before = pss_bytes()
    assert before is not None
    with mmap.mmap(-1, 64 << 20) as block:  # malloc may have as much left over, in use already
        block.write(b"\1" * len(block))
        after = pss_bytes(os.getpid())
        assert after is not None
        assert after - before > len(block) // 2


def test_a_process_that_is_gone_has_no_pss() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert pss_bytes(process.pid) is None
