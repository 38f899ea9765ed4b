"""Measurements that are cheap to take and bounded in memory: latency quantiles, and what a process takes."""

from __future__ import annotations

import errno
import math
import resource
from bisect import bisect_left
from itertools import accumulate
from operator import add
from pathlib import Path
from typing import Final

from symbiosis_core.errors import UsageError

__all__ = ["LatencyHistogram", "descriptors_left", "pss_bytes"]

_PER_OCTAVE: Final = 8
"""Buckets per doubling: a bucket is 9 % wide, so its middle is at most 4.5 % from any value in it."""
_OCTAVES: Final = 32
"""From 1 us to 71 minutes; what is shorter or longer falls into the first or the last bucket."""
_BUCKETS: Final = _PER_OCTAVE * _OCTAVES + 1


class LatencyHistogram:
    """Quantiles of the recent past, from counts in logarithmic buckets.

    Two windows of `window_us` rotate: values go into the current one, answers come from both. So an answer
    describes at least the last `window_us` and less than twice that, and memory never grows. For one thread.
    """

    def __init__(self, window_us: int = 10_000_000) -> None:
        if window_us < 1:
            raise UsageError(f"a window of {window_us} us holds nothing; use at least 1 us")
        self._window_us = window_us
        self._began_us: int | None = None
        self._current = [0] * _BUCKETS
        self._previous = [0] * _BUCKETS

    def __repr__(self) -> str:
        held = sum(self._current) + sum(self._previous)
        return f"<LatencyHistogram of {held} values in windows of {self._window_us} us>"

    def add(self, us: float, now_us: int) -> None:
        """Counts one latency; what is below a microsecond counts as one."""
        self._rotate(now_us)
        self._current[_bucket(us)] += 1

    def count(self, now_us: int) -> int:
        """How many values the answers describe."""
        self._rotate(now_us)
        return sum(self._current) + sum(self._previous)

    def quantile(self, q: float, now_us: int) -> float:
        """Returns the latency in us that a share `q` of the recent values does not exceed, within 4.5 %.

        0 where there is no recent value.

        Raises:
            UsageError: `q` is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            raise UsageError(f"quantile {q} does not exist; use a share from 0 to 1")
        self._rotate(now_us)
        upto = list(accumulate(map(add, self._current, self._previous)))
        held = upto[-1]
        return _middle_us(bisect_left(upto, max(1, math.ceil(q * held)))) if held else 0.0

    def _rotate(self, now_us: int) -> None:
        if self._began_us is None:
            self._began_us = now_us
        windows = (now_us - self._began_us) // self._window_us
        if windows <= 0:
            return
        self._began_us += windows * self._window_us
        self._previous = self._current if windows == 1 else [0] * _BUCKETS
        self._current = [0] * _BUCKETS


def _bucket(us: float) -> int:
    """Returns the bucket of a latency: 0 up to 1 us, then i from 2 ** ((i - 1) / 8) us up to 2 ** (i / 8)."""
    if not us > 1:
        return 0
    if us >= 1 << _OCTAVES:
        return _BUCKETS - 1
    return min(_BUCKETS - 1, 1 + int(math.log2(us) * _PER_OCTAVE))


def _middle_us(index: int) -> float:
    """Returns the geometric middle of a bucket; for the first, which begins at zero, its end."""
    return 1.0 if index == 0 else 2.0 ** ((index - 0.5) / _PER_OCTAVE)


def pss_bytes(pid: int | None = None) -> int | None:
    """Returns the proportional set size of a process (this one): shared pages are divided among their users.

    None where the kernel does not tell: the process is gone, belongs to someone else, or /proc lacks
    smaps_rollup. The resident set size is no substitute, since it counts every shared page in full. Walks the
    page tables, which takes milliseconds per mapped GB: for status requests, not for the hot path.
    """
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def descriptors_left() -> int | None:
    """Returns how many more files and sockets this process may open; None where the kernel does not tell."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError as error:
        return 0 if error.errno == errno.EMFILE else None  # looking takes one, too
    return None if limit == resource.RLIM_INFINITY else max(0, limit - used)
