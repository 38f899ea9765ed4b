"""Whatever a client writes into shared memory or into a message costs it its channel at most.

What is let through is described by numbers that stay inside its own slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symbiosis_core.config import LimitsConfig
from symbiosis_core.errors import RefusalCode, RemoteProtocolError
from symbiosis_core.ids import ClientId, OpId, SlotIndex
from symbiosis_core.specs import DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.admission import Admission
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import PUBLISHED, Layout
from symbiosis_transports.ports import Arrival, Host
from symbiosis_transports.posix_shm.server import ShmServerChannel
from symbiosis_transports.zmq_rows.door import Caller, Door
from symbiosis_transports.zmq_rows.slots import Slots
from symbiosis_transports.zmq_tcp.server import ZmqTcpServerChannel
from tests.intensity import cases

SLOTS, SLOT_BYTES = 3, 1 << 14
LAYOUT = Layout(SLOTS, SLOT_BYTES)
WIDTH_IN, WIDTH_OUT = 16, 48
OP = OpSpec(OpId(0), OpKind.LINEAR, ("linear",), WIDTH_IN, (WIDTH_OUT,), DType.FLOAT32)
ADMISSION = Admission([OP], LimitsConfig(max_rows=64))
EDGES = [0, 1, 2, 3, 63, 64, 65, 4096, SLOT_BYTES - 64, SLOT_BYTES, SLOT_BYTES + 64, (1 << 31) - 1, 1 << 31]
EDGES += [(1 << 32) - 1, 1 << 63, (1 << 64) - 64, (1 << 64) - 1]
CASE_BYTES, CASES = 96, 4
"""An example is a few cases, and a case is bytes of which numbers are made: drawing each takes too long."""
many = settings(max_examples=cases(5000, 100_000) // CASES, deadline=None, suppress_health_check=list(HealthCheck))
noise = st.binary(min_size=CASES * CASE_BYTES, max_size=CASES * CASE_BYTES)


class Numbers:
    """Makes numbers of bytes: every other one is an edge, where mistakes are made."""

    def __init__(self, source: bytes) -> None:
        self._source = iter(source)

    def number(self, bits: int) -> int:
        """Returns a number of at most so many bits."""
        choice = self._byte()
        if choice % 2:
            return EDGES[choice // 2 % len(EDGES)] % (1 << bits)
        return int.from_bytes(bytes(self._byte() for _ in range(bits // 8)), "little")

    def below(self, end: int) -> int:
        """Returns a number below `end`."""
        return self._byte() % end

    def call(self) -> tuple[int, ...]:
        """Returns op, direction, rows, memo and two offsets; half of the time nearly good ones."""
        if self._byte() % 2:
            return 0, self.below(2), self.below(70), 0, 64 * self.below(256), 64 * self.below(256)
        return *(self.number(32) for _ in range(4)), self.number(64), self.number(64)

    def _byte(self) -> int:
        return next(self._source, 0)


def each(source: bytes) -> Iterator[Numbers]:
    for at in range(0, len(source), CASE_BYTES):
        yield Numbers(source[at : at + CASE_BYTES])


def check(arrivals: list[Arrival]) -> None:
    """What came through is judged without an exception, and what is admitted stays inside the slot."""
    for arrival in arrivals:
        assert 0 <= arrival.slot < SLOTS
        refusal = ADMISSION.refusal(arrival.call, SLOT_BYTES)
        assert refusal is None or isinstance(refusal, RefusalCode)
        if refusal is None:
            call, widths = arrival.call, (WIDTH_IN, WIDTH_OUT)[:: -1 if arrival.call.direction else 1]
            assert 1 <= call.rows <= 64
            for at, width in zip((call.in_offset, call.out_offset), widths, strict=True):
                assert 0 <= at <= at + 4 * width * call.rows <= SLOT_BYTES


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Nobody:
    """A host to whom nothing may happen: all is found out in `take`."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@contextlib.contextmanager
def shm_channel(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[ShmServerChannel, memoryview]]:
    """A daemon's end, and the memory as its client sees it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arena, fd = Arena.create(LAYOUT.arena_bytes)
    client = Arena.attach(fd, LAYOUT.arena_bytes)
    os.close(fd)
    channel = ShmServerChannel(loop, ours, arena, LAYOUT, ClientId(1), cast("Host", Nobody()))
    try:
        yield channel, client.view
    finally:
        channel.close("")
        client.close()
        theirs.close()


@many
@given(source=noise)
def test_words_and_calls_in_shared_memory_may_be_anything(loop: asyncio.AbstractEventLoop, source: bytes) -> None:
    with contextlib.ExitStack() as stack:
        channel, memory = stack.enter_context(shm_channel(loop))
        for numbers in each(source):
            at = LAYOUT.request_word(SlotIndex(numbers.below(SLOTS)))
            words = memory.cast("Q")
            words[at] = numbers.below(4) or numbers.number(64)
            words[PUBLISHED] = numbers.number(64)
            words.release()
            struct.pack_into("<IIIIQQ", memory, 8 * at + 8, *numbers.call())
            try:
                check(arrivals := channel.take())
            except RemoteProtocolError:
                channel, memory = stack.enter_context(shm_channel(loop))
                continue
            for arrival in arrivals:
                channel.answer(arrival.slot, arrival.generation)


class DeadEnd:
    """A door that leads nowhere: what goes out is dropped, and nothing comes in by itself."""

    def send(self, peer: Caller, frames: list[memoryview]) -> bool:
        return True

    def soon(self, callback: Callable[[], None]) -> None:
        pass

    def drain(self) -> None:
        pass

    def pending(self) -> bool:
        return False


def made(numbers: Numbers) -> list[memoryview]:
    """Returns a message: an ASK or a PIECE, or nothing of the kind, with rows or without."""
    kind, generation = (1, 1, 3, 2, 0)[numbers.below(5)], 1 + numbers.below(2) * numbers.below(4)
    head = struct.pack(
        "<IIQQQ", kind, numbers.below(SLOTS + 1), generation, numbers.number(64), numbers.number(64)
    )
    op, direction, rows, memo, in_offset, out_offset = numbers.call()
    sizes = numbers.below(2) and numbers.number(64), numbers.below(2) and numbers.number(64)
    call = struct.pack("<IIIIQQQQ", op, direction, rows, memo, in_offset, out_offset, *sizes)
    header = head if kind == 3 else head + call
    if numbers.below(4) == 0:
        header = header[: numbers.below(len(header))]
    return [memoryview(header), *[memoryview(bytes(numbers.below(200)))] * (1, 1, 0, 2)[numbers.below(4)]]


@many
@given(source=noise)
def test_headers_and_rows_in_messages_may_be_anything(source: bytes) -> None:
    door, peer = cast("Door", DeadEnd()), Caller(b"name", 7, "nowhere", "")

    def opened() -> ZmqTcpServerChannel:
        return ZmqTcpServerChannel(
            door, peer, ClientId(1), Slots.private(SLOTS, SLOT_BYTES), cast("Host", Nobody())
        )

    channel = opened()
    for numbers in each(source):
        try:
            channel.hear(made(numbers))
        except RemoteProtocolError:
            channel.close("")
            channel = opened()
            continue
        check(arrivals := channel.take())
        for arrival in arrivals:
            channel.answer(arrival.slot, arrival.generation)
    channel.close("")
