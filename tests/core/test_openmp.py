"""OpenMP's threads end when they are let go, and are made anew by the next parallel operation."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")

SCRIPT = """
import os, time, torch
from symbiosis_core.openmp import let_team_go
torch.set_num_threads(2)
x = torch.ones(1 << 20)
def threads():
    return len(os.listdir("/proc/self/task"))
def until(count):
    deadline = time.monotonic() + 60
    while threads() != count:
        assert time.monotonic() < deadline, threads()
        time.sleep(0.001)
for _ in range(3):
    x.exp()
    together = threads()
    let_team_go()
    until(together - 1)
    let_team_go()
    x.exp()
    assert threads() == together
"""


def test_a_thread_lets_its_team_go_and_gets_another() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
