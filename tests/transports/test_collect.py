"""The weights' descriptor is handed to who asks at the data socket and may have it, and to nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from symbiosis_core.errors import (
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
)
from symbiosis_core.ids import Token
from symbiosis_core.wire import Refused
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.ports import Peer
from symbiosis_transports.posix_shm import TRANSPORT
from symbiosis_transports.posix_shm.attach import Collect, encode
from symbiosis_transports.posix_shm.collect import collect
from symbiosis_transports.sealed import SealedMemory, check_sealed
from symbiosis_transports.testing import EchoDaemon, add_one


class LendingDaemon(EchoDaemon):
    """Lends one page to its own user."""

    def __init__(self, endpoint: str) -> None:
        self.memory = SealedMemory(4096)
        self.memory.mapping[:4] = b"lent"
        self.memory.seal(4096)
        self.asked: list[tuple[Peer, str]] = []
        super().__init__(TRANSPORT, endpoint)

    def lend(self, peer: Peer, model: str) -> int:
        self.asked.append((peer, model))
        return self.memory.fd


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return TRANSPORT.endpoint(f"ipc://{tmp_path}/d.sock")


@pytest.fixture
def lending(endpoint: str) -> Iterator[LendingDaemon]:
    daemon = LendingDaemon(endpoint)
    yield daemon
    daemon.close()


def test_a_process_of_the_same_user_gets_the_descriptor_and_passes_it_on_to_no_program(
    lending: LendingDaemon, endpoint: str
) -> None:
    fd = collect(endpoint, "tiny", 10)
    check_sealed(fd, 4096)
    assert os.pread(fd, 4, 0) == b"lent"
    assert not os.get_inheritable(fd)
    assert lending.asked == [(Peer(os.getpid(), os.getuid()), "tiny")]  # as the kernel says, and not the client
    os.close(fd)


def test_many_ask_and_the_door_stays_open_for_clients(lending: LendingDaemon, endpoint: str) -> None:
    for _ in range(100):
        os.close(collect(endpoint, "tiny", 10))
    channel = TRANSPORT.connect(endpoint, Token("good"), 10)
    assert add_one(channel, b"\x01" * 64, 64)
    channel.close()


def test_a_daemon_that_lends_nothing_says_so(endpoint: str) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    try:
        with pytest.raises(RefusedError, match="there are no weights here") as caught:
            collect(endpoint, "tiny", 10)
        assert caught.value.code is RefusalCode.NOT_LENT
    finally:
        daemon.close()


def test_nobody_at_the_endpoint_is_said_at_once(endpoint: str) -> None:
    with pytest.raises(DaemonGoneError):
        collect(endpoint, "tiny", 10)


def test_another_version_is_refused(lending: LendingDaemon, endpoint: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(endpoint)
        sock.send(encode(Collect(version=99)))
        datagram, fds, _, _ = socket.recv_fds(sock, 4096, 1)
        assert b"version 99" in datagram
        assert fds == []
    assert lending.asked == []


@pytest.mark.parametrize("answer", [b"", b"garbage", encode(Goodbye("no", False))])
def test_an_answer_without_the_weights_is_an_error_and_leaves_no_descriptor(endpoint: str, answer: bytes) -> None:
    """Whatever travels with it is closed."""
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(endpoint)
        door.listen(1)
        impostor = threading.Thread(target=_answer_once, args=(door, answer))
        impostor.start()
        with pytest.raises((RemoteProtocolError, DaemonGoneError)):
            collect(endpoint, "tiny", 10)
        impostor.join()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def _answer_once(door: socket.socket, answer: bytes) -> None:
    peer, _ = door.accept()
    with peer:
        peer.recv(4096)
        if answer:
            socket.send_fds(peer, [answer], [0])


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A door that nobody opens, and so many before it that there is no room for one more."""
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        door.bind(str(tmp_path / "full"))
        door.listen(1)
        queue: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                queue.append(stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
                queue[-1].setblocking(False)
                queue[-1].connect(str(tmp_path / "full"))
        yield door, queue


def test_a_queue_that_stays_full_is_silence_and_not_absence(
    crowd: tuple[socket.socket, list[socket.socket]], tmp_path: Path
) -> None:
    with pytest.raises(DaemonSilentError):
        collect(str(tmp_path / "full"), "tiny", 0.05)


def test_a_full_queue_is_waited_for(crowd: tuple[socket.socket, list[socket.socket]], tmp_path: Path) -> None:
    door, queue = crowd
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(collect, str(tmp_path / "full"), "tiny", 60)
        for each in queue:
            each.close()
        door.settimeout(60)
        while True:
            sock, _ = door.accept()
            with sock:
                if sock.recv(4096):
                    sock.send(encode(Refused(RefusalCode.PERMISSION, "not today")))
                    break
        with pytest.raises(RefusedError, match="not today"):
            asking.result(60)
