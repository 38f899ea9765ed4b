"""The public conformance suite: what `ports` promises, checked over any transport, in threads and processes.

A backend's whole test file:

    class TestMyTransport(ChannelConformance):
        transport = TRANSPORT
        processes = True          # False where both ends must share a process

`EchoDaemon` is a real daemon end with the smallest possible service; `FaultyChannel` fails its n-th operation,
for anomaly loops over whatever is built on a channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import ClassVar, TypeVar

from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
)
from symbiosis_core.ids import ClientId, OpId, SlotIndex, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import (
    Arrival,
    Call,
    ChannelStatistics,
    ClientChannel,
    Grant,
    Peer,
    ServerChannel,
    Transport,
)

__all__ = ["ChannelConformance", "EchoDaemon", "FaultyChannel"]

T = TypeVar("T")

ADD_ONE, REFUSE, NEVER, HANG_UP = OpId(0), OpId(1), OpId(2), OpId(3)
"""What the echo daemon does with a call: add one to every byte, refuse it, ignore it, or drop the client."""
_TIMEOUT_S = 20.0


class EchoDaemon:
    """The daemon's end of a transport with a trivial service, in a thread of its own.

    Serves batches in reverse order of arrival, so that nobody can rely on the order of answers.
    """

    def __init__(self, transport: Transport, endpoint: str, *, slots: int = 4, slot_bytes: int = 1 << 16) -> None:
        self.channels: dict[ClientId, ServerChannel] = {}
        self.goodbyes: list[tuple[ClientId, str]] = []
        self.served = 0
        self.changed = threading.Condition()
        self._slots, self._slot_bytes = slots, slot_bytes
        self._endpoint = endpoint
        self._loop = asyncio.new_event_loop()
        self._clients = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="echo-daemon", daemon=True)
        self._thread.start()
        try:
            self._listener = self._call(lambda: transport.listen(self._loop, endpoint, self))
        except BaseException:
            self._end_thread()
            raise

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """Takes every token but `bad`."""
        if token == "bad" or peer.uid not in (None, os.getuid()):
            raise RefusedError(RefusalCode.BAD_TOKEN, "the token is unknown", "say hello again")
        self._clients += 1
        return Grant(ClientId(self._clients), self._slots, self._slot_bytes)

    def lend(self, peer: Peer, model: str) -> int:
        """See `Host.lend`. An echo has no weights."""
        raise RefusedError(RefusalCode.NOT_LENT, "there are no weights here")

    def abandoned(self, grant: Grant) -> None:
        """A client left during its handshake."""
        with self.changed:
            self.goodbyes.append((grant.client, "abandoned"))
            self.changed.notify_all()

    def attached(self, channel: ServerChannel) -> None:
        """A client has connected."""
        with self.changed:
            self.channels[channel.client] = channel
            self.changed.notify_all()

    def ready(self, channel: ServerChannel) -> None:
        """Serves until nothing is left, then arms again."""
        channel.disarm()
        try:
            while True:
                for arrival in reversed(channel.take()):
                    self._serve(channel, arrival)
                channel.ring()
                if channel.arm():
                    return
        except RemoteProtocolError as error:
            channel.close(str(error), breach=True)
            self.gone(channel, str(error))

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """A client has left."""
        with self.changed:
            self.channels.pop(channel.client, None)
            self.goodbyes.append((channel.client, reason))
            self.changed.notify_all()

    def wait_until_gone(self, clients: int = 1) -> None:
        """Blocks until so many clients have left."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.goodbyes) >= clients, _TIMEOUT_S)

    def hang_up(self, reason: str) -> None:
        """Closes every channel, as a daemon that stops does."""
        self._call(lambda: self._close_all(reason))

    def close(self) -> None:
        """Stops listening, hangs up and ends the thread."""
        if not self._thread.is_alive():
            return
        self._call(self._listener.close)
        self.hang_up("the echo daemon stops")
        self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_S)
        self._loop.close()

    def _close_all(self, reason: str) -> None:
        for channel in self.channels.values():
            channel.close(reason)

    def _serve(self, channel: ServerChannel, arrival: Arrival) -> None:
        call = arrival.call
        if call.op == REFUSE:
            channel.answer(arrival.slot, arrival.generation, RefusalCode.BAD_ROWS)
        elif call.op == HANG_UP:
            channel.close("asked to hang up")
            self.gone(channel, "asked to hang up")
        elif call.op == ADD_ONE:
            rows = channel.buffer(arrival.slot)
            took = bytes(rows[call.in_offset : call.in_offset + call.rows])
            rows[call.out_offset : call.out_offset + call.rows] = bytes((byte + 1) % 256 for byte in took)
            self.served += 1
            channel.answer(arrival.slot, arrival.generation)

    def _call(self, function: Callable[[], T]) -> T:
        """Runs `function` in the daemon's thread and returns what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_TIMEOUT_S)


class FaultyChannel:
    """A client channel whose n-th operation fails as if the daemon had died. For anomaly loops."""

    def __init__(self, inner: ClientChannel, fail_at: int) -> None:
        self._inner = inner
        self._left = fail_at
        self.failed = False

    @property
    def slots(self) -> int:
        """As the inner channel."""
        return self._inner.slots

    @property
    def slot_bytes(self) -> int:
        """As the inner channel."""
        return self._inner.slot_bytes

    def lease_nowait(self) -> SlotIndex:
        """May fail."""
        self._count()
        return self._inner.lease_nowait()

    def buffer(self, slot: SlotIndex) -> memoryview:
        """Never fails."""
        return self._inner.buffer(slot)

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """May fail."""
        self._count()
        self._inner.publish(slot, call)

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """May fail."""
        self._count()
        self._inner.wait(slot, timeout_s)

    def release(self, slot: SlotIndex) -> None:
        """Never fails."""
        self._inner.release(slot)

    def close(self) -> None:
        """Never fails."""
        self._inner.close()

    def statistics(self) -> ChannelStatistics:
        """As the inner channel."""
        return self._inner.statistics()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.failed = True
            self._inner.close()
            raise DaemonGoneError("faulty", "this operation was chosen to fail")


class ChannelConformance:
    """The promises of `ports`, as tests. Subclass it, set `transport`, and let pytest collect the class."""

    transport: ClassVar[Transport]
    processes: ClassVar[bool] = True

    def address(self, folder: object) -> str:
        """A control address that nobody uses. Overridden where a folder is none."""
        return f"ipc://{folder}/conformance.sock"

    @contextlib.contextmanager
    def daemon(self, folder: object, *, slots: int = 4) -> Iterator[tuple[EchoDaemon, str]]:
        """An echo daemon at a fresh endpoint."""
        endpoint = self.transport.endpoint(self.address(folder))
        daemon = EchoDaemon(self.transport, endpoint, slots=slots)
        try:
            yield daemon, endpoint
        finally:
            daemon.close()

    def connect(self, endpoint: str, token: str = "good") -> ClientChannel:
        """A client's end."""
        return self.transport.connect(endpoint, Token(token), _TIMEOUT_S)

    def test_an_answer_carries_the_rows_of_its_own_request(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            for size in (1, 63, 64, 65, 4096, channel.slot_bytes // 2):
                assert add_one(channel, bytes(range(256)) * (size // 256 + 1), size)
            channel.close()

    def test_slots_are_independent_and_answered_in_any_order(self, tmp_path: object) -> None:
        with self.daemon(tmp_path, slots=8) as (_, endpoint):
            channel = self.connect(endpoint)
            order = random.Random(7)
            for _ in range(50):
                slots = [channel.lease_nowait() for _ in range(8)]
                for slot in slots:
                    channel.buffer(slot)[:4] = bytes([slot, 1, 2, 3])
                    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 4, 0, 64))
                order.shuffle(slots)
                for slot in slots:
                    channel.wait(slot, _TIMEOUT_S)
                    assert bytes(channel.buffer(slot)[64:68]) == bytes([slot + 1, 2, 3, 4])
                    channel.release(slot)
            channel.close()

    def test_every_slot_starts_at_a_cache_line(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            for _ in range(channel.slots):
                buffer = channel.buffer(channel.lease_nowait())
                assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % 64 == 0
            channel.close()

    def test_a_client_that_holds_all_slots_is_told_so_and_can_go_on(self, tmp_path: object) -> None:
        with self.daemon(tmp_path, slots=2) as (_, endpoint):
            channel = self.connect(endpoint)
            first, second = channel.lease_nowait(), channel.lease_nowait()
            assert first != second
            with raises(BusyError):
                channel.lease_nowait()
            channel.release(first)
            assert channel.lease_nowait() == first
            channel.close()

    def test_a_refusal_is_typed_and_leaves_the_channel_usable(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(REFUSE, Direction.BACKWARD, 1, 0, 64))
            with raises(RefusedError) as caught:
                channel.wait(slot, _TIMEOUT_S)
            assert isinstance(caught.error, RefusedError)
            assert caught.error.code is RefusalCode.BAD_ROWS
            channel.release(slot)
            assert add_one(channel, b"abc", 3)
            channel.close()

    def test_a_bad_token_is_refused_and_the_door_stays_open(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            with raises(RefusedError):
                self.connect(endpoint, "bad")
            channel = self.connect(endpoint)
            assert add_one(channel, b"abc", 3)
            channel.close()

    def test_nobody_at_the_endpoint_is_said_at_once(self, tmp_path: object) -> None:
        with raises(DaemonGoneError):
            self.connect(self.transport.endpoint(self.address(tmp_path)))

    def test_a_daemon_that_stops_is_noticed_by_a_waiting_client(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(HANG_UP, Direction.FORWARD, 1, 0, 64))
            with raises(DaemonGoneError) as caught:
                channel.wait(slot, _TIMEOUT_S)
            assert "asked to hang up" in str(caught.error)
            channel.close()

    def test_no_answer_within_the_limit_is_silence_and_not_death(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64))
            with raises(DaemonSilentError):
                channel.wait(slot, 0.05)
            assert add_one(channel, b"abc", 3)
            channel.close()

    def test_a_client_that_leaves_is_reported_once_and_frees_its_channel(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (daemon, endpoint):
            leaver, stayer = self.connect(endpoint), self.connect(endpoint)
            leaver.close()
            leaver.close()
            daemon.wait_until_gone()
            assert add_one(stayer, b"abc", 3)
            assert len(daemon.goodbyes) == 1
            assert len(daemon.channels) == 1
            with raises(ClosedError):
                leaver.lease_nowait()
            stayer.close()

    def test_many_clients_at_once_get_their_own_answers(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            wrong: list[str] = []

            def work(seed: int) -> None:
                channel = self.connect(endpoint)
                for step in range(200):
                    if not add_one(channel, bytes([seed, step % 256, 9]), 3):
                        wrong.append(f"client {seed} step {step}")
                channel.close()

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(_TIMEOUT_S)
            assert not wrong
            assert not any(thread.is_alive() for thread in threads)

    def test_killed_clients_are_reported_and_others_go_on(self, tmp_path: object) -> None:
        if not self.processes:
            return
        with self.daemon(tmp_path) as (daemon, endpoint):
            stayer = self.connect(endpoint)
            spawn = multiprocessing.get_context("spawn")
            for _ in range(3):
                ours, theirs = spawn.Pipe()
                victim = spawn.Process(target=_hold_slots, args=(self.transport, endpoint, theirs))
                victim.start()
                assert ours.poll(_TIMEOUT_S), "the client process did not start"
                assert ours.recv() == "holding"
                victim.kill()
                victim.join(_TIMEOUT_S)
                assert add_one(stayer, b"abc", 3)
            daemon.wait_until_gone(3)
            assert len(daemon.channels) == 1
            stayer.close()


def add_one(channel: ClientChannel, data: bytes, size: int) -> bool:
    """One round trip through the echo daemon; true when the answer is right."""
    slot = channel.lease_nowait()
    at = -(-size // 64) * 64
    channel.buffer(slot)[:size] = data[:size]
    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, size, 0, at, in_bytes=size, out_bytes=size))
    channel.wait(slot, _TIMEOUT_S)
    answer = bytes(channel.buffer(slot)[at : at + size])
    channel.release(slot)
    return answer == bytes((byte + 1) % 256 for byte in data[:size])


def _hold_slots(transport: Transport, endpoint: str, pipe: Connection) -> None:
    """A client that dies with every slot in the daemon's hands."""
    channel = transport.connect(endpoint, Token("good"), _TIMEOUT_S)
    for _ in range(channel.slots):
        slot = channel.lease_nowait()
        channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64))
    pipe.send("holding")
    threading.Event().wait()


class raises:  # noqa: N801 - reads as pytest.raises does, without making pytest a dependency
    """Expects exactly one kind of error."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind
        self.error: BaseException | None = None

    def __enter__(self) -> raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        assert kind is not None, f"{self._kind.__name__} was not raised"
        self.error = error
        return issubclass(kind, self._kind)
