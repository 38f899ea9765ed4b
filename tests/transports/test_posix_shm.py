"""The shared-memory transport keeps the contract, and what is its own: seals, sockets, forks, hostile words."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symbiosis_core.clock import monotonic_us
from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RemoteProtocolError, UsageError
from symbiosis_core.ids import ClientId, OpId, SlotIndex, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.arena import Arena
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.layout import PUBLISHED, Layout, pack_call, unpack_call
from symbiosis_transports.ports import Call
from symbiosis_transports.posix_shm import TRANSPORT, client, server
from symbiosis_transports.posix_shm.attach import encode
from symbiosis_transports.posix_shm.client import ShmClientChannel
from symbiosis_transports.posix_shm.connect import connect as shm_connect
from symbiosis_transports.testing import ADD_ONE, ChannelConformance, EchoDaemon, add_one
from symbiosis_transports.waiting import SPIN_VARIABLE

Connect = Callable[[], ShmClientChannel]


class TestPosixShm(ChannelConformance):
    """Every promise of the contract."""

    transport = TRANSPORT


@pytest.mark.long
class TestPosixShmApart(TestPosixShm):
    """The same between processes."""

    apart = True


@pytest.fixture
def _unordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores may become visible in any order, as on processors other than x86-64."""
    for end in (client, server):
        monkeypatch.setattr(end, "WORDS_ARE_ORDERED", False)


@pytest.mark.usefixtures("_unordered")
class TestUnorderedWords(ChannelConformance):
    """Every promise of the contract by doorbells alone. Another process would find the processor that there is."""

    transport = TRANSPORT
    processes = False


class Woken(EchoDaemon):
    """Only remembers that something came."""

    def __init__(self) -> None:
        self.woken = 0

    def ready(self, channel: object) -> None:
        self.woken += 1


@pytest.fixture
def ends() -> Iterator[tuple[ShmClientChannel, server.ShmServerChannel, Woken]]:
    """Both ends of a channel, in this thread."""
    layout, host, loop = Layout(2, 4096), Woken(), asyncio.new_event_loop()
    arena, fd = Arena.create(layout.arena_bytes)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (near, far):
        sock.setblocking(False)
    theirs = server.ShmServerChannel(loop, far, arena, layout, ClientId(1), host)
    mapped = Arena.attach(fd, layout.arena_bytes)
    ours = ShmClientChannel(near, mapped, layout, "here")
    os.close(fd)
    yield ours, theirs, host
    ours.close()
    theirs.close("")
    loop.close()


CALL = Call(ADD_ONE, Direction.FORWARD, 1, 0, 64)


