"""A wall clock that jumps by two hours a thousand times a second, for real processes.

Nobody may set the machine's clock for a test. So a library is loaded before all others, whose `clock_gettime`,
`gettimeofday` and `time` tell everything in the process a wall time that is an hour ahead in one millisecond and
an hour behind in the next: Python, ZeroMQ, torch. The monotonic clock is the machine's, as where a clock is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

__all__ = ["PRELOAD", "jumping_clock"]

PRELOAD: Final = "LD_PRELOAD"
_SOURCE: Final = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return now.tv_nsec / 1000000 % 2 ? 3600 : -3600; }
int clock_gettime(clockid_t which, struct timespec *told) {
  int failed = syscall(SYS_clock_gettime, which, told);
  if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) told->tv_sec += jump();
  return failed; }
int gettimeofday(struct timeval *told, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  told->tv_sec = now.tv_sec; told->tv_usec = now.tv_nsec / 1000;
  return 0; }
time_t time(time_t *told) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (told) *told = now.tv_sec;
  return now.tv_sec; }
"""
_LOOK: Final = """
import time
end, wall, steady = time.monotonic() + 0.05, [], []
while time.monotonic() < end:
    wall.append(time.time())
    steady.append(time.monotonic())
assert max(wall) - min(wall) > 7000, wall
assert steady == sorted(steady) and steady[-1] - steady[0] < 7000
"""


def jumping_clock(folder: Path) -> str:
    """Returns what `LD_PRELOAD` is to be for processes with such a clock, once one has seen it jump."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = folder / "jumping_clock.c", folder / "jumping_clock.so"
    source.write_text(_SOURCE)
    try:
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    except subprocess.CalledProcessError:
        pytest.skip("the C compiler cannot make such a library")  # no headers, or no shared libraries
    subprocess.run([sys.executable, "-c", _LOOK], env={**os.environ, PRELOAD: str(library)}, check=True)
    return str(library)
