"""A process rests when it has not computed for a while, and then what it freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

from symbiosis_core.resting import Resting


class Cpu:
    """Processor time that is told what to be."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def looks(resting: Resting, cpu: Cpu, *used_s: float) -> list[bool]:
    """Looks after each of these processor times has been used."""
    seen = []
    for each in used_s:
        cpu.s += each
        seen.append(resting.look())
    return seen


def test_who_computes_does_not_rest() -> None:
    cpu = Cpu()
    assert looks(Resting(cpu), cpu, 2.0, 1.0, 0.2, 0.11) == [False] * 4


def test_who_has_computed_rests_once() -> None:
    cpu = Cpu()
    resting = Resting(cpu)
    assert looks(resting, cpu, 2.0, 0.0, 0.0, 0.0) == [False, True, False, False]
    assert looks(resting, cpu, 1.0, 0.01, 0.01) == [False, True, False]


def test_what_was_computed_before_it_was_watched_counts_nothing() -> None:
    cpu = Cpu()
    assert looks(Resting(cpu), cpu, 0.0, 0.0) == [False, False]


def test_little_now_and_then_is_rest_but_is_worth_nothing_until_it_has_added_up() -> None:
    cpu = Cpu()
    seen = looks(Resting(cpu), cpu, *[0.02] * 40)
    assert 1 <= sum(seen) <= 8
    assert not any(seen[:4])


HEAP = """
import sys
from pathlib import Path
from symbiosis_core.heaps import trim_heap
def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024
blocks = [b"x" * (64_000 + size) for size in range(2000)]
held = anonymous()
last = blocks[-1]  # glibc gives back by itself what is free at the heap's end
del blocks
kept = anonymous()
trim_heap()
print(held, kept, anonymous())
"""


def test_trimming_gives_back_what_glibc_keeps() -> None:
    done = subprocess.run([sys.executable, "-c", HEAP], check=True, capture_output=True, text=True)
    held, kept, left = map(int, done.stdout.split())
    assert held - kept < 20_000_000
    assert kept - left > 100_000_000
