"""The control link: one answer per request, an address that has one owner, and typed errors for the rest."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from symbiosis_core.errors import (
    BusyError,
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    UsageError,
)
from symbiosis_core.wire import (
    Describe,
    Fetch,
    Hello,
    Refused,
    Reply,
    Request,
    Status,
    TensorPart,
    decode_reply,
    encode,
    header,
)
from symbiosis_transports.zmq_link import ControlClient, ControlServer


async def answer(request: Request, key: str) -> Reply:
    """A control plane in four lines: fetch is answered, hello is busy, describe refused, status never."""
    if isinstance(request, Fetch):
        return TensorPart(request.offset, 10, b"0123456789"[request.offset :])
    if isinstance(request, Hello):
        raise BusyError(RefusalCode.QUOTA, f"64 clients {key or 'of nobody'}", "wait", retry_after_s=2.5)
    raise RefusedError(RefusalCode.UNKNOWN_MODEL, "no such model", "ask for another")


class Served:
    """A control server in a thread."""

    def __init__(self, address: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = ControlServer(address, answer)
        self.server.open()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(self.server.serve())
        self.loop.run_forever()

    def close(self) -> None:
        async def end() -> None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.server.close()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s.sock"


@pytest.fixture
def served(address: str) -> Iterator[Served]:
    served = Served(address)
    yield served
    served.close()


def test_a_request_is_answered_with_its_own_kind(served: Served, address: str) -> None:
    with ControlClient(address) as client:
        for offset in range(5):
            part = client.ask(Fetch("m", "t", offset))
            assert isinstance(part, TensorPart)
            assert part.data == b"0123456789"[offset:]


def test_refusals_arrive_typed_and_the_conversation_goes_on(served: Served, address: str) -> None:
    with ControlClient(address) as client:
        with pytest.raises(RefusedError, match="ask for another") as refused:
            client.ask(Describe())
        assert refused.value.code is RefusalCode.UNKNOWN_MODEL
        with pytest.raises(BusyError) as busy:
            client.ask(Hello("me", "training"))
        assert busy.value.retry_after_s == 2.5
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)


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


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"x"], RefusalCode.MALFORMED),
        ([b"", b"", b""], RefusalCode.MALFORMED),
        ([b"HTTP/1.1", b"GET /"], RefusalCode.MALFORMED),
        ([header(99), b""], RefusalCode.VERSION),
        ([header(), b"\xc1"], RefusalCode.MALFORMED),
        (encode(Refused(RefusalCode.QUOTA, "a reply")), RefusalCode.MALFORMED),
    ],
)
def test_garbage_gets_a_refusal_and_the_daemon_lives(
    served: Served, address: str, frames: list[bytes], code: RefusalCode
) -> None:
    reply = send_raw(address, frames)
    assert isinstance(reply, Refused)
    assert reply.code is code
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)


def test_a_client_asks_no_socket_that_anybody_could_have_put_there(served: Served, address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match="chmod o-w"):
        ControlClient(address)
    path.parent.chmod(0o700)
    ControlClient(address).close()


def test_a_stale_socket_is_taken_over_and_the_new_one_is_private(address: str) -> None:
    path = Path(address.removeprefix("ipc://"))
    path.write_text("stale")
    served = Served(address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
    served.close()
    assert not path.exists()


def test_the_socket_is_private_from_its_first_moment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a chmod that somebody could be quicker than."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    served = Served(address)
    assert stat.S_IMODE(Path(address.removeprefix("ipc://")).stat().st_mode) == 0o600
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
