"""A socket is for its owner: by its mode, and where that was opened to all, by the kernel's word for who comes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from symbiosis_core.errors import DaemonGoneError, RefusalCode, UsageError
from symbiosis_core.ids import Token
from symbiosis_core.wire import Fetch, Status, TensorPart
from symbiosis_transports.claim import AddressClaim
from symbiosis_transports.folder import check_folder
from symbiosis_transports.ports import Grant, Peer, Transport
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import AskedDaemon, EchoDaemon, add_one
from symbiosis_transports.zmq_link import ControlClient, ControlServer
from tests.transports.other_user import NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

ROOT: Final = Path(__file__).parents[2]
SOMEBODY: Final = 1234


@pytest.fixture
def folder() -> Iterator[Path]:
    """Open to all, and in nobody's folder: tests' own are root's alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        yield Path(made)


class Attentive(EchoDaemon):
    """Remembers who came."""

    def __init__(self, carrier: Transport, endpoint: str) -> None:
        self.seen: list[Peer] = []
        super().__init__(carrier, endpoint)

    def redeem(self, token: Token, peer: Peer) -> Grant:
        self.seen.append(peer)
        return super().redeem(token, peer)


def somebody(name: str, endpoint: str, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.transports.other_user", name, endpoint, what]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def came_of(name: str, endpoint: str, what: str = "come") -> str:
    """What another user gets who comes as a client, or asks."""
    said, _ = somebody(name, endpoint, what).communicate()
    return said.rstrip()


@pytest.mark.parametrize("name", ["posix_shm", "zmq_ipc"])
def test_another_user_stays_outside_also_where_the_socket_was_opened_to_all(name: str, folder: Path) -> None:
    carrier = transport(name)
    endpoint = carrier.endpoint(f"ipc://{folder}/d.sock")
    daemon = Attentive(carrier, endpoint)
    if name == "posix_shm":  # of ZeroMQ's nobody is told that it may not, it tries on
        assert came_of(name, endpoint) == "Permission denied"
    assert daemon.seen == []
    Path(endpoint.removeprefix("ipc://")).chmod(0o666)
    assert came_of(name, endpoint) == "bad_token", "the echo's answer to other users"
    assert [peer.uid for peer in daemon.seen] == [NOBODY]
    ours = carrier.connect(endpoint, Token("good"), 20)
    assert add_one(ours, b"abc", 3)
    ours.close()
    daemon.close()


def test_another_user_is_not_answered_also_where_the_control_socket_was_opened_to_all(folder: Path) -> None:
    """Nor may it configure anything. Its word for who it is does not count."""
    folder.chmod(0o755)
    address = f"ipc://{folder}/d.sock"
    served = AskedDaemon(ControlServer, address)
    (folder / "d.sock").chmod(0o666)
    assert came_of("posix_shm", address, "ask") == RefusalCode.PERMISSION
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
    served.close()


def test_a_socket_of_another_user_is_neither_asked_nor_taken_over(folder: Path) -> None:
    folder.chmod(0o1777)
    path = folder / "d.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        os.chown(path, NOBODY, NOBODY)
        for use in (AddressClaim(f"ipc://{path}").take, lambda: ControlClient(f"ipc://{path}")):
            with pytest.raises(UsageError, match=f"belongs to user {NOBODY}"):
                use()


def test_root_asks_the_daemon_of_a_folders_owner_and_does_not_take_its_place(folder: Path) -> None:
    path = folder / "d.sock"
    os.chown(folder, NOBODY, NOBODY)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        os.chown(path, NOBODY, NOBODY)
        folder.chmod(0o755)
        with ControlClient(f"ipc://{path}") as client, pytest.raises(DaemonGoneError, match="nobody listens"):
            client.ask(Status())
        with pytest.raises(UsageError, match=f"belongs to user {NOBODY}"):
            AddressClaim(f"ipc://{path}").take()
        folder.chmod(0o1777)  # in a user namespace anybody may be shown as that owner
        with pytest.raises(UsageError, match=f"belongs to user {NOBODY}"):
            ControlClient(f"ipc://{path}")


@pytest.mark.parametrize(("owner", "fits"), [(NOBODY, True), (SOMEBODY + 1, False)])
def test_a_folder_like_tmp_may_be_the_overflow_users_where_the_socket_is_ours(
    folder: Path, owner: int, fits: bool
) -> None:
    """As /tmp is in a container with a user namespace."""
    folder.chmod(0o1777)
    os.chown(folder, owner, owner)
    os.seteuid(SOMEBODY)
    try:
        for asking in (False, True):
            with contextlib.nullcontext() if fits else pytest.raises(UsageError, match=f"to user {owner}, who"):
                check_folder(folder / "d.sock", asking=asking)
            (folder / "d.sock").touch()
        os.seteuid(0)
        os.chown(folder / "d.sock", NOBODY, NOBODY)
        os.seteuid(SOMEBODY)
        with pytest.raises(UsageError, match=f"d.sock belongs to user {NOBODY}"):
            check_folder(folder / "d.sock", asking=True)
    finally:
        os.seteuid(0)


def test_a_lock_of_another_user_is_not_written_to(folder: Path) -> None:
    folder.chmod(0o700)
    lock = folder / "d.sock.lock"
    lock.write_text("theirs")
    os.chown(lock, NOBODY, NOBODY)
    with pytest.raises(UsageError, match=f"of user {NOBODY}, and is no lock of a daemon of yours"):
        AddressClaim(f"ipc://{folder}/d.sock").take()
    assert lock.read_text() == "theirs"


def test_a_client_has_nothing_to_do_with_another_users_daemon(folder: Path) -> None:
    endpoint = POSIX_SHM.endpoint(f"ipc://{folder}/d.sock")
    with somebody("posix_shm", endpoint, "sit") as impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.readline() == "sits\n"
        with pytest.raises(UsageError, match=f"belongs to user {NOBODY}"):
            POSIX_SHM.connect(endpoint, Token("good"), 20)


@pytest.mark.parametrize("name", ["posix_shm", "zmq_ipc"])
def test_root_goes_in_where_it_may_ask_and_nowhere_else(name: str, folder: Path) -> None:
    """At the daemon of a folder's owner, as in a container into which that folder is mounted."""
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o755)
    carrier = transport(name)
    endpoint = carrier.endpoint(f"ipc://{folder}/d.sock")
    with somebody(name, endpoint, "serve") as theirs:
        assert theirs.stdout is not None
        assert theirs.stdout.readline() == "sits\n"
        channel = carrier.connect(endpoint, Token("good"), 20)
        assert add_one(channel, b"abc", 3)
        channel.close()
        for owner, mode in ((NOBODY, 0o1777), (SOMEBODY, 0o755)):
            os.chown(folder, owner, owner)
            folder.chmod(mode)
            with pytest.raises(UsageError, match=f"belongs to user {NOBODY}"):
                carrier.connect(endpoint, Token("good"), 20)
