"""A client takes from who says to be the daemon only memory that nobody can pull away."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from symbiosis_core.errors import DaemonGoneError, RemoteProtocolError, SymbiosisError
from symbiosis_core.ids import Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import Layout
from symbiosis_transports.ports import Transport
from symbiosis_transports.posix_shm import TRANSPORT
from symbiosis_transports.posix_shm.attach import VERSION, Attached, encode
from symbiosis_transports.zmq_ipc import TRANSPORT as ZMQ_IPC
from symbiosis_transports.zmq_rows import messages
from symbiosis_transports.zmq_rows.slots import Slots
from symbiosis_transports.zmq_tcp import TRANSPORT as ZMQ_TCP
from tests.transports.ports import free_pair

LAYOUT = Layout(2, 1 << 14)
SLOTS_BYTES = Slots.arena_bytes(*LAYOUT)
NEVER_OPEN = 999_999_999
"""No process has so many descriptors."""
Liar = Callable[[str], SymbiosisError]


def nothing() -> list[int]:
    return []


def a_pipe() -> list[int]:
    read, write = os.pipe()
    os.close(write)
    return [read]


def a_file() -> list[int]:
    return [os.open(__file__, os.O_RDONLY)]


def a_device() -> list[int]:
    return [os.open("/dev/zero", os.O_RDWR)]


def unsealed() -> list[int]:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SLOTS_BYTES)
    return [fd]


def shrinkable() -> list[int]:
    (fd,) = unsealed()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return [fd]


def truncated() -> list[int]:
    arena, fd = Arena.create(SLOTS_BYTES - 4096)
    arena.close()
    return [fd]


def empty() -> list[int]:
    fd = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return [fd]


def check_refused(tmp_path: Path, layout: Layout, lend: Callable[[], list[int]], because: str) -> None:
    """Who says to be the daemon promises that layout, and lends that; nothing of it stays in this process."""
    endpoint = str(tmp_path / "d.sock.data")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(endpoint)
        door.listen()

        def lie() -> None:
            with door.accept()[0] as caller:
                caller.recv(4096)
                fds = lend()
                socket.send_fds(caller, [encode(Attached(VERSION, layout.slots, layout.slot_bytes))], fds)
                for fd in fds:
                    os.close(fd)

        before = descriptors()
        liar = threading.Thread(target=lie)
        liar.start()
        with pytest.raises(RemoteProtocolError, match=because):
            TRANSPORT.connect(endpoint, Token("good"), 10)
        liar.join(10)
        assert descriptors() <= before  # fewer: of an earlier test's


@pytest.mark.parametrize("lend", [nothing, a_pipe, a_file, a_device, unsealed, shrinkable, truncated, empty])
def test_memory_that_cannot_be_trusted_is_refused_and_nothing_is_kept(
    tmp_path: Path, lend: Callable[[], list[int]]
) -> None:
    check_refused(tmp_path, LAYOUT, lend, r"arena|lent nothing")


WRONG_NUMBERS = [(0, 4096), (-1, 4096), (4097, 1), (1 << 62, 1 << 62), (4, 0), (4, -4096), (4, 1 << 62)]
"""Of slots, and of bytes in each."""


@pytest.mark.parametrize(("slots", "slot_bytes"), [*WRONG_NUMBERS, (4096, 1 << 40)])
def test_more_slots_than_can_be_are_refused_and_nothing_is_kept(
    tmp_path: Path, slots: int, slot_bytes: int
) -> None:
    """The last are as many as a client believes, in memory that is sealed and as large as was said: 4 PiB."""
    layout = Layout(slots, slot_bytes)

    def huge() -> list[int]:
        fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING)
        if 0 < layout.arena_bytes < 1 << 62:
            os.ftruncate(fd, layout.arena_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return [fd]

    check_refused(tmp_path, layout, huge, r"no daemon|cannot be mapped")


@pytest.mark.parametrize(("slots", "slot_bytes"), [*WRONG_NUMBERS, (4096, 1 << 40)])
@pytest.mark.parametrize("over", [ZMQ_IPC, ZMQ_TCP], ids=["zmq_ipc", "zmq_tcp"])
def test_a_zeromq_daemon_with_more_slots_than_can_be_is_none(
    tmp_path: Path, over: Transport, slots: int, slot_bytes: int
) -> None:
    endpoint = over.endpoint(f"tcp://127.0.0.1:{free_pair()}" if over is ZMQ_TCP else f"ipc://{tmp_path}/d.sock")
    fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING)
    if 0 < Slots.arena_bytes(slots, slot_bytes) < 1 << 62:
        os.ftruncate(fd, Slots.arena_bytes(slots, slot_bytes))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        door.bind(endpoint)

        def lie() -> None:
            name, _ = door.recv_multipart()
            opened = messages.Opened(messages.VERSION, slots, slot_bytes, f"/proc/{os.getpid()}/fd/{fd}")
            door.send_multipart([name, messages.encode(opened)])

        before = descriptors()
        liar = threading.Thread(target=lie)
        liar.start()
        with pytest.raises(RemoteProtocolError, match=r"no daemon|cannot be mapped"):
            over.connect(endpoint, Token("good"), 10)
        liar.join(10)
        until(lambda: descriptors() <= before + 1)  # of the ROUTER, a connection that may not be seen to end yet
    os.close(fd)


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Liar]:
    """A ZeroMQ daemon that says where its memory is, and what a client makes of that."""
    endpoint = ZMQ_IPC.endpoint(f"ipc://{tmp_path}/d.sock")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        door.bind(endpoint)

        def say(where: str) -> None:
            name, _ = door.recv_multipart()
            opened = messages.Opened(messages.VERSION, LAYOUT.slots, LAYOUT.slot_bytes, where)
            door.send_multipart([name, messages.encode(opened)])

        def told(where: str) -> SymbiosisError:
            saying = threading.Thread(target=say, args=(where,))
            saying.start()
            with pytest.raises((RemoteProtocolError, DaemonGoneError)) as caught:
                ZMQ_IPC.connect(endpoint, Token("good"), 10)
            saying.join(10)
            return caught.value

        yield told


@pytest.mark.parametrize("lend", [a_pipe, a_file, a_device, unsealed, shrinkable, truncated, empty])
def test_memory_of_a_zeromq_daemon_that_cannot_be_trusted_is_refused(
    liar: Liar, lend: Callable[[], list[int]]
) -> None:
    (fd,) = lend()
    before = descriptors()
    error = liar(f"/proc/{os.getpid()}/fd/{fd}")
    assert descriptors() <= before  # fewer: of an earlier test's
    assert isinstance(error, RemoteProtocolError)
    assert "arena" in str(error)
    os.close(fd)


@pytest.mark.parametrize(
    "where", ["", "{file}", "/proc/self/fd/1", "/proc/1/fd/../mem", "/proc/1/fd/1\n", "/proc/1/root{file}"]
)
def test_what_is_no_descriptor_is_not_even_looked_at(
    liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(os, "open", lambda *what: looked.append(what))
    error = liar(where.format(file=tmp_path / "file"))
    assert isinstance(error, RemoteProtocolError)
    assert "no descriptor of a process" in str(error)
    assert looked == []


def test_a_daemon_whose_memory_has_gone_is_gone(liar: Liar) -> None:
    assert isinstance(liar(f"/proc/{os.getpid()}/fd/{NEVER_OPEN}"), DaemonGoneError)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
