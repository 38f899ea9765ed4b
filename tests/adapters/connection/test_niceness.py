"""A process gives up weight at every thread, and its session's weight only where it is nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

NICE: Final = 4
OWN: Final = max(0, os.getpriority(os.PRIO_PROCESS, 0))
"""What the tests' process has: those that it starts begin with it."""
GROUP: Final = Path("/proc/self/autogroup")
SWITCH: Final = Path("/proc/sys/kernel/sched_autogroup_enabled")
GROUPS_COUNT: Final = GROUP.exists() and SWITCH.exists() and SWITCH.read_text().strip() == "1"

SCRIPT = """
import logging, os, subprocess, sys, threading
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
over = threading.Event()
threading.Thread(target=over.wait).start()
from symbiosis_adapters.connection.niceness import give_up_weight  # first: with less weight it takes long
%s
for _ in range(2):
    give_up_weight(%d)
threading.Thread(target=over.wait).start()
print("threads", *[os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")])
if os.path.exists("/proc/self/autogroup"):
    print("group", open("/proc/self/autogroup").read().split()[-1])
over.set()
"""
IN_COMPANY = "other = subprocess.Popen(['sleep', '60'])"


def done(before: str = "", own_session: bool = True, keep: str = "") -> tuple[set[int], int, str]:
    """Returns the niceness of the threads of a process, that of its session's group, and what it logged."""
    script = SCRIPT % (before, NICE) + ("other.kill()\n" if before == IN_COMPANY else "")
    command = [sys.executable, "-c", script]
    if not own_session:
        command = ["sh", "-c", '"$@"; true', "sh", *command]  # the shell leads
    environment = {**os.environ, "SYMBIOSIS_KEEP_NICE": keep}
    ran = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, start_new_session=True, timeout=60
    )
    lines = ran.stdout.splitlines()
    told = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines if ":" not in line}
    assert len(told["threads"]) >= 3, "main, one of before and one of after"
    return set(told["threads"]), told.get("group", [0])[0], "\n".join(line for line in lines if ":" in line)


@pytest.mark.parametrize("keep", ["", "0"])
def test_every_thread_and_the_session_of_its_own_get_it(keep: str) -> None:
    """Those of before, which the kernel takes one by one, and those of after."""
    threads, group, log = done(keep=keep)
    assert threads == {max(OWN, NICE)}
    assert group == (NICE if GROUPS_COUNT else 0)
    assert log.count("gave up weight") == 1, "it is told once"


@pytest.mark.skipif(not GROUPS_COUNT, reason="this kernel does not weigh sessions")
@pytest.mark.parametrize("alone", [True, False])
def test_a_session_with_others_in_it_keeps_its_weight(alone: bool) -> None:
    """A shell that started it, or what it started itself: a daemon, for instance."""
    threads, group, log = done(IN_COMPANY if alone else "", own_session=alone)
    assert threads == {max(OWN, NICE)}
    assert group == 0
    assert ("other processes are in its session" if alone else "does not lead its session") in log
    assert log.count("WARNING") == 1


def test_who_has_given_up_more_keeps_that() -> None:
    before = f"os.setpriority(os.PRIO_PROCESS, 0, {NICE + 1})"
    if GROUPS_COUNT:
        before += f"\nopen('/proc/self/autogroup', 'w').write('{NICE + 2}')"
    threads, group, _ = done(before)
    assert threads == {max(OWN, NICE), max(OWN, NICE + 1)}
    assert group == (NICE + 2 if GROUPS_COUNT else 0)


def test_who_does_not_want_it_keeps_everything() -> None:
    assert done(keep="1") == ({OWN}, 0, "")
