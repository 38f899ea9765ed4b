"""A client that has computed and then rests gives back what it has freed, unless the user wants it kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import threading, time
from pathlib import Path
from symbiosis_adapters.connection import rests

def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

rests.LOOK_EVERY_S = 0.05
rests.trim_at_rest()
rests.trim_at_rest()
blocks = [b"x" * (64_000 + size) for size in range(2000)]
last = blocks[-1]
del blocks
kept = anonymous()
worked_s = time.process_time() + 0.5
while time.process_time() < worked_s:
    pass
assert kept - anonymous() < 20_000_000, "trimmed while it computed"
watched = [thread.name for thread in threading.enumerate()].count("symbiosis-rest")
assert watched < 2
deadline = time.monotonic() + (60 if watched else 1)
while kept - anonymous() < 100_000_000 and time.monotonic() < deadline:
    time.sleep(0.01)
print(kept - anonymous())
"""


@pytest.mark.parametrize("keep", ["0", "1"])
def test_a_client_at_rest_is_trimmed(keep: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "SYMBIOSIS_KEEP_HEAP": keep},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (int(done.stdout) > 100_000_000) == (keep == "0")
