"""The promises of `ports`, as tests. They need no more than a class that pytest collects."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import ClassVar

from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    LocalProtocolError,
    RefusalCode,
    RefusedError,
    SymbiosisError,
)
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, ClientChannel, Transport
from symbiosis_transports.testing.apart import EchoProcess
from symbiosis_transports.testing.echo import ADD_ONE, HANG_UP, NEVER, REFUSE, TIMEOUT_S, EchoDaemon, add_one
from symbiosis_transports.testing.rows import address_of, get, put

__all__ = ["ChannelConformance"]


class ChannelConformance:
    """The promises of `ports`, as tests. Subclass it, set `transport`, and let pytest collect the class."""

    transport: ClassVar[Transport]
    processes: ClassVar[bool] = True
    """False where both ends must share a process."""
    apart: ClassVar[bool] = False
    """True where they must not, as on a device: then the transport is pickled."""

    def address(self, folder: object) -> str:
        """A control address that nobody uses. Overridden where a folder is none."""
        return f"ipc://{folder}/conformance.sock"

    @contextlib.contextmanager
    def daemon(self, folder: object, *, slots: int = 4) -> Iterator[tuple[EchoDaemon | EchoProcess, str]]:
        """An echo daemon at a fresh endpoint."""
        endpoint = self.transport.endpoint(self.address(folder))
        kind: type[EchoDaemon] | type[EchoProcess] = EchoProcess if self.apart else EchoDaemon
        daemon = kind(self.transport, endpoint, slots=slots)
        try:
            yield daemon, endpoint
        finally:
            daemon.close()

    def connect(self, endpoint: str, token: str = "good") -> ClientChannel:
        """A client's end."""
        return self.transport.connect(endpoint, Token(token), TIMEOUT_S)

    def test_an_answer_carries_the_rows_of_its_own_request(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            for size in (1, 63, 64, 65, 4096, channel.slot_bytes // 2):
                assert add_one(channel, bytes(range(256)) * (size // 256 + 1), size)
            channel.close()

    def test_no_rows_one_row_and_a_whole_slot_are_requests_like_any_other(self, tmp_path: object) -> None:
        """Rows in and out may be the same memory; behind the last byte begins nothing."""
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            end = channel.slot_bytes
            for size, at in ((0, 0), (1, 0), (end, 0), (1, end - 1), (0, end), (end, 0)):
                given = bytes((size + step) % 256 for step in range(size))
                put(channel, slot, at, given)
                call = Call(ADD_ONE, Direction.FORWARD, size, at, at, in_bytes=size, out_bytes=size)
                channel.publish(slot, call)
                channel.wait(slot, TIMEOUT_S)
                assert get(channel, slot, at, size) == bytes((byte + 1) % 256 for byte in given)
            channel.release(slot)
            assert add_one(channel, b"abc", 3)
            channel.close()

    def test_slots_are_independent_and_answered_in_any_order(self, tmp_path: object) -> None:
        with self.daemon(tmp_path, slots=8) as (_, endpoint):
            channel = self.connect(endpoint)
            order = random.Random(7)
            for _ in range(50):
                slots = [channel.lease_nowait() for _ in range(8)]
                for slot in slots:
                    put(channel, slot, 0, bytes([slot, 1, 2, 3]))
                    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 4, 0, 64))
                order.shuffle(slots)
                for slot in slots:
                    channel.wait(slot, TIMEOUT_S)
                    assert get(channel, slot, 64, 4) == bytes([slot + 1, 2, 3, 4])
                    channel.release(slot)
            channel.close()

    def test_every_slot_starts_at_a_cache_line(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            for _ in range(channel.slots):
                assert address_of(channel, channel.lease_nowait()) % 64 == 0
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

    def test_a_slot_is_given_back_once(self, tmp_path: object) -> None:
        with self.daemon(tmp_path, slots=2) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.release(slot)
            with raises(LocalProtocolError):
                channel.release(slot)
            assert channel.lease_nowait() != channel.lease_nowait()
            channel.close()

    def test_a_slot_that_the_daemon_has_is_leased_to_nobody(self, tmp_path: object) -> None:
        with self.daemon(tmp_path, slots=2) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64))
            with raises(DaemonSilentError):
                channel.wait(slot, 0.05)
            with raises(LocalProtocolError):
                channel.release(slot)
            assert channel.lease_nowait() != slot
            with raises(BusyError):
                channel.lease_nowait()
            channel.close()

    def test_nothing_can_be_done_with_a_closed_channel(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot, unanswered = channel.lease_nowait(), channel.lease_nowait()
            for one, op in ((slot, ADD_ONE), (unanswered, NEVER)):
                channel.publish(one, Call(op, Direction.FORWARD, 1, 0, 64))
            channel.wait(slot, TIMEOUT_S)
            channel.close()
            for one in (slot, unanswered):
                with raises(ClosedError):
                    channel.wait(one, TIMEOUT_S)
                with raises(ClosedError):
                    channel.publish(one, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64))
                channel.release(one)

    def test_a_refusal_is_typed_and_leaves_the_channel_usable(self, tmp_path: object) -> None:
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(REFUSE, Direction.BACKWARD, 1, 0, 64))
            with raises(RefusedError) as caught:
                channel.wait(slot, TIMEOUT_S)
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
        """Then the channel is over: nothing can be published any more, and every slot be given back."""
        with self.daemon(tmp_path) as (_, endpoint):
            channel = self.connect(endpoint)
            slot = channel.lease_nowait()
            channel.publish(slot, Call(HANG_UP, Direction.FORWARD, 1, 0, 64))
            with raises(DaemonGoneError) as caught:
                channel.wait(slot, TIMEOUT_S)
            assert "asked to hang up" in str(caught.error)
            with raises(SymbiosisError):
                channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 1, 0, 64))
            channel.release(slot)
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
            assert (daemon.left, daemon.inside) == (1, 1)
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
                thread.join(TIMEOUT_S)
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
                assert ours.poll(TIMEOUT_S), "the client process did not start"
                assert ours.recv() == "holding"
                victim.kill()
                victim.join(TIMEOUT_S)
                assert add_one(stayer, b"abc", 3)
            daemon.wait_until_gone(3)
            assert daemon.inside == 1
            stayer.close()


def _hold_slots(transport: Transport, endpoint: str, pipe: Connection) -> None:
    """A client that dies with every slot in the daemon's hands."""
    channel = transport.connect(endpoint, Token("good"), TIMEOUT_S)
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
