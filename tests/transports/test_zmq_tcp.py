"""Rows over TCP keep the contract, and what is their own: pieces, cables, hostile peers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
import zmq

from symbiosis_core.errors import DaemonGoneError, UsageError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.ports import Call
from symbiosis_transports.testing import ADD_ONE, NEVER, ChannelConformance, EchoDaemon, add_one
from symbiosis_transports.zmq_rows.messages import (
    ANSWER,
    ASK,
    PIECE,
    VERSION,
    Open,
    decode_from_daemon,
    encode,
    pack_call,
    pack_head,
)
from symbiosis_transports.zmq_tcp import TRANSPORT
from symbiosis_transports.zmq_tcp.pieces import PIECE_BYTES
from symbiosis_transports.zmq_tcp.server import MOST_BYTES
from tests.transports.cable import Cable
from tests.transports.hostile import NOISE, hostile
from tests.transports.ports import free_pair


class TestZmqTcp(ChannelConformance):
    """Every promise of the contract, in threads and in processes."""

    transport = TRANSPORT

    def address(self, folder: object) -> str:
        return f"tcp://127.0.0.1:{free_pair()}"


@pytest.mark.long
class TestZmqTcpApart(TestZmqTcp):
    """The same between processes."""

    apart = True


@pytest.fixture
def port() -> int:
    return free_pair()


@pytest.fixture
def daemon(port: int) -> Iterator[EchoDaemon]:
    daemon = EchoDaemon(TRANSPORT, f"tcp://127.0.0.1:{port}", slots=3, slot_bytes=(5 << 19) + 64)
    yield daemon
    daemon.close()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, (5 << 18)])
def test_rows_of_several_pieces_arrive_whole(daemon: EchoDaemon, port: int, size: int) -> None:
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    assert add_one(channel, random.Random(size).randbytes(size), size)
    sent = channel.statistics()
    assert sent.copied_bytes == 2 * size if size else sent.copied_bytes > 0
    channel.close()


def test_a_call_that_does_not_say_how_much_it_carries_carries_the_whole_slot(
    daemon: EchoDaemon, port: int
) -> None:
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    slot = channel.lease_nowait()
    channel.buffer(slot)[:3] = b"abc"
    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 3, 0, 64))
    channel.wait(slot, 10)
    assert bytes(channel.buffer(slot)[64:67]) == b"bcd"
    channel.close()


def test_a_call_whose_rows_leave_the_slot_is_refused_here_and_the_channel_goes_on(
    daemon: EchoDaemon, port: int
) -> None:
    """Nothing of it was sent, so the next call of that slot is the one that the daemon expects."""
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    slot = channel.lease_nowait()
    with pytest.raises(UsageError, match="leave the slot"):
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, SLOT, 64, in_bytes=1, out_bytes=1))
    channel.release(slot)
    for _ in range(channel.slots + 1):
        assert add_one(channel, b"abc", 3)
    assert channel.statistics().requests == channel.slots + 1
    channel.close()


def ask(slot: int = 0, generation: int = 1, *, at: int = 0, call: Call | None = None) -> bytes:
    made = call or Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1)
    return pack_head(ASK, slot, generation, at=at) + pack_call(made)


SLOT = (5 << 19) + 64
BREACHES = {
    "no header": [b"garbage"],
    "an empty message": [b""],
    "an answer": [pack_head(ANSWER, 0, 1)],
    "a slot that is not there": [ask(slot=3), b"x"],
    "a generation that jumps": [ask(generation=2), b"x"],
    "a short call": [ask()[:-1], b"x"],
    "no rows": [ask()],
    "two frames of rows": [ask(), b"x", b"y"],
    "rows behind the slot": [ask(at=SLOT), b"x"],
    "rows far away": [ask(at=(1 << 64) - 1), b"x"],
    "a piece that leaves the slot": [pack_head(PIECE, 0, 1, at=SLOT - 1), b"xy"],
    "an answer behind the slot": [ask(call=Call(ADD_ONE, Direction.FORWARD, 1, 0, SLOT, 0, 1, 1)), b"x"],
    "an answer far away": [ask(call=Call(ADD_ONE, Direction.FORWARD, 1, 0, 64, 0, 1, (1 << 64) - 1)), b"x"],
    "no direction": [ask(call=Call(ADD_ONE, 7, 1, 0, 64, 0, 1, 1)), b"x"],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_ends_that_client_alone(daemon: EchoDaemon, port: int, message: list[bytes]) -> None:
    honest = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    (said,) = hostile(f"tcp://127.0.0.1:{port}", message)
    goodbye = decode_from_daemon(memoryview(said))
    assert isinstance(goodbye, Goodbye)
    assert goodbye.breach
    daemon.wait_until_gone()
    assert add_one(honest, b"abc", 3)
    honest.close()


def test_a_frame_that_is_too_large_ends_that_connection_alone(daemon: EchoDaemon, port: int) -> None:
    honest = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send(encode(Open(VERSION, Token("good"))))
        assert sock.poll(10_000)
        sock.send(b"x" * (MOST_BYTES + 1))
        daemon.wait_until_gone()
    assert add_one(honest, b"abc", 3)
    honest.close()


def test_noise_that_is_not_zeromq_leaves_the_door_open(daemon: EchoDaemon, port: int) -> None:
    for noise in NOISE:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(noise)
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    assert add_one(channel, b"abc", 3)
    channel.close()


def test_a_cut_cable_is_noticed_by_a_waiting_client_and_by_the_daemon(daemon: EchoDaemon, port: int) -> None:
    near = free_pair()
    with Cable(near, port) as cable:
        channel = TRANSPORT.connect(f"tcp://127.0.0.1:{near}", Token("good"), 10)
        slot = channel.lease_nowait()
        channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
        cable.cut()
        with pytest.raises(DaemonGoneError, match="connection broke"):
            channel.wait(slot, 10)
        daemon.wait_until_gone()
        channel.close()


def test_a_cable_that_fell_silent_is_noticed_by_heartbeats(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symbiosis_transports.zmq_tcp.server.HEARTBEAT_MS", 100)
    monkeypatch.setattr("symbiosis_transports.zmq_tcp.client.HEARTBEAT_MS", 100)
    daemon, near = EchoDaemon(TRANSPORT, f"tcp://127.0.0.1:{port}"), free_pair()
    with Cable(near, port) as cable:
        channel = TRANSPORT.connect(f"tcp://127.0.0.1:{near}", Token("good"), 10)
        assert add_one(channel, b"abc", 3)
        cable.fall_silent()
        slot = channel.lease_nowait()
        channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
        with pytest.raises(DaemonGoneError, match="connection broke"):
            channel.wait(slot, 20)
        daemon.wait_until_gone()
        channel.close()
    daemon.close()
