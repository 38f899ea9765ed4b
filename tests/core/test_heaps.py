"""Threads that are started after `share_heap` have no heaps of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import threading
from pathlib import Path
from symbiosis_core.heaps import share_heap

def heap_mappings():
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if len(line.split()) == 5]
    return {int(start, 16) for start, _ in spans if int(start, 16) % (64 << 20) == 0}

def allocate(done, go):
    kept = [b"x" * 5000 for _ in range(100)]
    done.wait()
    go.wait()

share_heap()
before = heap_mappings()
done, go = threading.Barrier(5), threading.Event()
threads = [threading.Thread(target=allocate, args=(done, go)) for _ in range(4)]
for thread in threads:
    thread.start()
done.wait()
print(len(heap_mappings() - before))
go.set()
"""


@pytest.mark.parametrize("said", [{}, {"MALLOC_ARENA_MAX": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}])
def test_threads_share_one_heap_unless_the_user_has_said_otherwise(said: dict[str, str]) -> None:
    environment = {
        name: each for name, each in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment | said, check=True, capture_output=True, text=True
    )
    assert (int(done.stdout) > 0) == bool(said)
