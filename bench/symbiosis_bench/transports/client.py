"""A client as a process: measures round trips through whatever it is told.

    python -m symbiosis_bench.transports.client --number 0 --slot-bytes 8388608

Between two orders it waits in a queue without looking at anything. It has one connection to each contender, and
opens it anew where it shall wait in another way or run on other cores: what it had learned was of those.
"""

from __future__ import annotations

import argparse
import queue
import time
from typing import Final

from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter
from symbiosis_bench.transports.contenders import ChannelContender, Contender, MemoryFloor
from symbiosis_bench.transports.doorbell import Doorbell
from symbiosis_bench.transports.inside import InprocContender
from symbiosis_bench.transports.marks import Marks, payload_of
from symbiosis_bench.transports.messages import Looked, Measure, Measured, Ready, Trip, read_client_order
from symbiosis_bench.transports.placement import pinned
from symbiosis_bench.transports.raw_zmq import RawZmq
from symbiosis_bench.transports.service import ALIGNMENT
from symbiosis_bench.transports.work import INVERT, LINEAR, Asked, asked, expected
from symbiosis_bench.transports.yardsticks import INPROC, MEMORY_FLOOR, RAW_ZMQ, RAW_ZMQ_SHM, WAKE_FLOORS

__all__ = ["main"]

_WARM_UP: Final = 5
_LEAST: Final = 3
"""Calls that are made however long they take."""


def main() -> None:
    """Serves orders until standard input ends."""
    reporter = Reporter()
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listen(orders.put)
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--slot-bytes", type=int, required=True)
    given = parser.parse_args()
    connections = _Connections(given.number, given.slot_bytes)
    reporter.tell(Ready())
    while True:
        order = read_client_order.decode(orders.get())
        series = _Series(connections.to(order), order, given.number)
        with pinned(order.cores):
            told = series.measure(order) if isinstance(order, Measure) else Looked(series.look())
        reporter.tell(told)


class _Connections:
    """One to each contender."""

    def __init__(self, number: int, slot_bytes: int) -> None:
        self._number = number
        self._slot_bytes = slot_bytes
        self._open: dict[str, tuple[tuple[str, tuple[int, ...]], Contender]] = {}

    def to(self, order: Trip) -> Contender:
        """Returns the one that was opened for such orders. It is opened before this process is pinned."""
        conditions = order.spin, order.cores
        before, contender = self._open.get(order.contender, (None, None))
        if contender is None or before != conditions:
            if contender is not None:
                contender.close()
            contender = _open(order, self._number, self._slot_bytes)
            self._open[order.contender] = conditions, contender
        return contender


def _open(order: Trip, number: int, slot_bytes: int) -> Contender:
    kind = order.contender
    if kind == MEMORY_FLOOR:
        return MemoryFloor(2 * slot_bytes)
    if kind in (RAW_ZMQ, RAW_ZMQ_SHM):
        return RawZmq(order.endpoint, slot_bytes, number, shared=kind == RAW_ZMQ_SHM)
    if kind in WAKE_FLOORS:
        return Doorbell(order.endpoint)
    if kind == INPROC:
        return InprocContender(order.endpoint, order.spin, 2 * slot_bytes + ALIGNMENT)
    return ChannelContender(kind, order.endpoint, order.spin)


class _Series:
    """What all calls of a series have in common."""

    def __init__(self, contender: Contender, order: Trip, number: int) -> None:
        self._contender = contender
        self._ask = asked(order.compute)
        self._payload = payload_of(order.size_bytes, number)
        self._answer = memoryview(bytearray(order.size_bytes))
        self._marks = Marks(self._ask, self._payload)
        self._marked = order.contender not in WAKE_FLOORS

    def look(self) -> int:
        """Warms up, and returns how many answers were wrong when every byte of them was looked at."""
        for call in range(_WARM_UP):
            self._marks.put(call)
            self._contender.exchange(self._ask, self._payload, self._answer)
        wrong = 0
        for look in [Asked(INVERT), *([self._ask] if self._ask.op == LINEAR else [])] if self._marked else []:
            self._contender.exchange(look, self._payload, self._answer)
            wrong += not expected(look.op, bytes(self._payload), bytes(self._answer))
        return wrong

    def measure(self, order: Measure) -> Measured:
        """Makes the calls, each of which is marked, and its answer looked at, outside of what is timed."""
        contender, ask, payload, answer, marks = (
            self._contender,
            self._ask,
            self._payload,
            self._answer,
            self._marks,
        )
        before, clock, wrong, laps = contender.statistics(), time.perf_counter_ns, 0, []
        begin_s = time.monotonic()
        stop_s = begin_s + order.round_s
        for call in range(order.calls):
            marks.put(call)
            begin = clock()
            contender.exchange(ask, payload, answer)
            laps.append(clock() - begin)
            wrong += self._marked and not marks.found(call, answer)
            if call >= _LEAST and time.monotonic() > stop_s:
                break
        end_s, after = time.monotonic(), contender.statistics()
        return Measured(
            laps_ns=tuple(laps),
            begin_s=begin_s,
            end_s=end_s,
            wrong=wrong,
            doorbells=after.doorbells - before.doorbells,
            sleeps=after.sleeps - before.sleeps,
            spin_hits=after.spin_hits - before.spin_hits,
            copied_bytes=after.copied_bytes - before.copied_bytes,
            place=contender.place(),
        )


if __name__ == "__main__":
    main()