def test_a_call_that_is_announced_wakes_the_daemon_once_and_is_none_yet(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, host = ends
    monkeypatch.setattr(ours._learned, "lead_us", lambda: 70)
    assert theirs.arm()
    slot = ours.lease_nowait()
    theirs._readable()
    assert host.woken == 1
    assert not theirs.waiting()
    assert theirs.take() == []
    assert [theirs.announced_us(), theirs.announced_us()] == [70, 0]
    theirs.disarm()
    ours.publish(slot, CALL)
    assert theirs.waiting()
    assert theirs.announced_us() == 0
    with pytest.raises(BlockingIOError):
        theirs._sock.recv(1)  # it was awake, so it was not rung again
    (arrival,) = theirs.take()
    theirs.answer(slot, arrival.generation)
    ours.wait(slot, 1)
    ours.release(slot)
    ours.lease_nowait()
    assert theirs.announced_us() == 70
    theirs.close("the end")
    assert theirs.announced_us() == 0


def test_a_client_that_announces_and_does_not_publish_is_heeded_no_more_until_it_does(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each announcement would be a look of up to 0.6 ms, for as long as it likes."""
    ours, theirs, _ = ends
    heeded = []
    for lead_us in range(50, 60):  # each is another word than the one before
        monkeypatch.setattr(ours._learned, "lead_us", lambda lead_us=lead_us: lead_us)
        ours.release(ours.lease_nowait())
        heeded.append(theirs.announced_us())
    assert heeded == [50, 51, 52, 53, 0, 0, 0, 0, 0, 0]
    ours.publish(slot := ours.lease_nowait(), CALL)
    (arrival,) = theirs.take()
    theirs.answer(slot, arrival.generation)
    ours.wait(slot, 1)
    ours.release(slot)
    assert theirs.announced_us() == 0
    ours.lease_nowait()
    assert theirs.announced_us() == 59


def test_an_announcement_to_a_daemon_that_has_gone_is_not_what_says_so(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, _ = ends
    monkeypatch.setattr(ours._learned, "lead_us", lambda: 70)
    assert theirs.arm()
    theirs.close("the end")
    slot = ours.lease_nowait()
    with pytest.raises(DaemonGoneError, match="the end"):
        ours.publish(slot, CALL)


@pytest.mark.usefixtures("_unordered")
def test_unordered_words_are_never_announced_for_every_doorbell_is_a_call(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, _ = ends
    monkeypatch.setattr(ours._learned, "lead_us", lambda: 70)
    assert theirs.arm()
    ours.lease_nowait()
    assert theirs.announced_us() == 0
    with pytest.raises(BlockingIOError):
        theirs._sock.recv(1)


@pytest.mark.usefixtures("_unordered")
def test_unordered_words_of_a_call_are_not_read_before_its_doorbell(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken],
) -> None:
    """Nor is one that was rung for while another is seen that was not; and a daemon may sleep meanwhile."""
    ours, theirs, host = ends
    first, second = ours.lease_nowait(), ours.lease_nowait()
    ours.publish(first, CALL)
    assert not theirs.waiting()
    assert theirs.take() == []
    assert theirs.arm()
    ours.publish(second, CALL)
    theirs._readable()
    assert theirs.take() == []
    assert theirs.arm()
    theirs._readable()
    assert host.woken == 2
    assert theirs.waiting()
    assert not theirs.arm()
    assert sorted(arrival.slot for arrival in theirs.take()) == sorted([first, second])
    assert theirs.arm()


class Interrupted:
    """Words of an arena. Something happens just before the n-th of them is read."""

    def __init__(self, words: memoryview, nth: int, then: Callable[[], None]) -> None:
        self._words = words
        self._left = nth
        self._then = then

    def __getitem__(self, word: int) -> int:
        self._left -= 1
        if self._left == 0:
            self._then()
        return int(self._words[word])


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.usefixtures("_unordered")
def test_unordered_words_of_a_call_that_comes_while_the_daemon_looks_wait_for_its_doorbell(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken], nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both slots' words are looked at twice."""
    ours, theirs, host = ends
    first, second = ours.lease_nowait(), ours.lease_nowait()
    ours.publish(first, CALL)
    theirs._readable()
    words = Interrupted(theirs._words, nth, lambda: ours.publish(second, CALL))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(theirs, "_words", words)
        early = theirs.take()
    assert len(early) <= host.woken == 1
    theirs._readable()
    assert sorted(arrival.slot for arrival in early + theirs.take()) == sorted([first, second])


@pytest.mark.usefixtures("_unordered")
def test_unordered_words_of_an_answer_are_not_read_before_its_doorbell(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken],
) -> None:
    ours, theirs, _ = ends
    slots = [ours.lease_nowait(), ours.lease_nowait()]
    for slot in slots:
        ours.publish(slot, CALL)
        theirs._readable()
    first, second = theirs.take()
    theirs.answer(first.slot, first.generation)
    with pytest.raises(DaemonSilentError):
        ours.wait(first.slot, 0.01)
    theirs.ring()
    theirs.answer(second.slot, second.generation)
    with pytest.raises(DaemonSilentError):
        ours.wait(first.slot, 0.01)
    theirs.ring()
    for slot in slots:
        ours.wait(slot, 10)
    assert theirs.statistics().doorbells == 2


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return TRANSPORT.endpoint(f"ipc://{tmp_path}/d.sock")


@pytest.fixture
def daemon(endpoint: str) -> Iterator[EchoDaemon]:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    yield daemon
    daemon.close()


@pytest.fixture
def connect(endpoint: str) -> Iterator[Connect]:
    """Opens clients and closes them at the end of the test."""
    opened = []

    def open_one() -> ShmClientChannel:
        channel = shm_connect(endpoint, Token("good"), 10)
        opened.append(channel)
        return channel

    yield open_one
    for channel in opened:
        channel.close()


def test_the_socket_is_for_its_owner_alone(daemon: EchoDaemon, endpoint: str) -> None:
    assert stat.S_IMODE(Path(endpoint).stat().st_mode) == 0o600


@pytest.mark.parametrize("spin_us", [0, 5, 10_000])
def test_a_client_counts_its_looks_and_what_they_brought(
    daemon: EchoDaemon, connect: Connect, monkeypatch: pytest.MonkeyPatch, spin_us: int
) -> None:
    monkeypatch.setenv(SPIN_VARIABLE, str(spin_us))
    channel = connect()
    for _ in range(100):
        assert add_one(channel, b"abc", 3)
    found = channel.statistics()
    if spin_us:
        assert found.looks == found.spin_hits + found.sleeps <= found.requests == 100
    else:
        assert found.looks == found.spin_hits == 0


def test_the_arena_cannot_be_resized_by_a_client(daemon: EchoDaemon) -> None:
    before = {link.name for link in Path("/proc/self/fd").iterdir()}
    arena, fd = Arena.create(1 << 16)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 4096)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    finally:
        arena.close()
        os.close(fd)
    assert {link.name for link in Path("/proc/self/fd").iterdir()} == before


