"""A client takes from who says to be the daemon only memory that nobody can pull away."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import Layout
from symbiosis_transports.posix_shm import TRANSPORT
from symbiosis_transports.posix_shm.attach import VERSION, Attached, encode

LAYOUT = Layout(2, 1 << 14)


def nothing() -> list[int]:
    return []


def a_pipe() -> list[int]:
    read, write = os.pipe()
    os.close(write)
    return [read]


def a_file() -> list[int]:
    return [os.open("/dev/zero", os.O_RDWR)]


def unsealed() -> list[int]:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, LAYOUT.arena_bytes)
    return [fd]


def shrinkable() -> list[int]:
    (fd,) = unsealed()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return [fd]


def truncated() -> list[int]:
    arena, fd = Arena.create(LAYOUT.arena_bytes - 4096)
    arena.close()
    return [fd]


def empty() -> list[int]:
    fd = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return [fd]


@pytest.mark.parametrize("lend", [nothing, a_pipe, a_file, unsealed, shrinkable, truncated, empty])
def test_memory_that_cannot_be_trusted_is_refused_and_nothing_is_kept(
    tmp_path: Path, lend: Callable[[], list[int]]
) -> None:
    endpoint = str(tmp_path / "d.sock.data")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(endpoint)
        door.listen()

        def lie() -> None:
            with door.accept()[0] as caller:
                caller.recv(4096)
                fds = lend()
                socket.send_fds(caller, [encode(Attached(VERSION, LAYOUT.slots, LAYOUT.slot_bytes))], fds)
                for fd in fds:
                    os.close(fd)

        before = descriptors()
        liar = threading.Thread(target=lie)
        liar.start()
        with pytest.raises(RemoteProtocolError, match=r"arena|lent nothing"):
            TRANSPORT.connect(endpoint, Token("good"), 10)
        liar.join(10)
        assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
