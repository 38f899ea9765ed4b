"""OpenMP's threads end when they are let go, or sleep soon; and it is told how long they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from symbiosis_core.openmp import GOMP_SPINCOUNT, bound_openmp, waiting_told

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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_thread_lets_its_team_go_and_gets_another() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


SLEEPING = """
import os, sys, time, torch
from symbiosis_core.openmp import sleep_soon
torch.set_num_threads(len(os.sched_getaffinity(0)))
x = torch.ones(1 << 20)
def burned():
    x.exp()
    start = time.process_time()
    time.sleep(0.05)
    return time.process_time() - start
def usually():
    return sorted(burned() for _ in range(9))[4]
burned()
before, tasks = usually(), len(os.listdir("/proc/self/task"))
sleep_soon()
deadline = time.monotonic() + 60
while len(os.listdir("/proc/self/task")) < tasks + 2:
    assert time.monotonic() < deadline
    time.sleep(0.001)
print(before, usually())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("said", ["", "20000000"])
def test_threads_that_were_there_before_sleep_soon_unless_the_user_has_said_how_they_wait(said: str) -> None:
    environment = {
        name: each for name, each in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    if said:
        code = SLEEPING.replace("while len", "while False and len")
        environment["GOMP_SPINCOUNT"] = said
    else:
        code = SLEEPING
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    before, after = map(float, done.stdout.split())
    assert (after < before / 4) != bool(said), (before, after)


def test_the_bound_is_told_and_the_users_word_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert waiting_told() == ""
    bound_openmp()
    assert waiting_told() == f"GOMP_SPINCOUNT={GOMP_SPINCOUNT}"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert waiting_told() == "OMP_WAIT_POLICY=passive"
