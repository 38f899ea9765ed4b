"""A transport that does not work after all is left for the next one, and status says why.

The data socket of a living daemon is taken away, or somebody else stands in its place; what CUDA IPC says where it
does not work is said by a transport that is broken on purpose.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_adapters.connection import attaching
from symbiosis_core.errors import BusyError, DaemonGoneError, RefusalCode, RefusedError, UsageError
from symbiosis_transports.ports import Peer
from symbiosis_transports.posix_shm import knock
from symbiosis_transports.registry import transport
from tests.e2e.daemon_process import DaemonProcess


class Broken:
    """A transport that negotiates well, and cannot be opened: what CUDA IPC does in many a container."""

    def __init__(self, name: str) -> None:
        self._inner = transport(name)
        self.name = name
        self.tried = 0

    def connect(self, *_: object) -> Any:
        self.tried += 1
        raise RefusedError(RefusalCode.NO_TRANSPORT, f"{self.name} cannot be opened here")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def break_some(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Broken]:
    broken = {name: Broken(name) for name in names}
    monkeypatch.setattr(attaching, "transport", lambda name: broken.get(name) or transport(name))
    return list(broken.values())


def test_the_next_transport_is_taken_and_the_reason_told(
    tiny_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_some(monkeypatch, "posix_shm")
    model = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, name="fallen")
    (seat,) = [client for client in tiny_daemon.status().clients if client.name == "fallen"]
    assert seat.transport == "zmq_ipc"
    assert "posix_shm: posix_shm cannot be opened here" in seat.reasons
    assert "cuda_ipc: the daemon's weights are on the cpu" in seat.reasons
    model.symbiosis.close()


def test_where_none_is_left_the_last_reason_is_the_error(
    tiny_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = break_some(monkeypatch, "posix_shm", "inproc", "zmq_ipc")
    with pytest.raises(RefusedError, match="posix_shm cannot be opened here"):
        AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    assert sum(each.tried for each in broken) == 2  # inproc is not possible in the first place


@contextlib.contextmanager
def away(path: Path) -> Iterator[None]:
    """Nobody finds what stands there, until it is back."""
    aside = path.with_name(f"{path.name}.away")
    path.rename(aside)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@pytest.mark.parametrize("usurped", [False, True], ids=["nothing there", "no daemon's"])
def test_a_data_socket_that_cannot_be_used_is_left_for_zeromq(
    tiny_daemon: DaemonProcess, caplog: pytest.LogCaptureFixture, usurped: bool
) -> None:
    data = tiny_daemon.folder / "d.sock.data"
    with contextlib.ExitStack() as until_then:
        until_then.enter_context(away(data))
        if usurped:
            stranger = until_then.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            stranger.bind(str(data))
            stranger.listen()
        with caplog.at_level(logging.WARNING):
            model = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, name="around")
    (seat,) = [client for client in tiny_daemon.status().clients if client.name == "around"]
    assert seat.transport == "zmq_ipc"
    (reason,) = [reason for reason in seat.reasons if reason.startswith("posix_shm: ")]
    assert "chosen" not in reason
    assert any("another transport is used" in line and "posix_shm" in line for line in caplog.messages)
    model.symbiosis.close()


def test_a_data_socket_of_another_user_is_not_gone_round(
    tiny_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knock, "peer_of", lambda sock: Peer(1, os.getuid() + 1))
    with pytest.raises(UsageError, match=f"belongs to user {os.getuid() + 1}"):
        AutoModelForCausalLM.from_pretrained(tiny_daemon.address)


def in_the_pause(monkeypatch: pytest.MonkeyPatch, then: Callable[[float], None]) -> None:
    """Lets something happen where a client pauses before it tries a shut door again."""
    monkeypatch.setattr(attaching, "time", SimpleNamespace(sleep=then))


@pytest.fixture
def crowded_daemon(tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with a place for one client of each user."""
    file = tmp_path / "daemon.toml"
    file.write_text("[lanes.training]\npriority = 0\nmax_clients_per_user = 1\n")
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


def test_one_place_is_enough_to_go_round_a_shut_door(
    crowded_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried twice, it has cost no place. Where the place is taken meanwhile, the door is the error."""
    data, zmq = (crowded_daemon.folder / f"d.sock.{name}" for name in ("data", "zmq"))
    with away(data):
        with away(zmq), pytest.raises(DaemonGoneError):
            AutoModelForCausalLM.from_pretrained(crowded_daemon.address, lane="training")
        model = AutoModelForCausalLM.from_pretrained(crowded_daemon.address, lane="training")
    (seat,) = crowded_daemon.status().clients
    assert seat.transport == "zmq_ipc"
    model.symbiosis.close()
    crowded_daemon.wait_status(lambda status: not status.clients, "the place is free")
    came: list[Any] = []

    def another_comes(_: float) -> None:
        in_the_pause(monkeypatch, lambda _: None)
        came.append(AutoModelForCausalLM.from_pretrained(crowded_daemon.address, lane="training", name="same"))

    in_the_pause(monkeypatch, another_comes)
    with away(data), pytest.raises(DaemonGoneError):
        AutoModelForCausalLM.from_pretrained(crowded_daemon.address, lane="training", name="same")
    came[0].symbiosis.close()


class Overtaken(Broken):
    """Before it connects, somebody else of the process asks for a place."""

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        super().__init__(name)
        self._ask = ask

    def connect(self, *arguments: Any) -> Any:
        self._ask()
        return self._inner.connect(*arguments)


def test_a_thread_that_is_refused_takes_no_place_from_another_that_is_on_its_way(
    crowded_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same process, user and name, and into the same lane."""

    def come() -> Any:
        return AutoModelForCausalLM.from_pretrained(crowded_daemon.address, lane="training", name="same")

    def refused() -> None:
        with pytest.raises(BusyError, match="max_clients_per_user"):
            come()

    overtaken = Overtaken("posix_shm", refused)
    monkeypatch.setattr(
        attaching, "transport", lambda name: overtaken if name == overtaken.name else transport(name)
    )
    model = come()
    assert [seat.name for seat in crowded_daemon.status().clients] == ["same"]
    model.symbiosis.close()


def test_a_door_that_is_shut_for_a_moment_is_tried_again_a_moment_later(
    tiny_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_then = contextlib.ExitStack()
    until_then.enter_context(away(tiny_daemon.folder / "d.sock.data"))
    in_the_pause(monkeypatch, lambda _: until_then.close())
    model = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, name="patient")
    (seat,) = [client for client in tiny_daemon.status().clients if client.name == "patient"]
    assert seat.transport == "posix_shm"
    model.symbiosis.close()


def test_where_no_other_is_left_the_daemon_counts_as_gone(
    tiny_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a session with `reconnect_s` goes on waiting for it."""
    data, zmq = (tiny_daemon.folder / f"d.sock.{name}" for name in ("data", "zmq"))
    with away(data), away(zmq), pytest.raises(DaemonGoneError):
        AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    model = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, name="later")
    (seat,) = [client for client in tiny_daemon.status().clients if client.name == "later"]
    assert seat.transport == "posix_shm"
    model.symbiosis.close()
