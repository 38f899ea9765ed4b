"""The control link: one answer per request, an address that has one owner, and typed errors for the rest."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from symbiosis_core.errors import (
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    UsageError,
)
from symbiosis_core.wire import (
    Fetch,
    Refused,
    Reply,
    Status,
    TensorPart,
    decode_reply,
    encode,
    header,
)
from symbiosis_transports.ports import Answer
from symbiosis_transports.testing import AskedDaemon, LinkConformance
from symbiosis_transports.testing.asked import answer
from symbiosis_transports.zmq_link import ControlClient, ControlServer
from tests.transports.hostile import NOISE
from tests.transports.ports import free_pair


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s.sock"


@pytest.fixture
def served(address: str) -> Iterator[AskedDaemon]:
    served = AskedDaemon(ControlServer, address)
    yield served
    served.close()


def send_raw(address: str, frames: list[bytes]) -> Reply:
    """What the daemon says to frames that no client of ours would send."""
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.connect(address)
    try:
        sock.send_multipart(frames)
        assert sock.poll(10_000), "no answer"
        return decode_reply(sock.recv_multipart())
    finally:
        sock.close()
        context.term()


class TestZmqLink(LinkConformance):
    """Every promise of the contract, over a socket of this host."""

    def server(self, address: str, answer: Answer) -> ControlServer:
        return ControlServer(address, answer)

    def link(self, address: str, timeout_s: float = 20.0) -> ControlClient:
        return ControlClient(address, timeout_s)

    def shout(self, address: str, frames: list[bytes]) -> Reply:
        return send_raw(address, frames)


class TestZmqLinkOverTcp(TestZmqLink):
    """The same over a network."""

    def address(self, folder: object) -> str:
        return f"tcp://127.0.0.1:{free_pair()}"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([header(99), b""], RefusalCode.VERSION),
        ([header(), b"\xc1"], RefusalCode.MALFORMED),
        (encode(Refused(RefusalCode.QUOTA, "a reply")), RefusalCode.MALFORMED),
    ],
)
def test_what_is_nearly_a_request_is_refused_by_its_own_code(
    served: AskedDaemon, address: str, frames: list[bytes], code: RefusalCode
) -> None:
    reply = send_raw(address, frames)
    assert isinstance(reply, Refused)
    assert reply.code is code
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)


@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_noise_that_is_not_zeromq_leaves_the_link_open(tmp_path: Path, over: str) -> None:
    port = free_pair()
    address = f"ipc://{tmp_path}/s.sock" if over == "ipc" else f"tcp://127.0.0.1:{port}"
    served = AskedDaemon(ControlServer, address)
    for noise in NOISE:
        with socket.socket(socket.AF_UNIX if over == "ipc" else socket.AF_INET) as sock:
            sock.connect(f"{tmp_path}/s.sock" if over == "ipc" else ("127.0.0.1", port))
            sock.sendall(noise)
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
    served.close()


def test_a_client_asks_no_socket_that_anybody_could_have_put_there(served: AskedDaemon, address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match="chmod o-w"):
        ControlClient(address)
    path.parent.chmod(0o700)
    ControlClient(address).close()


def test_a_stale_socket_is_taken_over_and_the_new_one_is_private(address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    path.write_text("stale")
    served = AskedDaemon(ControlServer, address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
    served.close()
    assert not path.exists()


def test_the_socket_is_private_from_its_first_moment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a chmod that somebody could be quicker than."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    served = AskedDaemon(ControlServer, address)
    assert stat.S_IMODE(Path(address.removeprefix("ipc://")).stat().st_mode) & 0o077 == 0
    served.close()


def test_no_daemon_is_said_at_once(address: str) -> None:
    with pytest.raises(DaemonGoneError, match="no such socket"):
        ControlClient(address)


def test_a_folder_that_has_just_vanished_is_a_daemon_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was seen there a moment ago."""
    monkeypatch.setattr(Path, "exists", lambda _: True)
    with pytest.raises(DaemonGoneError, match="no such socket"):
        ControlClient(f"ipc://{tmp_path}/gone/d.sock")


def test_a_dead_daemons_socket_is_told_from_a_silent_one(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    with (
        ControlClient(f"ipc://{path}", timeout_s=10) as client,
        pytest.raises(DaemonGoneError, match="nobody listens"),
    ):
        client.ask(Status())
    dead.listen()
    with ControlClient(f"ipc://{path}", timeout_s=0.2) as client, pytest.raises(DaemonSilentError):
        client.ask(Status())
    dead.close()


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot listen at"):
        ControlServer(f"ipc://{tmp_path}/file/s.sock", answer).open()


@pytest.mark.parametrize("text", ["tcp://host", "embedded:smollm2", "/tmp/x", "ipc://relative"])
def test_what_is_no_running_daemon_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        ControlClient(text)
