"""ZeroMQ beside shared memory keeps the contract."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.ports import Call
from symbiosis_transports.testing import ADD_ONE, NEVER, ChannelConformance, EchoDaemon, add_one
from symbiosis_transports.zmq_ipc import TRANSPORT
from symbiosis_transports.zmq_rows.messages import (
    ANSWER,
    ASK,
    PIECE,
    decode_from_daemon,
    pack_call,
    pack_head,
)
from tests.transports.hostile import NOISE, hostile


class TestZmqIpc(ChannelConformance):
    """Every promise of the contract, in threads and in processes."""

    transport = TRANSPORT


@pytest.mark.long
class TestZmqIpcApart(TestZmqIpc):
    """The same between processes."""

    apart = True


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return TRANSPORT.endpoint(f"ipc://{tmp_path}/d.sock")


def test_the_socket_is_for_its_owner_alone(endpoint: str) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    assert stat.S_IMODE(Path(endpoint.removeprefix("ipc://")).stat().st_mode) == 0o600
    daemon.close()


CALL = pack_call(Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
BREACHES = {
    "no header": [b"garbage"],
    "an empty message": [b""],
    "an answer": [pack_head(ANSWER, 0, 1)],
    "a piece, where rows lie in memory": [pack_head(PIECE, 0, 1), b"x"],
    "a slot that is not there": [pack_head(ASK, 4096, 1) + CALL],
    "a generation that jumps": [pack_head(ASK, 0, 2) + CALL],
    "a short call": [pack_head(ASK, 0, 1) + CALL[:-1]],
    "rows, which lie in memory": [pack_head(ASK, 0, 1) + CALL, b"x"],
}


@pytest.mark.parametrize("message", BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_ends_that_client_alone(endpoint: str, message: list[bytes]) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    honest = TRANSPORT.connect(endpoint, Token("good"), 10)
    (said,) = hostile(endpoint, message)
    goodbye = decode_from_daemon(memoryview(said))
    assert isinstance(goodbye, Goodbye)
    assert goodbye.breach
    daemon.wait_until_gone()
    assert add_one(honest, b"abc", 3)
    honest.close()
    daemon.close()


def test_noise_that_is_not_zeromq_leaves_the_door_open(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    for noise in NOISE:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(endpoint.removeprefix("ipc://"))
            sock.sendall(noise)
    channel = TRANSPORT.connect(endpoint, Token("good"), 10)
    assert add_one(channel, b"abc", 3)
    channel.close()
    daemon.close()
    assert not [told for told in caplog.records if told.name == "asyncio"]  # whose loop would have ended a daemon


def test_the_last_words_of_a_daemon_that_stops_are_heard(endpoint: str) -> None:
    """The door closes with its last channel, and what was said through it still arrives."""
    daemon = EchoDaemon(TRANSPORT, endpoint)
    channel = TRANSPORT.connect(endpoint, Token("good"), 10)
    slot = channel.lease_nowait()
    channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64))
    daemon.close()
    with pytest.raises(DaemonGoneError, match="the echo daemon stops"):
        channel.wait(slot, 10)
    channel.close()


def test_both_sides_have_mapped_the_very_same_pages(endpoint: str) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    channel = TRANSPORT.connect(endpoint, Token("good"), 10)
    with daemon.changed:
        assert daemon.changed.wait_for(lambda: daemon.channels, 10)
    (server,) = daemon.channels.values()
    slot = channel.lease_nowait()
    server.buffer(slot)[:5] = b"hello"
    assert bytes(channel.buffer(slot)[:5]) == b"hello"
    assert channel.statistics().copied_bytes == server.statistics().copied_bytes == 0
    channel.close()
    daemon.close()
