"""The fake device has CUDA's semantics, the traps before all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from symbiosis_transports.cuda.seam import HANDLE_BYTES, CudaError, Pointer, Stream
from symbiosis_transports.cuda_ipc.probe import probe
from symbiosis_transports.fake_cuda import FakeCuda, FakeDevices, MemoryBoard
from symbiosis_transports.fake_cuda.context import POISON

A, B = Stream(1), Stream(2)


@pytest.fixture
def board() -> MemoryBoard:
    return MemoryBoard()


def run(cuda: FakeCuda, seed: int = 0) -> None:
    random = Random(seed)
    while cuda.step(random):
        pass


def orders(seeds: int) -> set[tuple[str, ...]]:
    """The orders in which two streams of two steps each were made."""
    found = set()
    for seed in range(seeds):
        cuda, made = FakeCuda(MemoryBoard()), list[str]()
        for stream, name in ((A, "a1"), (A, "a2"), (B, "b1"), (B, "b2")):
            with cuda.on(stream):
                cuda.launch(partial(made.append, name))
        run(cuda, seed)
        found.add(tuple(made))
    return found


def test_a_stream_keeps_its_order_and_streams_know_nothing_of_each_other() -> None:
    found = orders(100)
    assert all(order.index("a1") < order.index("a2") and order.index("b1") < order.index("b2") for order in found)
    assert len(found) == 6  # every order that is left


def test_a_stream_waits_for_a_record_of_another_process(board: MemoryBoard) -> None:
    for seed in range(20):
        here, there = FakeCuda(board), FakeCuda(board)
        made: list[str] = []
        event = here.create_event()
        opened = there.open_event(here.event_handle(event))
        here.launch(partial(made.append, "first"))
        here.record(event, Stream(0))
        there.wait(Stream(0), opened)
        there.launch(partial(made.append, "second"))
        assert not there.step(Random(seed)), "it waits"
        assert not there.done(opened)
        run(here, seed)
        run(there, seed)
        assert made == ["first", "second"]


def test_a_wait_for_an_event_that_was_not_recorded_yet_waits_for_nothing(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    event = here.create_event()
    opened = there.open_event(here.event_handle(event))
    assert there.done(opened)
    there.wait(Stream(0), opened)
    here.record(event, Stream(0))  # too late: the wait was called before
    assert there.step(Random(0))


def test_a_wait_speaks_of_the_record_before_when_the_next_is_still_to_come(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    event = here.create_event()
    opened = there.open_event(here.event_handle(event))
    here.record(event, Stream(0))
    run(here)
    there.wait(Stream(0), opened)
    here.record(event, Stream(0))
    assert there.step(Random(0))
    assert not there.done(opened)


def test_nobody_opens_what_it_made(board: MemoryBoard) -> None:
    cuda = FakeCuda(board)
    with pytest.raises(CudaError, match=r"invalid device context \(201\)"):
        cuda.open_memory(cuda.memory_handle(cuda.allocate(64)))
    with pytest.raises(CudaError, match=r"invalid device context \(201\)"):
        cuda.open_event(cuda.event_handle(cuda.create_event()))


def test_both_sides_see_the_very_same_memory(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    mine = here.allocate(64)
    handle = here.memory_handle(mine)
    assert len(handle) == HANDLE_BYTES
    theirs = there.open_memory(handle)
    here.poke(mine, 8, b"hello")
    assert there.peek(theirs, 8, 5) == b"hello"


def test_freed_memory_is_poisoned_and_its_handle_opens_nothing(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    mine = here.allocate(4)
    handle = here.memory_handle(mine)
    theirs = there.open_memory(handle)
    there.launch(lambda: None, theirs)
    here.free(mine)
    assert there.peek(theirs, 0, 4) == bytes([POISON]) * 4
    run(there)
    assert there.faults == [f"work touches {handle.rstrip(bytes(1)).decode()}, freed"]
    with pytest.raises(CudaError):
        FakeCuda(board).open_memory(handle)
    with pytest.raises(CudaError):
        here.free(mine)


def test_what_was_opened_is_closed_and_not_freed(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    mine = here.allocate(4)
    theirs = there.open_memory(here.memory_handle(mine))
    with pytest.raises(CudaError):
        there.free(theirs)
    with pytest.raises(CudaError):
        here.close_memory(mine)
    there.close_memory(theirs)
    with pytest.raises(CudaError):
        there.peek(theirs, 0, 1)


def test_an_event_whose_maker_has_destroyed_it_cannot_be_opened(board: MemoryBoard) -> None:
    here, there = FakeCuda(board), FakeCuda(board)
    event = here.create_event()
    handle = here.event_handle(event)
    here.destroy_event(event)
    with pytest.raises(CudaError, match="invalid argument"):
        there.open_event(handle)


def test_using_an_event_whose_maker_has_destroyed_it_is_a_fault(board: MemoryBoard) -> None:
    """CUDA does not say what comes of it."""
    here, there = FakeCuda(board), FakeCuda(board)
    event = here.create_event()
    opened = there.open_event(here.event_handle(event))
    here.destroy_event(event)
    assert not there.faults
    uses: list[Callable[[], object]] = [
        partial(there.done, opened),
        partial(there.wait, A, opened),
        partial(there.record, opened, A),
    ]
    for made, use in enumerate(uses, start=1):
        use()
        assert len(there.faults) == made
    with pytest.raises(CudaError, match=r"invalid resource handle \(400\)"):
        here.done(event)


@pytest.mark.parametrize("handle", [b"", b"x" * 63, bytes(64), b"../../etc/passwd".ljust(64, b"\0")])
def test_a_handle_that_is_none_opens_nothing(handle: bytes, board: MemoryBoard) -> None:
    with pytest.raises(CudaError):
        FakeCuda(board).open_memory(handle)
    with pytest.raises(CudaError):
        FakeCuda(board).open_event(handle)


def test_what_a_process_had_queued_dies_with_it_and_its_events_may_say_anything(board: MemoryBoard) -> None:
    said = set()
    for seed in range(20):
        here, there = FakeCuda(board), FakeCuda(board)
        made: list[int] = []
        event = here.create_event()
        opened = there.open_event(here.event_handle(event))
        here.launch(partial(made.append, 1))
        here.record(event, Stream(0))
        here.die(Random(seed))
        run(here)
        assert not made
        said.add(there.done(opened))
    assert said == {True, False}


def test_memory_and_events_are_shared_between_real_processes(tmp_path: Path) -> None:
    """The probe: a child opens both by their handles, waits, reads, and writes."""
    devices = FakeDevices(tmp_path)
    assert pickle.loads(pickle.dumps(devices)).uuids() == devices.uuids()
    assert probe(devices, devices.uuids()[0]) == ""


def test_a_probe_says_what_does_not_work(tmp_path: Path) -> None:
    assert probe(_Deaf(tmp_path), f"fake-{tmp_path}") == "what another process wrote is not seen here"
    assert "sees no GPU" in probe(FakeDevices(tmp_path), "another")


class _Deaf(FakeDevices):
    """A device on which the process that made this does not see what others write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._deaf = os.getpid()

    def open(self, uuid: str) -> FakeCuda:
        cuda = super().open(uuid)
        if os.getpid() == self._deaf:
            cuda.peek = lambda pointer, at, nbytes: bytes(nbytes)  # type: ignore[method-assign]
        return cuda


def test_memory_has_an_address_of_its_own(board: MemoryBoard) -> None:
    cuda = FakeCuda(board)
    assert len({cuda.allocate(1 << 20), cuda.allocate(1), Pointer(0)}) == 3
