"""A daemon that rests gives back the memory that its C library keeps."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, contextlib, itertools
from pathlib import Path
from symbiosis_core.resting import Resting
from symbiosis_scheduler.trimming import Trimming

def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

async def main(cpu_s, looks):
    blocks = [b"x" * (64_000 + size) for size in range(2000)]
    last = blocks[-1]
    del blocks
    before = anonymous()
    seen = 0
    def cpu():
        nonlocal seen
        seen += 1
        return cpu_s(seen)
    service = Trimming(Resting(cpu), 0.001)
    await service.start()
    running = asyncio.create_task(service.run())
    while seen <= looks:
        await asyncio.sleep(0.001)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await service.stop()
    return before - anonymous()

busy = asyncio.run(main(lambda seen: seen, 10))
rested = asyncio.run(main(lambda seen: min(seen, 3), 10))
print(busy, rested)
"""


def test_the_service_trims_where_the_process_rests_and_not_where_it_computes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    busy, rested = map(int, done.stdout.split())
    assert busy < 20_000_000
    assert rested > 100_000_000
