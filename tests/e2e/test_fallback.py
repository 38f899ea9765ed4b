"""A transport that does not work after all is left for the next one, and status says why."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_adapters import AutoModelForCausalLM, attaching
from symbiosis_core.errors import RefusalCode, RefusedError
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