def test_unsealed_or_wrongly_sized_memory_is_refused() -> None:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)
    with pytest.raises(RemoteProtocolError, match="not sealed"):
        Arena.attach(fd, 8192)
    os.close(fd)
    arena, fd = Arena.create(8192)
    with pytest.raises(RemoteProtocolError, match="8192 bytes, announced were 4096"):
        Arena.attach(fd, 4096)
    arena.close()
    os.close(fd)


def test_a_call_says_when_it_was_published(
    ends: tuple[ShmClientChannel, server.ShmServerChannel, Woken],
) -> None:
    """By the clock that the daemon has, too: nobody else can tell how long it lay there."""
    ours, theirs, _ = ends
    before_us = monotonic_us()
    ours.publish(ours.lease_nowait(), CALL)
    (arrival,) = theirs.take()
    assert before_us <= arrival.call.asked_us <= monotonic_us()
    assert arrival.call._replace(asked_us=0) == CALL


def test_every_field_of_a_call_comes_over_and_no_direction_that_there_is_not() -> None:
    arena, at = memoryview(bytearray(4096)), Layout(1, 4096).call_at(SlotIndex(0))
    call = Call(OpId(7), Direction.BACKWARD, 3, 64, 128, 9, asked_us=11)
    pack_call(arena, at, call, 11)
    assert unpack_call(arena, at) == call
    assert type(unpack_call(arena, at).direction) is Direction
    pack_call(arena, at, call._replace(direction=2), 11)  # type: ignore[arg-type]  # as a hostile client may
    with pytest.raises(RemoteProtocolError, match="direction 2"):
        unpack_call(arena, at)


def test_a_generation_that_jumps_ends_that_client_alone(daemon: EchoDaemon, connect: Connect) -> None:
    hostile, honest = connect(), connect()
    slot = hostile.lease_nowait()
    hostile._generations[slot] = 41
    hostile.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64))
    with pytest.raises(RemoteProtocolError, match="generation 42"):
        hostile.wait(slot, 10)
    assert add_one(honest, b"abc", 3)


