"""ZeroMQ beside shared memory keeps the contract."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.testing import NEVER, ChannelConformance, EchoDaemon
from symbiosis_transports.zmq_ipc import TRANSPORT


class TestZmqIpc(ChannelConformance):
    """Every promise of the contract, in threads and in processes."""

    transport = TRANSPORT


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return TRANSPORT.endpoint(f"ipc://{tmp_path}/d.sock")


def test_the_socket_is_for_its_owner_alone(endpoint: str) -> None:
    daemon = EchoDaemon(TRANSPORT, endpoint)
    assert stat.S_IMODE(Path(endpoint.removeprefix("ipc://")).stat().st_mode) == 0o600
    daemon.close()


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
