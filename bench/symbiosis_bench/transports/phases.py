"""Where the time of one large call goes: copy in, trip and copy out, under conditions that each change one thing.

    python -m symbiosis_bench.transports.phases [ROUNDS]

Wants two idle cores. The conditions take turns; what is printed are medians in microseconds.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Final

import uvloop

from symbiosis_bench.transports.service import Service
from symbiosis_bench.transports.work import STAMP, Asked, carry_out
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.posix_shm import TRANSPORT
from symbiosis_transports.waiting import SPIN_VARIABLE, Watch

BYTES: Final = 4 << 20
CALLS, WARM_UP = 25, 5
USUAL_US, LONG_US = 20, 2000
PAYLOAD: Final = memoryview(bytearray(os.urandom(BYTES)))
ANSWER: Final = memoryview(bytearray(BYTES))
Phases = tuple[int, int, int]
Once = Callable[[], Phases]
SPAWN: Final = multiprocessing.get_context("spawn")


def floor(between: Callable[[], object] = lambda: None) -> Once:
    """The copies and the work in one process, and something between the copies."""
    fd = os.memfd_create("floor")
    os.ftruncate(fd, BYTES)
    memory, clock = memoryview(mmap.mmap(fd, BYTES)), time.perf_counter_ns
    os.close(fd)

    def once() -> Phases:
        begin = clock()
        memory[:] = PAYLOAD
        written = clock()
        carry_out([(*Asked(STAMP), memory, memory)])
        between()
        answered = clock()
        ANSWER[:] = memory
        return written - begin, answered - written, clock() - answered

    return once


def shared(folder: str, name: str, core: int | None, *, client_us: int, server_us: int) -> Once:
    """A call through `posix_shm` to a server on that core, and how long each side spins."""
    ready, endpoint = SPAWN.Event(), f"{folder}/{name}.data"
    SPAWN.Process(target=_serve, args=(endpoint, core, server_us, ready), daemon=True).start()
    ready.wait()
    os.environ[SPIN_VARIABLE] = str(client_us)
    channel, clock = TRANSPORT.connect(endpoint, Token("any"), 10), time.perf_counter_ns
    call = Call(STAMP, Direction.FORWARD, BYTES, 0, 0, in_bytes=BYTES, out_bytes=BYTES)

    def once() -> Phases:
        slot = channel.lease_nowait()
        rows = channel.buffer(slot)
        begin = clock()
        rows[:BYTES] = PAYLOAD
        written = clock()
        channel.publish(slot, call)
        channel.wait(slot, 10)
        answered = clock()
        ANSWER[:] = rows[:BYTES]
        end = clock()
        channel.release(slot)
        return written - begin, answered - written, end - answered

    return once


def _serve(endpoint: str, core: int | None, spin_us: int, ready: Event) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    loop = uvloop.new_event_loop()
    service = Service(loop, BYTES)
    service.watch = Watch(spin_us, learns=False)
    TRANSPORT.listen(loop, endpoint, service)
    loop.call_soon(ready.set)
    loop.run_forever()


def _keep_busy(core: int, wanted: Event) -> None:
    os.sched_setaffinity(0, {core})
    while wanted.wait():
        pass


@contextmanager
def neighbour(wanted: Event | None) -> Iterator[None]:
    """Somebody who loops on the other core, where that is wanted."""
    if wanted is not None:
        wanted.set()
    yield
    if wanted is not None:
        wanted.clear()


def _look_at_the_clock() -> None:
    end = time.perf_counter_ns() + 100_000
    while time.perf_counter_ns() < end:
        pass


def main() -> None:
    """Measures and prints."""
    mine, other = sorted(os.sched_getaffinity(0))[:2]
    looping = SPAWN.Event()
    SPAWN.Process(target=_keep_busy, args=(other, looping), daemon=True).start()
    usual, long = USUAL_US, LONG_US
    with tempfile.TemporaryDirectory() as folder:
        conditions: dict[str, tuple[Once, Event | None]] = {
            "floor": (floor(), None),
            "floor, a neighbour loops": (floor(), looping),
            "floor, sleep between": (floor(lambda: time.sleep(50e-6)), None),
            "floor, looks at the clock between": (floor(_look_at_the_clock), None),
            "one core": (shared(folder, "one", mine, client_us=usual, server_us=usual), None),
            "two cores": (shared(folder, "two", other, client_us=usual, server_us=usual), None),
            "two cores, both spin": (shared(folder, "both", other, client_us=long, server_us=long), None),
            "two cores, the server spins": (shared(folder, "it", other, client_us=usual, server_us=long), None),
            "two cores, the client spins": (shared(folder, "we", other, client_us=long, server_us=usual), None),
        }
        os.sched_setaffinity(0, {mine})
        seen: dict[str, list[Phases]] = {name: [] for name in conditions}
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
            for name, (once, wanted) in conditions.items():
                with neighbour(wanted):
                    seen[name] += [once() for _ in range(CALLS)][WARM_UP:]
                time.sleep(0.02)  # whoever spins has stopped
    for name, laps in seen.items():
        into, trip, out = (statistics.median(phase) / 1000 for phase in zip(*laps, strict=True))
        whole = statistics.median(map(sum, laps)) / 1000
        print(f"{name:36} in {into:6.0f}  trip {trip:6.0f}  out {out:6.0f}  all {whole:6.0f}")


if __name__ == "__main__":
    main()