def test_publishing_again_before_the_answer_ends_that_client(daemon: EchoDaemon, connect: Connect) -> None:
    hostile = connect()
    hostile.publish(SlotIndex(3), Call(OpId(2), Direction.FORWARD, 1, 0, 64))
    assert add_one(hostile, b"a", 1), "the daemon has taken both by now"
    hostile.publish(SlotIndex(3), Call(ADD_ONE, Direction.FORWARD, 1, 0, 64))
    with pytest.raises(RemoteProtocolError, match="slot 3 was published"):
        hostile.wait(SlotIndex(3), 10)


def test_last_words_are_heard_though_a_doorbell_was_left_unread(daemon: EchoDaemon, connect: Connect) -> None:
    """The kernel then resets the connection, and tells that first."""
    channel = connect()
    channel._sock.close()
    channel._sock, daemon_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel._sock.send(b"\0")
    daemon_end.send(encode(Goodbye("it was stopped", breach=False)))
    daemon_end.close()
    with pytest.raises(DaemonGoneError, match="it was stopped"):
        channel._hear()


def test_a_direction_that_does_not_exist_ends_that_client(daemon: EchoDaemon, connect: Connect) -> None:
    hostile = connect()
    hostile.publish(SlotIndex(0), Call(ADD_ONE, 7, 1, 0, 64))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="direction 7"):
        hostile.wait(SlotIndex(0), 10)


def test_a_count_without_a_call_is_harmless(daemon: EchoDaemon, connect: Connect) -> None:
    hostile = connect()
    hostile._words[PUBLISHED] = 1 << 63
    hostile._sock.send(b"\0")
    assert add_one(hostile, b"a", 1)


@pytest.mark.parametrize("garbage", [b"\xc1", b"", b"x" * 5000, b"\x82\xa4type\xa6attach"])
def test_garbage_instead_of_a_handshake_is_turned_away(
    daemon: EchoDaemon, endpoint: str, garbage: bytes, connect: Connect
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(endpoint)
        sock.settimeout(10)
        if garbage:
            sock.send(garbage)
        else:
            sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(4096)
        assert answer == b"" or b"refused" in answer
    channel = connect()
    assert add_one(channel, b"abc", 3)


def test_garbage_on_an_attached_socket_ends_that_client(daemon: EchoDaemon, connect: Connect) -> None:
    hostile, honest = connect(), connect()
    hostile._sock.send(b"garbage")
    daemon.wait_until_gone()
    with pytest.raises(RemoteProtocolError, match="doorbells"):
        slot = hostile.lease_nowait()
        hostile.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64))
        hostile.wait(slot, 10)
    assert add_one(honest, b"abc", 3)


def test_a_second_daemon_at_the_same_endpoint_is_refused(
    daemon: EchoDaemon, endpoint: str, connect: Connect
) -> None:
    channel = connect()
    with pytest.raises(UsageError, match="in use by another daemon"):
        EchoDaemon(TRANSPORT, endpoint)
    assert add_one(channel, b"abc", 3)
    assert add_one(connect(), b"abc", 3)


def test_a_stale_socket_is_taken_over(endpoint: str, connect: Connect) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(endpoint)
    dead.close()
    daemon = EchoDaemon(TRANSPORT, endpoint)
    assert add_one(connect(), b"abc", 3)
    daemon.close()
    assert not Path(endpoint).exists()


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot listen at"):
        EchoDaemon(TRANSPORT, str(tmp_path / "missing" / "d.sock.data"))


def test_nothing_is_copied_inside_the_transport(daemon: EchoDaemon, connect: Connect) -> None:
    channel = connect()
    slot = channel.lease_nowait()
    assert channel.buffer(slot).obj is channel._arena.view.obj
    with daemon.changed:
        assert daemon.changed.wait_for(lambda: daemon.channels, 10)
    (server,) = daemon.channels.values()
    server.buffer(slot)[:5] = b"hello"
    assert bytes(channel.buffer(slot)[:5]) == b"hello"
